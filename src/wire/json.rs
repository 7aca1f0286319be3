//! Parses JSON strictly, as a tree. A repeated member, half a surrogate pair and more than
//! [`LEVELS`] levels are errors. Numbers keep their spelling, so that none is too large or too
//! precise. Used when the quick decoder (`event`) gives up, and to compare events by value.

use super::number;
use hifijson::num::LexWrite;
use hifijson::str::LexAlloc;
use hifijson::token::Lex;
use hifijson::{Error, Expect, SliceLexer};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

/// Objects and arrays in each other, the outermost counted.
pub const LEVELS: usize = 127;

#[derive(Debug, Clone, PartialEq)]
pub enum Json<'a> {
    Null,
    Bool(bool),
    /// As it is spelt, see [`number`].
    Number(&'a str),
    Text(Cow<'a, str>),
    Array(Vec<Json<'a>>),
    /// In the order of the text. No name occurs twice.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// Why it cannot be read, and in which member: a path, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonFault {
    pub path: String,
    /// Never quotes the input.
    pub what: String,
}

impl<'a> Json<'a> {
    pub fn parse(input: &'a [u8]) -> Result<Json<'a>, JsonFault> {
        Json::parse_within(input, LEVELS)
    }

    /// The same for JSON that will be part of a larger value.
    pub fn parse_within(input: &'a [u8], levels: usize) -> Result<Json<'a>, JsonFault> {
        let mut lexer = SliceLexer::new(input);
        let read = lexer.exactly_one(Lex::ws_peek, |next, lexer| value(next, lexer, levels));
        read.map_err(|wrong| match wrong {
            Wrong::Json(_) => JsonFault {
                path: String::new(),
                what: describe(input, input.len() - lexer.as_slice().len()),
            },
            Wrong::Twice(path, what) => JsonFault {
                path,
                what: what.into(),
            },
        })
    }

    /// A canonical text: equal if and only if the values are equal.
    pub fn canonical(&self, out: &mut String) {
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
            Json::Number(text) => number::write_canonical(text, out),
            Json::Text(text) => out.push_str(&format!("{text:?}")),
            Json::Array(items) => {
                out.push('[');
                for item in items {
                    item.canonical(out);
                    out.push(',');
                }
                out.push(']');
            }
            Json::Object(members) => {
                let members: BTreeMap<&str, &Json> = members
                    .iter()
                    .map(|(name, value)| (&**name, value))
                    .collect();
                out.push('{');
                for (name, value) in members {
                    out.push_str(&format!("{name:?}:"));
                    value.canonical(out);
                    out.push(',');
                }
                out.push('}');
            }
        }
    }
}

enum Wrong {
    /// Where, the lexer knows.
    Json(Error),
    /// A path, and what occurs twice: the member itself, or something in it.
    Twice(String, &'static str),
}

impl From<Error> for Wrong {
    fn from(error: Error) -> Wrong {
        Wrong::Json(error)
    }
}

impl From<Expect> for Wrong {
    fn from(expected: Expect) -> Wrong {
        Wrong::Json(expected.into())
    }
}

impl From<hifijson::str::Error> for Wrong {
    fn from(error: hifijson::str::Error) -> Wrong {
        Wrong::Json(error.into())
    }
}

fn value<'a>(next: u8, lexer: &mut SliceLexer<'a>, levels: usize) -> Result<Json<'a>, Wrong> {
    let below = || levels.checked_sub(1).ok_or(Error::Depth);
    Ok(match next {
        b'[' => {
            let below = below()?;
            let mut items = Vec::new();
            lexer.discarded().seq(b']', Lex::ws_peek, |next, lexer| {
                let item = value(next, lexer, below);
                items.push(item.map_err(|wrong| wrong.below(&format!("[{}]", items.len())))?);
                Ok::<_, Wrong>(())
            })?;
            Json::Array(items)
        }
        b'{' => {
            let below = below()?;
            let mut members = Vec::new();
            lexer.discarded().seq(b'}', Lex::ws_peek, |next, lexer| {
                lexer.expect(|_| Some(next), b'"').ok_or(Expect::String)?;
                let name = lexer.str_string()?;
                lexer.expect(Lex::ws_peek, b':').ok_or(Expect::Colon)?;
                let next = lexer.ws_peek().ok_or(Expect::Value)?;
                let member = value(next, lexer, below);
                let member = member.map_err(|wrong| wrong.below(shown(&name)))?;
                members.push((name, member));
                Ok::<_, Wrong>(())
            })?;
            if let Some(name) = repeated(members.iter().map(|(name, _)| &**name)) {
                return Err(match shown(name) {
                    "" => Wrong::Twice(String::new(), "has a member more than once."),
                    name => Wrong::Twice(name.to_owned(), "given more than once."),
                });
            }
            Json::Object(members)
        }
        b'"' => Json::Text(lexer.discarded().str_string()?),
        b'-' | b'0'..=b'9' => {
            let number = lexer.num_string().validated().map_err(Error::Num)?;
            Json::Number(number.0)
        }
        _ => match lexer.null_or_bool().ok_or(Expect::Value)? {
            None => Json::Null,
            Some(bool) => Json::Bool(bool),
        },
    })
}

impl Wrong {
    /// The same, seen from the member or item that it is in.
    fn below(self, outer: &str) -> Wrong {
        match self {
            Wrong::Twice(inner, what) => {
                let needs_point = !(outer.is_empty() || inner.is_empty() || inner.starts_with('['));
                let point = if needs_point { "." } else { "" };
                Wrong::Twice(format!("{outer}{point}{inner}"), what)
            }
            Wrong::Json(error) => Wrong::Json(error),
        }
    }
}

/// A name that occurs twice.
pub fn repeated<'n>(mut names: impl ExactSizeIterator<Item = &'n str> + Clone) -> Option<&'n str> {
    if names.len() <= 16 {
        let all = names.clone();
        let mut numbered = names.enumerate();
        let again = numbered.find(|(place, name)| all.clone().take(*place).any(|n| n == *name));
        return again.map(|(_, name)| name);
    }
    let mut seen = HashSet::with_capacity(names.len());
    names.find(|name| !seen.insert(*name))
}

/// A name for a message: only if it consists of a name's characters, because others may contain
/// anything.
fn shown(name: &str) -> &str {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    match (1..=64).contains(&name.len()) && name.bytes().all(is_plain) {
        true => name,
        false => "",
    }
}

/// Where `input` stops being JSON, without quoting it.
fn describe(input: &[u8], at: usize) -> String {
    let before = &input[..at];
    let line = 1 + memchr::memchr_iter(b'\n', before).count();
    let column = 1 + at - memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1);
    not_json(at == input.len(), line, column)
}

/// Lines and columns count from 1.
pub fn not_json(ends_early: bool, line: usize, column: usize) -> String {
    let kind = match ends_early {
        true => "JSON that ends early",
        false => "not valid JSON",
    };
    format!("{kind}, line {line} column {column}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(json: &str) -> String {
        let JsonFault { path, what } = Json::parse(json.as_bytes()).unwrap_err();
        format!("{path}: {what}")
    }

    #[test]
    fn a_member_that_is_given_twice_is_named() {
        assert_eq!(fault(r#"{"a":1,"b":2,"a":3}"#), "a: given more than once.");
        assert_eq!(
            fault(r#"{"a":[0,{"b":{"c":1,"\u0063":2}}]}"#),
            "a[1].b.c: given more than once."
        );
        // A text that may contain anything is not repeated.
        let unnamed = fault(r#"{"a":{"b c":1,"b c":2}}"#);
        assert_eq!(unnamed, "a: has a member more than once.");
        assert_eq!(fault(r#"{"":1,"":2}"#), ": has a member more than once.");
        let many: Vec<String> = (0..1000).map(|n| format!("\"{n}\":0")).collect();
        let many = many.join(",");
        assert!(Json::parse(format!("{{{many}}}").as_bytes()).is_ok());
        assert_eq!(
            fault(&format!("{{{many},\"7\":0}}")),
            "7: given more than once."
        );
    }

    #[test]
    fn invalid_json_is_reported_with_its_place() {
        for (json, what) in [
            ("", "JSON that ends early, line 1 column 1."),
            ("{\"a\":1,\n \"b\": x}", "not valid JSON, line 2 column 8."),
            ("{\"a\":[1,2", "JSON that ends early, line 1 column 10."),
            ("{} {}", "not valid JSON, line 1 column 4."),
            ("01", "not valid JSON, line 1 column 2."),
            ("{\"a\":1,}", "not valid JSON, line 1 column 8."),
        ] {
            assert_eq!(fault(json), format!(": {what}"), "{json}");
        }
        for json in [
            "nul",
            "tru",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "NaN",
            "'a'",
            "\"\\ud800\"",
            "\"\\udc00\"",
            "\"\\ud800\\ud800\"",
            "\"\u{1}\"",
            "\"\\x\"",
            "[1,]",
            "[1 2]",
            "{\"a\"}",
            "{a:1}",
            "\u{feff}1",
        ] {
            assert!(Json::parse(json.as_bytes()).is_err(), "{json}");
        }
        assert!(Json::parse(b"\"\xff\"").is_err());
        assert_eq!(
            Json::parse(r#""\ud83d\ude00\u00e9""#.as_bytes()),
            Ok(Json::Text("😀é".into()))
        );
    }

    #[test]
    fn nesting_levels_include_the_outermost() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(Json::parse(nested(LEVELS).as_bytes()).is_ok());
        assert!(Json::parse(nested(LEVELS + 1).as_bytes()).is_err());
        assert!(Json::parse_within(nested(3).as_bytes(), 2).is_err());
    }
}
