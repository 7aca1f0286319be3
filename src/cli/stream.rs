//! Reads the ledger's lists, `{"name":[…]}`, while they arrive: memory is limited to one element,
//! and a response that ends early is never mistaken for a complete one.

use crate::cli::at::At;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::table::TextTable;
use crate::cli::text::clean;
use crate::client::http::{Http, next_page};
use reqwest::{Response, Url};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::value::RawValue;

/// The elements of a list, from page to page.
pub struct ListStream<'l> {
    http: &'l Http,
    at: &'l At,
    /// The member that contains the elements.
    name: &'static str,
    left: u64,
    next: Option<Url>,
    open: Option<(Response, ListSplitter)>,
}

/// The ledger's own limit of a page.
const PAGE_MAX: u64 = 1000;

impl<'l> ListStream<'l> {
    /// Without a limit, the list is one page.
    pub fn new(
        http: &'l Http,
        mut url: Url,
        name: &'static str,
        at: &'l At,
        limit: Option<u64>,
    ) -> ListStream<'l> {
        if let Some(limit) = limit {
            let page = limit.min(PAGE_MAX).to_string();
            url.query_pairs_mut().append_pair("limit", &page);
        }
        ListStream {
            http,
            at,
            name,
            left: limit.unwrap_or(u64::MAX),
            next: Some(url),
            open: None,
        }
    }

    /// The JSON of the next element.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        while self.left > 0 {
            let Some((response, splitter)) = &mut self.open else {
                let Some(url) = self.next.take() else {
                    return Ok(None);
                };
                let request = self.at.apply(self.http.get(url.clone()));
                let response = self.http.send(request).await?;
                self.next = next_page(&url, &response);
                self.open = Some((response, ListSplitter::new(self.name)));
                continue;
            };
            if let Some(element) = splitter.next()? {
                self.left -= 1;
                return Ok(Some(element));
            }
            match self.http.piece(response).await? {
                Some(piece) => splitter.push(&piece),
                None if !splitter.has_ended => splitter.has_ended = true,
                None if splitter.is_complete()? => self.open = None,
                None => return Err(self.http.broken_off("the end is missing").into()),
            }
        }
        Ok(None)
    }

    /// Prints one JSON document with the elements as the ledger wrote them.
    pub async fn print_json(mut self, out: &mut Output) -> Result<(), Failure> {
        out.write(format!("{{\"{}\":[", self.name))?;
        let mut comma = "";
        while let Some(element) = self.next().await? {
            out.write(comma)?;
            out.json(&element)?;
            comma = ",";
        }
        out.line("]}")?;
        out.flush()
    }

    /// Prints each element, a string, on a line. Returns whether there was any.
    pub async fn print_lines(self, out: &mut Output) -> Result<bool, Failure> {
        let print = |element: String, out: &mut Output| out.line(clean(&element));
        let outcome = self.for_each(out, print).await;
        // Shows the elements that arrived before a response broke off.
        out.flush()?;
        outcome
    }

    /// Prints a row for each element. Returns whether there was any.
    pub async fn print_table<T: DeserializeOwned, const N: usize>(
        self,
        mut table: TextTable<N>,
        out: &mut Output,
        row: impl Fn(T) -> [String; N],
    ) -> Result<bool, Failure> {
        let print = |element, out: &mut Output| table.add(row(element), out);
        let outcome = self.for_each(out, print).await;
        table.finish(out)?;
        out.flush()?;
        outcome
    }

    async fn for_each<T: DeserializeOwned>(
        mut self,
        out: &mut Output,
        mut print: impl FnMut(T, &mut Output) -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        let mut is_any = false;
        while let Some(element) = self.next().await? {
            let element = serde_json::from_slice(&element).map_err(|_| {
                let name = self.name;
                Failure::Unexpected(format!("{name}: the list has an entry that cannot be read"))
            })?;
            print(element, out)?;
            is_any = true;
        }
        Ok(is_any)
    }
}

/// Splits `{"name":[a,b,…]}`, in whatever pieces it arrives, into its elements.
struct ListSplitter {
    name: &'static str,
    text: Vec<u8>,
    /// The number of its bytes that were returned.
    used: usize,
    has_begun: bool,
    /// The last element was followed by a comma.
    needs_element: bool,
    /// The length at which an unfinished element is parsed again. It doubles, so that a large
    /// element is not parsed for every piece of it.
    wanted: usize,
    /// No more pieces will arrive.
    has_ended: bool,
}

impl ListSplitter {
    fn new(name: &'static str) -> ListSplitter {
        ListSplitter {
            name,
            text: Vec::new(),
            used: 0,
            has_begun: false,
            needs_element: false,
            wanted: 0,
            has_ended: false,
        }
    }

    fn push(&mut self, piece: &[u8]) {
        self.text.drain(..std::mem::take(&mut self.used));
        self.text.extend_from_slice(piece);
    }

    /// `None` if the next element is not complete, or there is none.
    fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        if !self.has_begun && !self.begin()? {
            return Ok(None);
        }
        let rest = self.text[self.used..].trim_ascii_start();
        let is_last = !self.needs_element && rest.starts_with(b"]");
        if is_last || rest.is_empty() || (rest.len() < self.wanted && !self.has_ended) {
            return Ok(None);
        }
        let mut elements = serde_json::Deserializer::from_slice(rest).into_iter::<&RawValue>();
        let element = match elements.next() {
            Some(Ok(element)) => element.get().as_bytes().to_vec(),
            Some(Err(error)) if !error.is_eof() => return Err(self.not_a_list()),
            Some(Err(_)) | None => {
                self.wanted = 2 * rest.len();
                return Ok(None);
            }
        };
        let after = rest[elements.byte_offset()..].trim_ascii_start();
        self.needs_element = match after.first() {
            // A number could continue.
            None => return Ok(None),
            Some(b',') => true,
            Some(b']') => false,
            Some(_) => return Err(self.not_a_list()),
        };
        self.used = self.text.len() - after.len() + usize::from(self.needs_element);
        self.wanted = 0;
        Ok(Some(element))
    }

    /// Takes `{"name":[`, if it is there.
    fn begin(&mut self) -> Result<bool, Failure> {
        let expected = format!("{{\"{}\":[", self.name).into_bytes();
        let bracket = self.text.iter().position(|byte| *byte == b'[');
        let mut head = match bracket {
            Some(at) => self.text[..=at].to_vec(),
            None => self.text.clone(),
        };
        head.retain(|byte| !byte.is_ascii_whitespace());
        if head != expected[..head.len().min(expected.len())] {
            return Err(self.not_a_list());
        }
        self.has_begun = bracket.is_some();
        self.used = bracket.map_or(0, |at| at + 1);
        Ok(self.has_begun)
    }

    /// Whether the list ends where the text ends. Its object may have further members.
    fn is_complete(&self) -> Result<bool, Failure> {
        let rest = self.text[self.used..].trim_ascii_start();
        if !self.has_begun || self.needs_element || !rest.starts_with(b"]") {
            return Ok(false);
        }
        match serde_json::from_slice::<IgnoredAny>(&[b"{\"\":[", rest].concat()) {
            Ok(_) => Ok(true),
            Err(error) if error.is_eof() => Ok(false),
            Err(_) => Err(self.not_a_list()),
        }
    }

    fn not_a_list(&self) -> Failure {
        Failure::Unexpected(format!("the response is not a list of {}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str, piece_len: usize) -> Result<(Vec<String>, bool), Failure> {
        let mut found = Vec::new();
        let mut splitter = ListSplitter::new("operations");
        let mut pieces = text.as_bytes().chunks(piece_len);
        loop {
            while let Some(element) = splitter.next()? {
                found.push(String::from_utf8(element).unwrap());
            }
            match pieces.next() {
                Some(piece) => splitter.push(piece),
                None if !splitter.has_ended => splitter.has_ended = true,
                None => return Ok((found, splitter.is_complete()?)),
            }
        }
    }

    #[test]
    fn elements_are_found_in_pieces_of_any_length() {
        let cases: [(&str, &[&str]); 6] = [
            (r#"{"operations":[]}"#, &[]),
            (" { \"operations\" : [ \n ] } \n", &[]),
            (r#"{"operations":["a","b"]}"#, &[r#""a""#, r#""b""#]),
            (
                r#"{"operations":[{"a":[1,{"b":[]}]} , {"c":"]},{\"\\"}]}"#,
                &[r#"{"a":[1,{"b":[]}]}"#, r#"{"c":"]},{\"\\"}"#],
            ),
            (r#"{"operations":[1],"more":{"x":["}"]}}"#, &["1"]),
            (r#"{"operations":["ü\u005d"]}"#, &[r#""ü\u005d""#]),
        ];
        for (text, expected) in cases {
            for piece_len in 1..=text.len() {
                let (found, complete) = split(text, piece_len).unwrap();
                assert_eq!(found, expected, "{text} by {piece_len}");
                assert!(complete, "{text} by {piece_len}");
            }
        }
    }

    #[test]
    fn a_part_is_not_the_whole() {
        let text = r#"{"operations":[{"a":"}]}"},{"b":1}]}"#;
        for len in 0..text.len() {
            let (_, complete) = split(&text[..len], 5).unwrap();
            assert!(!complete, "{}", &text[..len]);
        }
    }

    #[test]
    fn other_responses_are_errors() {
        for text in [
            "<html>this is another server</html>",
            r#"["a"]"#,
            r#"{"events":[]}"#,
            r#"{"operations":[1,,2]}"#,
            r#"{"operations":[}]}"#,
            r#"{"operations":[]}x"#,
        ] {
            assert!(split(text, 3).is_err(), "{text}");
        }
    }
}
