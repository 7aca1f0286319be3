//! The quick way: one pass over the text, strings borrowed from the record where
//! JSON has no escapes. It knows no event types: a member is read as its name says.
//! It takes less than JSON allows: whatever is unusual (a null, a member twice, a
//! surrogate, a number that is not a small one) makes it give up without a reason,
//! and the careful way decides. What it takes, the careful way reads alike.

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
            let event = scanner.object()?;
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
    let fields = scanner.object()?;
    scanner.end()?;
    Some(fields)
}

/// What a JSON object's known members fill.
trait Fields<'a>: Default {
    /// Reads the member's value into its field; a name that is unknown is passed over.
    fn take(&mut self, name: &str, scanner: &mut Scanner<'a>) -> Option<()>;
}

impl<'a> Fields<'a> for RawEvent<'a> {
    fn take(&mut self, name: &str, scanner: &mut Scanner<'a>) -> Option<()> {
        match name {
            "specversion" => once(&mut self.specversion, scanner.string()),
            "id" => once(&mut self.id, scanner.string()),
            "source" => once(&mut self.source, scanner.string()),
            "type" => once(&mut self.kind, scanner.string()),
            "subject" => once(&mut self.subject, scanner.string()),
            "time" => once(&mut self.time, scanner.string()),
            "datacontenttype" => once(&mut self.datacontenttype, scanner.string()),
            "data" => {
                if std::mem::replace(&mut self.seen_data, true) {
                    return None;
                }
                self.data = scanner.object()?;
                Some(())
            }
            _ => scanner.pass_over(),
        }
    }
}

impl<'a> Fields<'a> for RawData<'a> {
    fn take(&mut self, name: &str, scanner: &mut Scanner<'a>) -> Option<()> {
        match name {
            "request" => once(&mut self.request, scanner.object()),
            "notification" => once(&mut self.notification, scanner.object()),
            "sub_status" => once(&mut self.sub_status, scanner.string()),
            "cluster_id" => once(&mut self.cluster_id, scanner.string()),
            "request_id" => once(&mut self.request_id, scanner.string()),
            "response" => once(&mut self.response, scanner.object()),
            "reason" => once(&mut self.reason, scanner.string()),
            _ => scanner.pass_over(),
        }
    }
}

impl<'a> Fields<'a> for RawRequest<'a> {
    fn take(&mut self, name: &str, scanner: &mut Scanner<'a>) -> Option<()> {
        match name {
            "uri" => once(&mut self.uri, scanner.string()),
            "method" => once(&mut self.method, scanner.string()),
            "body" => once(&mut self.body, scanner.string()),
            _ => scanner.pass_over(),
        }
    }
}

impl<'a> Fields<'a> for RawResponse<'a> {
    fn take(&mut self, name: &str, scanner: &mut Scanner<'a>) -> Option<()> {
        match name {
            "status_code" => once(&mut self.status_code, scanner.integer()),
            "body" => once(&mut self.body, scanner.string()),
            _ => scanner.pass_over(),
        }
    }
}

impl<'a> Fields<'a> for RawNotification<'a> {
    fn take(&mut self, name: &str, scanner: &mut Scanner<'a>) -> Option<()> {
        match name {
            "address" => once(&mut self.address, scanner.string()),
            "port" => once(&mut self.port, scanner.integer()),
            _ => scanner.pass_over(),
        }
    }
}

/// Fills a field that is still empty. A second mention of a member is left to the
/// careful way, which names it.
#[inline]
fn once<T>(field: &mut Option<T>, value: Option<T>) -> Option<()> {
    if field.is_some() {
        return None;
    }
    *field = value;
    field.is_some().then_some(())
}

/// Values in values that are passed over; deeper ones are for the careful way, which
/// has a bound of its own.
const DEPTH: usize = 16;

/// Every method leaves it behind what it read, or gives up.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// Where texts are unescaped.
    room: Vec<u8>,
}

impl<'a> Scanner<'a> {
    fn new(json: &'a [u8]) -> Option<Scanner<'a>> {
        let text = simdutf8::basic::from_utf8(json).ok()?;
        let room = Vec::new();
        Some(Scanner { text, at: 0, room })
    }

    /// Nothing but space is left.
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
        self.space();
        self.accept(byte).then_some(())
    }

    #[inline]
    fn accept(&mut self, byte: u8) -> bool {
        let is_there = self.byte() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn object<T: Fields<'a>>(&mut self) -> Option<T> {
        let mut fields = T::default();
        self.members(|name, scanner| fields.take(name, scanner))?;
        Some(fields)
    }

    fn members(
        &mut self,
        mut take: impl FnMut(&'a str, &mut Scanner<'a>) -> Option<()>,
    ) -> Option<()> {
        self.expect(b'{')?;
        self.space();
        if self.accept(b'}') {
            return Some(());
        }
        loop {
            let Cow::Borrowed(name) = self.string()? else {
                return None;
            };
            self.expect(b':')?;
            take(name, self)?;
            self.space();
            if !self.accept(b',') {
                return self.expect(b'}');
            }
        }
    }

    fn string(&mut self) -> Option<Text<'a>> {
        self.expect(b'"')?;
        let text = self.plain();
        if self.accept(b'"') {
            return Some(Cow::Borrowed(text));
        }
        // What is no plain character is an escape here, or not allowed.
        self.at -= text.len();
        Some(Cow::Owned(self.unescaped()?))
    }

    /// As many characters as stand for themselves.
    #[inline]
    fn plain(&mut self) -> &'a str {
        let start = self.at;
        self.at += plain(&self.text.as_bytes()[start..]);
        &self.text[start..self.at]
    }

    /// A text with escapes, to its end. JSON inside of JSON has one every few bytes: eight
    /// bytes are taken at once, of which those from the first on that is none of the text's
    /// are written over.
    fn unescaped(&mut self) -> Option<String> {
        let bytes = self.text.as_bytes();
        // No escape is shorter than what it stands for. More than a word, so that the last
        // can be taken as well.
        let room = bytes.len() - self.at + 2 * WORD;
        self.room.resize(self.room.len().max(room), 0);
        let room = &mut self.room[..];
        let mut len = 0;
        let mut at = self.at;
        loop {
            let word: [u8; WORD] = match bytes.get(at..at + WORD) {
                Some(word) => word.try_into().expect("it is as long"),
                // NULs behind the last bytes are none of a text's.
                None => {
                    let mut word = [0; WORD];
                    let rest = &bytes[at..];
                    word[..rest.len()].copy_from_slice(rest);
                    word
                }
            };
            room[len..len + WORD].copy_from_slice(&word);
            let Some(end) = first_end(word) else {
                at += WORD;
                len += WORD;
                continue;
            };
            at += end;
            len += end;
            match bytes.get(at)? {
                b'"' => break,
                b'\\' => {}
                _ => return None,
            }
            let escape = *bytes.get(at + 1)?;
            at += 2;
            match ESCAPES[usize::from(escape)] {
                0 if escape == b'u' => {
                    let digits = bytes.get(at..at + 4)?;
                    at += 4;
                    // Not for half a surrogate pair.
                    let character = char::from_u32(hexadecimal(digits)?)?;
                    len += character.encode_utf8(&mut room[len..]).len();
                }
                0 => return None,
                stands_for => {
                    room[len] = stands_for;
                    len += 1;
                }
            }
        }
        self.at = at + 1;
        let whole = room[..len].to_vec();
        debug_assert!(std::str::from_utf8(&whole).is_ok());
        // Safety: stretches of a text that end before an ASCII character, and characters.
        Some(unsafe { String::from_utf8_unchecked(whole) })
    }

    fn integer(&mut self) -> Option<i64> {
        self.space();
        let number = self.number()?;
        number.parse().ok()
    }

    /// A number without an exponent, of at most 15 digits on each side of the point.
    fn number(&mut self) -> Option<&'a str> {
        let start = self.at;
        self.accept(b'-');
        let leading_zero = self.byte() == Some(b'0');
        let digits = self.digits();
        if digits == 0 || digits > 15 || (leading_zero && digits > 1) {
            return None;
        }
        if self.accept(b'.') && !(1..=15).contains(&self.digits()) {
            return None;
        }
        if let Some(b'e' | b'E') = self.byte() {
            return None;
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

    /// Any value, checked as strictly as one that is kept.
    fn pass_over(&mut self) -> Option<()> {
        self.skip(DEPTH)
    }

    fn skip(&mut self, depth: usize) -> Option<()> {
        let below = depth.checked_sub(1)?;
        self.space();
        match self.byte()? {
            b'"' => self.string().map(drop),
            b'{' => self.members(|_, scanner| scanner.skip(below)),
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

/// Bytes of a text that are looked at together.
const WORD: usize = 8;

/// What a letter behind a backslash stands for; 0 if it is none, or begins more.
const ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    let pairs = *b"\"\"\\\\//b\x08f\x0cn\nr\rt\t";
    let mut at = 0;
    while at < pairs.len() {
        table[pairs[at] as usize] = pairs[at + 1];
        at += 2;
    }
    table
};

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |code, digit| {
        Some(code * 16 + char::from(*digit).to_digit(16)?)
    })
}

/// How many bytes stand for themselves inside a JSON string: up to a quote, a
/// backslash or a control character.
#[inline]
fn plain(bytes: &[u8]) -> usize {
    let ends = |byte: u8| byte == b'"' || byte == b'\\' || byte < 0x20;
    let mut at = 0;
    // Most texts are short. Long ones go by 32 bytes at a time, without a branch inside:
    // compilers make vector instructions of it.
    while let Some(word) = bytes.get(at..at + 8) {
        if let Some(end) = first_end(word.try_into().expect("eight of them")) {
            return at + end;
        }
        at += 8;
        if at % 64 == 0 {
            while let Some(chunk) = bytes.get(at..at + 32)
                && !chunk.iter().fold(false, |any, byte| any | ends(*byte))
            {
                at += 32;
            }
        }
    }
    let rest = bytes[at..].iter().position(|byte| ends(*byte));
    rest.map_or(bytes.len(), |rest| at + rest)
}

/// The first of eight bytes that does not stand for itself, all looked at as one word:
/// a byte's highest bit is set where the byte is one of those. Bytes behind the first
/// may be marked wrongly, by a carry.
#[inline]
fn first_end(word: [u8; 8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let word = u64::from_le_bytes(word);
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word;
    let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let ends = (is(b'"') | is(b'\\') | below(word, 0x20)) & HIGH;
    (ends != 0).then(|| ends.trailing_zeros() as usize / 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_text_ends_where_a_byte_by_byte_search_says(
            bytes in prop::collection::vec(prop_oneof![
                20 => 0x20u8..=0xff,
                1 => prop::sample::select(b"\"\\\x00\x1f\x01".to_vec()),
            ], 0..100),
        ) {
            let ends = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
            let expected = bytes.iter().position(ends).unwrap_or(bytes.len());
            prop_assert_eq!(plain(&bytes), expected);
        }
    }

    #[test]
    fn what_is_unusual_is_left_to_the_careful_way() {
        for json in [
            r#"{"id":null}"#,
            r#"{"id":"a","id":"a"}"#,
            r#"{"data":{},"data":{}}"#,
            r#"{"id":"\ud83d\ude00"}"#,
            r#"{"\u0069d":"a"}"#,
            r#"{"data":{"response":{"status_code":2e2}}}"#,
            r#"{"x":1e400}"#,
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
        let unknown = r#" { "x" : [ 1 , -0.5 , true , null , { "y" : [ ] , "z" : { } } ] } "#;
        assert!(envelope(unknown.as_bytes()).is_some());
        let escapes = r#"{"id":"\"\\\/\b\f\n\r\t\u00e4ä"}"#;
        let id = envelope(escapes.as_bytes()).unwrap().id.unwrap();
        assert_eq!(id, "\"\\/\u{8}\u{c}\n\r\tää");
        // A character that lies in two of the words that are looked at, near the end.
        for before in 0..9 {
            let text = format!("{}ä😀ä", "x".repeat(before));
            let json = format!(r#"{{"id":"\"{text}"}}"#);
            let id = envelope(json.as_bytes()).unwrap().id.unwrap();
            assert_eq!(id, format!("\"{text}"));
        }
    }
}
