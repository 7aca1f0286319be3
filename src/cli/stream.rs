//! Reading the ledger's long answers, `{"name":[…]}`, while they arrive: memory
//! is bounded by one element, and an answer that ends early is never taken for
//! the whole.

use crate::cli::at::At;
use crate::cli::client::{LedgerClient, next_page};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use reqwest::{Response, Url};

/// Which elements of which list: all of them, or the first so many.
pub struct ListStream<'l> {
    pub ledger: &'l LedgerClient,
    pub url: Url,
    pub at: &'l At,
    /// The member that holds the elements.
    pub name: &'static str,
    pub limit: Option<u64>,
}

/// The ledger's own bound on a page.
const PAGE_MAX: u64 = 1000;

impl ListStream<'_> {
    /// Calls `element` with the JSON text of each, from page to page.
    pub async fn read(
        self,
        mut element: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut url = self.url;
        let mut left = u64::MAX;
        if let Some(limit) = self.limit {
            let page = limit.min(PAGE_MAX).to_string();
            url.query_pairs_mut().append_pair("limit", &page);
            left = limit;
        }
        let mut next = Some(url);
        while let Some(url) = next.filter(|_| left > 0) {
            let request = self.at.apply(self.ledger.get(url.clone()));
            let response = self.ledger.send(request).await?;
            next = next_page(&url, &response);
            elements(self.ledger, response, self.name, |text| {
                match left.checked_sub(1) {
                    None => Ok(()),
                    Some(fewer) => {
                        left = fewer;
                        element(text)
                    }
                }
            })
            .await?;
        }
        Ok(())
    }

    /// Prints it as one JSON text, whose elements are as the ledger wrote them.
    pub async fn print_json(self, out: &mut Output) -> Result<(), Failure> {
        let mut before = format!("{{\"{}\":[", self.name);
        self.read(|element| {
            out.write(&before)?;
            before = ",".into();
            out.json(element)
        })
        .await?;
        if before.len() > 1 {
            out.write(&before)?;
        }
        out.line("]}")?;
        out.flush()
    }
}

/// Calls `element` with the JSON text of each element of one answer.
async fn elements(
    ledger: &LedgerClient,
    mut response: Response,
    name: &'static str,
    mut element: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut splitter = EntrySplitter::new(name);
    while let Some(piece) = ledger.piece(&mut response).await? {
        splitter.feed(&piece, &mut element)?;
    }
    complete(&splitter, ledger)
}

fn complete(splitter: &EntrySplitter, ledger: &LedgerClient) -> Result<(), Failure> {
    if splitter.is_complete() {
        return Ok(());
    }
    Err(ledger.broken_off("the end is missing"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Before the `[`.
    Head,
    Elements,
    /// Between the `]` and the last `}`.
    Tail,
    Done,
}

/// Cuts `{"name":[a,b,…]}`, in whatever pieces it arrives, into its elements.
/// It only finds where they end; whether each is JSON is for the reader of it.
pub struct EntrySplitter {
    name: &'static str,
    stage: Stage,
    /// What of the head, or of an element, came in earlier pieces.
    held: Vec<u8>,
    /// Open brackets within the element.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl EntrySplitter {
    pub fn new(name: &'static str) -> EntrySplitter {
        EntrySplitter {
            name,
            stage: Stage::Head,
            held: Vec::new(),
            depth: 0,
            in_string: false,
            is_escaped: false,
        }
    }

    pub fn feed(
        &mut self,
        piece: &[u8],
        mut element: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        // Where the part of the current element in this piece begins.
        let mut from = 0;
        for (i, &byte) in piece.iter().enumerate() {
            match self.stage {
                Stage::Head if byte == b'[' => {
                    self.check_head()?;
                    self.stage = Stage::Elements;
                    from = i + 1;
                }
                Stage::Head => self.hold_head(byte)?,
                Stage::Elements => {
                    if self.is_inside(byte) {
                        continue;
                    }
                    let ended = match (self.depth, byte) {
                        (0, b',') => Stage::Elements,
                        (0, b']') => Stage::Tail,
                        (_, b']' | b'}') => {
                            self.depth = self.depth.checked_sub(1).ok_or_else(|| self.other())?;
                            continue;
                        }
                        _ => continue,
                    };
                    self.end_element(&piece[from..i], ended, &mut element)?;
                    self.stage = ended;
                    from = i + 1;
                }
                Stage::Tail => {
                    if self.is_inside(byte) {
                        continue;
                    }
                    match (self.depth, byte) {
                        (0, b'}') => self.stage = Stage::Done,
                        (_, b']' | b'}') => {
                            self.depth = self.depth.checked_sub(1).ok_or_else(|| self.other())?;
                        }
                        _ => {}
                    }
                }
                Stage::Done if byte.is_ascii_whitespace() => {}
                Stage::Done => return Err(self.other()),
            }
        }
        if self.stage == Stage::Elements {
            self.held.extend_from_slice(&piece[from..]);
        }
        Ok(())
    }

    pub fn is_complete(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Follows strings and opening brackets. `false` for bytes that may end
    /// something.
    fn is_inside(&mut self, byte: u8) -> bool {
        if self.in_string {
            if self.is_escaped {
                self.is_escaped = false;
            } else if byte == b'\\' {
                self.is_escaped = true;
            } else if byte == b'"' {
                self.in_string = false;
            }
            return true;
        }
        match byte {
            b'"' => self.in_string = true,
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' | b',' => return false,
            _ => {}
        }
        true
    }

    fn end_element(
        &mut self,
        rest: &[u8],
        ended: Stage,
        element: &mut impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let whole = if self.held.is_empty() {
            rest
        } else {
            self.held.extend_from_slice(rest);
            &self.held
        };
        let text = whole.trim_ascii();
        // Nothing between the brackets is an empty list.
        if !text.is_empty() {
            element(text)?;
        } else if ended == Stage::Elements {
            return Err(self.other());
        }
        self.held.clear();
        Ok(())
    }

    fn hold_head(&mut self, byte: u8) -> Result<(), Failure> {
        if !byte.is_ascii_whitespace() {
            self.held.push(byte);
        }
        // `{"name":` is all that may stand there.
        if self.held.len() > self.name.len() + 4 {
            return Err(self.other());
        }
        Ok(())
    }

    fn check_head(&mut self) -> Result<(), Failure> {
        if self.held != format!("{{\"{}\":", self.name).into_bytes() {
            return Err(self.other());
        }
        self.held.clear();
        Ok(())
    }

    fn other(&self) -> Failure {
        Failure::Unexpected(format!("the answer is not a list of {}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str, piece_len: usize) -> Result<(Vec<String>, bool), Failure> {
        let mut found = Vec::new();
        let mut splitter = EntrySplitter::new("operations");
        for piece in text.as_bytes().chunks(piece_len) {
            splitter.feed(piece, |element| {
                found.push(String::from_utf8(element.to_vec()).unwrap());
                Ok(())
            })?;
        }
        Ok((found, splitter.is_complete()))
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
