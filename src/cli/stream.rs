//! Reading the ledger's long answers, `{"name":[…]}`, while they arrive: memory
//! is bounded by one element, and an answer that ends early is never taken for
//! the whole.

use crate::cli::client::Ledger;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use reqwest::Response;

/// Calls `element` with the JSON text of each element.
pub async fn elements(
    ledger: &Ledger,
    mut response: Response,
    name: &'static str,
    mut element: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut splitter = Splitter::new(name);
    while let Some(piece) = ledger.piece(&mut response).await? {
        splitter.feed(&piece, &mut element)?;
    }
    complete(&splitter, ledger)
}

/// Prints the answer byte for byte.
pub async fn pass_through(
    ledger: &Ledger,
    mut response: Response,
    name: &'static str,
    out: &mut Output,
) -> Result<(), Failure> {
    // The bytes are looked at, too: a proxy may hide from us that the ledger
    // broke its answer off.
    let mut splitter = Splitter::new(name);
    while let Some(piece) = ledger.piece(&mut response).await? {
        splitter.feed(&piece, |_| Ok(()))?;
        out.write(&piece)?;
        out.flush()?;
    }
    if out.is_terminal() {
        out.line("")?;
    }
    complete(&splitter, ledger)
}

fn complete(splitter: &Splitter, ledger: &Ledger) -> Result<(), Failure> {
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
pub struct Splitter {
    name: &'static str,
    stage: Stage,
    /// What of the head, or of an element, came in earlier pieces.
    held: Vec<u8>,
    /// Open brackets within the element.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl Splitter {
    pub fn new(name: &'static str) -> Splitter {
        Splitter {
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
        let mut splitter = Splitter::new("operations");
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
    fn other_answers_are_refused() {
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
