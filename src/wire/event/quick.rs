//! The quick decoder: one pass over the text. Strings without escapes are borrowed from the record.
//! It knows no event types: a member's name decides how it is read. Anything unusual (a null, a
//! repeated member, a surrogate, a status code that is not written as an integer) makes it give up
//! without a reason, and the careful decoder decides. What the quick decoder accepts, the careful
//! one reads identically.

use super::ends::EndBits;
use super::unescape;
use super::{RawData, RawEvent, RawNotification, RawRequest, RawResponse};
use crate::domain::Text;
use std::borrow::Cow;
use std::ops::Range;

pub fn envelope(json: &[u8]) -> Option<RawEvent<'_>> {
    whole(json)
}

/// Shows the events of an array, each with its place, until one is not wanted. False if
/// one was not, or if anything is unusual.
pub fn envelopes<'a>(
    json: &'a [u8],
    mut is_wanted: impl FnMut(RawEvent<'a>, Range<usize>) -> bool,
) -> bool {
    let mut read = || {
        let mut scanner = Scanner::new(json)?;
        scanner.expect(b'[')?;
        loop {
            scanner.space();
            let start = scanner.at;
            let mut event = RawEvent::default();
            scanner.object(&mut event)?;
            if !is_wanted(event, start..scanner.at) {
                return None;
            }
            scanner.space();
            if !scanner.accept(b',') {
                scanner.expect(b']')?;
                return scanner.end();
            }
        }
    };
    read().is_some()
}

pub fn data(json: &[u8]) -> Option<RawData<'_>> {
    whole(json)
}

fn whole<'a, T: Fields<'a>>(json: &'a [u8]) -> Option<T> {
    let mut scanner = Scanner::new(json)?;
    let mut fields = T::default();
    scanner.object(&mut fields)?;
    scanner.end()?;
    Some(fields)
}

/// The value that a JSON object's known members fill.
trait Fields<'a>: Default {
    /// Reads the member's value into its field, or skips an unknown member.
    fn take(&mut self, name: &'a str, scanner: &mut Scanner<'a>) -> Option<()>;
}

impl<'a> Fields<'a> for RawEvent<'a> {
    #[inline]
    fn take(&mut self, name: &'a str, scanner: &mut Scanner<'a>) -> Option<()> {
        let text = match name {
            "specversion" => &mut self.specversion,
            "id" => &mut self.id,
            "source" => &mut self.source,
            "type" => &mut self.kind,
            "subject" => &mut self.subject,
            "time" => &mut self.time,
            "datacontenttype" => &mut self.datacontenttype,
            "data" => {
                let again = std::mem::replace(&mut self.has_data, true);
                return (!again).then(|| scanner.object(&mut self.data))?;
            }
            "data_base64" => &mut self.data_base64,
            _ => return scanner.pass_over(name),
        };
        scanner.text_into(text)
    }
}

impl<'a> Fields<'a> for RawData<'a> {
    #[inline]
    fn take(&mut self, name: &'a str, scanner: &mut Scanner<'a>) -> Option<()> {
        let text = match name {
            "request" => return scanner.object_into(&mut self.request),
            "notification" => return scanner.object_into(&mut self.notification),
            "response" => return scanner.object_into(&mut self.response),
            "sub_status" => &mut self.sub_status,
            "cluster_id" => &mut self.cluster_id,
            "request_id" => &mut self.request_id,
            "reason" => &mut self.reason,
            _ => return scanner.pass_over(name),
        };
        scanner.text_into(text)
    }
}

impl<'a> Fields<'a> for RawRequest<'a> {
    #[inline]
    fn take(&mut self, name: &'a str, scanner: &mut Scanner<'a>) -> Option<()> {
        let text = match name {
            "uri" => &mut self.uri,
            "method" => &mut self.method,
            "body" => &mut self.body,
            _ => return scanner.pass_over(name),
        };
        scanner.text_into(text)
    }
}

impl<'a> Fields<'a> for RawResponse<'a> {
    #[inline]
    fn take(&mut self, name: &'a str, scanner: &mut Scanner<'a>) -> Option<()> {
        match name {
            "status_code" => scanner.integer_into(&mut self.status_code),
            "body" => scanner.text_into(&mut self.body),
            _ => scanner.pass_over(name),
        }
    }
}

impl<'a> Fields<'a> for RawNotification<'a> {
    #[inline]
    fn take(&mut self, name: &'a str, scanner: &mut Scanner<'a>) -> Option<()> {
        match name {
            "address" => scanner.text_into(&mut self.address),
            "port" => scanner.integer_into(&mut self.port),
            _ => scanner.pass_over(name),
        }
    }
}

/// Levels of nested values that are skipped. Deeper ones are for the careful decoder, which has its
/// own limit.
const DEPTH: usize = 16;
/// Unknown members of one object. Each is compared with those before it.
const PASSED: usize = 16;

/// Every method ends after what it read, or gives up.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
    ends: EndBits,
    /// Names of the unknown members of all objects that are being read. Of a known member the
    /// filled field shows that it is there.
    passed: Vec<&'a str>,
    /// Where those of the innermost object begin.
    passed_here: usize,
}

impl<'a> Scanner<'a> {
    fn new(json: &'a [u8]) -> Option<Scanner<'a>> {
        let text = simdutf8::basic::from_utf8(json).ok()?;
        Some(Scanner {
            text,
            at: 0,
            ends: EndBits::of(json, 0),
            passed: Vec::new(),
            passed_here: 0,
        })
    }

    /// Only white space is left.
    fn end(&mut self) -> Option<()> {
        self.space();
        (self.at == self.text.len()).then_some(())
    }

    #[inline]
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.byte() {
            self.at += 1;
        }
    }

    /// This byte, after any space.
    #[inline]
    fn expect(&mut self, byte: u8) -> Option<()> {
        if self.accept(byte) {
            return Some(());
        }
        self.space();
        self.accept(byte).then_some(())
    }

    #[inline]
    fn accept(&mut self, byte: u8) -> bool {
        let is_there = self.byte() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn object<T: Fields<'a>>(&mut self, fields: &mut T) -> Option<()> {
        self.members(|name, scanner| fields.take(name, scanner))
    }

    /// Gives up at a repeated member, which the careful decoder names.
    fn object_into<T: Fields<'a>>(&mut self, field: &mut Option<T>) -> Option<()> {
        if field.is_some() {
            return None;
        }
        self.object(field.insert(T::default()))
    }

    #[inline]
    fn members(
        &mut self,
        mut take: impl FnMut(&'a str, &mut Scanner<'a>) -> Option<()>,
    ) -> Option<()> {
        self.expect(b'{')?;
        self.space();
        if self.accept(b'}') {
            return Some(());
        }
        let outside = std::mem::replace(&mut self.passed_here, self.passed.len());
        loop {
            self.expect(b'"')?;
            let name = self.plain()?;
            self.expect(b':')?;
            take(name, self)?;
            if !self.accept(b',') {
                self.space();
                if !self.accept(b',') {
                    break;
                }
            }
        }
        self.passed.truncate(self.passed_here);
        self.passed_here = outside;
        self.accept(b'}').then_some(())
    }

    /// As with `object_into`.
    #[inline]
    fn text_into(&mut self, field: &mut Option<Text<'a>>) -> Option<()> {
        if field.is_some() {
            return None;
        }
        self.expect(b'"')?;
        *field = Some(match self.plain() {
            Some(text) => Cow::Borrowed(text),
            None => Cow::Owned(self.unescaped()?),
        });
        Some(())
    }

    /// A text without escapes, to its end; otherwise it stays where it is.
    #[inline]
    fn plain(&mut self) -> Option<&'a str> {
        let (bytes, start) = (self.text.as_bytes(), self.at);
        let end = self.ends.from(bytes, start);
        if bytes.get(end) != Some(&b'"') {
            return None;
        }
        self.at = end + 1;
        // Safety: it begins after an ASCII character and ends before one.
        Some(unsafe { self.text.get_unchecked(start..end) })
    }

    /// A text with escapes, to its end.
    fn unescaped(&mut self) -> Option<String> {
        let (text, end) = unescape::whole(self.text, self.at)?;
        self.at = end;
        Some(text)
    }

    #[inline]
    fn integer_into(&mut self, field: &mut Option<i64>) -> Option<()> {
        if field.is_some() {
            return None;
        }
        *field = self.integer();
        field.is_some().then_some(())
    }

    fn integer(&mut self) -> Option<i64> {
        self.space();
        let number = self.number()?;
        number.parse().ok()
    }

    fn number(&mut self) -> Option<&'a str> {
        let start = self.at;
        self.accept(b'-');
        let leading_zero = self.byte() == Some(b'0');
        let digits = self.digits();
        if digits == 0 || (leading_zero && digits > 1) {
            return None;
        }
        if self.accept(b'.') && self.digits() == 0 {
            return None;
        }
        if self.accept(b'e') || self.accept(b'E') {
            let _ = self.accept(b'-') || self.accept(b'+');
            if self.digits() == 0 {
                return None;
            }
        }
        Some(&self.text[start..self.at])
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.byte() {
            self.at += 1;
        }
        self.at - start
    }

    /// The value of a member that is not known, checked as strictly as one that is.
    fn pass_over(&mut self, name: &'a str) -> Option<()> {
        self.skip_member(name, DEPTH)
    }

    fn skip_member(&mut self, name: &'a str, depth: usize) -> Option<()> {
        let before = &self.passed[self.passed_here..];
        if before.len() == PASSED || before.contains(&name) {
            return None;
        }
        self.passed.push(name);
        self.skip(depth)
    }

    fn skip(&mut self, depth: usize) -> Option<()> {
        let below = depth.checked_sub(1)?;
        self.space();
        match self.byte()? {
            b'"' => {
                self.at += 1;
                if self.plain().is_none() {
                    self.unescaped()?;
                }
                Some(())
            }
            b'{' => self.members(|name, scanner| scanner.skip_member(name, below)),
            b'[' => {
                self.at += 1;
                self.space();
                if self.accept(b']') {
                    return Some(());
                }
                loop {
                    self.skip(below)?;
                    self.space();
                    if !self.accept(b',') {
                        return self.expect(b']');
                    }
                }
            }
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            _ => self.number().map(drop),
        }
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let is_there = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        self.at += word.len();
        is_there.then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusual_events_are_left_to_the_careful_decoder() {
        for json in [
            r#"{"id":null}"#,
            r#"{"id":"a","id":"a"}"#,
            r#"{"data":{},"data":{}}"#,
            r#"{"x":1,"x":1}"#,
            r#"{"x":[{"y":{},"z":1,"y":2}]}"#,
            r#"{"data":{"x":1,"reason":"a","x":1}}"#,
            r#"{"data_base64":"","data_base64":""}"#,
            r#"{"id":"\ud83d\ude00"}"#,
            r#"{"\u0069d":"a"}"#,
            r#"{"data":{"response":{"status_code":2e2}}}"#,
            r#"{"x":1e}"#,
            r#"{"x":01}"#,
            r#"{"x":-}"#,
            r#"{"x":1.}"#,
            r#"{"x":[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]}"#,
            "{\"id\":\"a\nb\"}",
            r#"{"id":"a"} x"#,
            r#"{"id":"a",}"#,
            r#"{"x":[1,]}"#,
            r#"{"x":nul}"#,
            r#"{"x":tru"#,
            r#"{"id":"\x"}"#,
            r#"{"id":"a"#,
            "",
        ] {
            assert!(envelope(json.as_bytes()).is_none(), "{json}");
        }
        let unknown = r#" { "x" : [ 1 , -0.5 , 1E-400 , true , null ,
            { "y" : [ ] , "z" : { } } , { "y" : { "x" : 1 } } ] , "y" : 1 , "z" : 2 } "#;
        assert!(envelope(unknown.as_bytes()).is_some());
        let escapes = r#"{"id":"\"\\\/\b\f\n\r\t\u00e4ä"}"#;
        let id = envelope(escapes.as_bytes()).unwrap().id.unwrap();
        assert_eq!(id, "\"\\/\u{8}\u{c}\n\r\tää");
        // A character across two blocks, near the end.
        for before in 0..9 {
            let text = format!("{}ä😀ä", "x".repeat(before));
            let json = format!(r#"{{"id":"\"{text}"}}"#);
            let id = envelope(json.as_bytes()).unwrap().id.unwrap();
            assert_eq!(id, format!("\"{text}"));
        }
    }
}
