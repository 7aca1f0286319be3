//! The attributes of an event in binary mode, read from headers. There is one reading for every
//! source and for showing events later. Repeated headers are refused, because two readers might
//! take different ones.

use super::cloudevent::{CONTENT_TYPE, PREFIX};
use super::document::text;
use super::fault::{Fault, Rule};
use super::json::repeated;
use super::record::Headers;
use crate::domain::Text;
use std::borrow::Cow;

/// The attribute that the header `content-type` carries.
const DATA_CONTENT_TYPE: &str = "datacontenttype";

/// In the order of the headers. Names are in lower case, and none occurs twice.
#[derive(Debug)]
pub struct Attributes<'h>(Vec<(Text<'h>, Option<Text<'h>>)>);

impl<'h> Attributes<'h> {
    pub fn read(headers: &'h Headers) -> Result<Attributes<'h>, Fault> {
        let mut all: Vec<(Text<'h>, Option<Text<'h>>)> = Vec::with_capacity(headers.0.len());
        let mut content_type = None;
        for (name, value) in headers.iter() {
            if name.eq_ignore_ascii_case(CONTENT_TYPE) {
                if content_type.is_some() {
                    return Err(twice(CONTENT_TYPE));
                }
                // A media type has its own syntax, in which quotes have a meaning.
                content_type = Some(value.map(|value| utf8(value, CONTENT_TYPE)).transpose()?);
            } else if let Some(name) = attribute_of(name) {
                let name = lower(name);
                if matches!(&*name, "data" | "data_base64") {
                    let what = "not an attribute: in binary mode the value is the data.";
                    return Err(Fault::new(Rule::Format, &name, what));
                }
                let value = value.map(|value| decoded(value, &name)).transpose()?;
                all.push((name, value));
            }
        }
        if let Some(name) = repeated(all.iter().map(|(name, _)| &**name)) {
            return Err(twice(name));
        }
        if let Some(content_type) = content_type {
            let content_type = content_type.map(Cow::Borrowed);
            let given = all.iter_mut().find(|(name, _)| name == DATA_CONTENT_TYPE);
            match given {
                None => all.push((DATA_CONTENT_TYPE.into(), content_type)),
                Some((_, given @ None)) => *given = content_type,
                Some((_, given)) if content_type.is_none() || *given == content_type => {}
                Some(_) => {
                    let what = "differs from the header content-type.";
                    return Err(Fault::new(Rule::Format, DATA_CONTENT_TYPE, what));
                }
            }
        }
        Ok(Attributes(all))
    }

    /// `None` if it is missing or null.
    pub fn take(&mut self, name: &str) -> Option<Text<'h>> {
        let found = self.0.iter_mut().find(|(given, _)| given == name);
        found.and_then(|(_, value)| value.take())
    }

    /// Writes them as members of a JSON object, each followed by a comma.
    pub fn write_members(&self, out: &mut Vec<u8>) {
        for (name, value) in &self.0 {
            text(name, out);
            out.push(b':');
            match value {
                Some(value) => text(value, out),
                None => out.extend_from_slice(b"null"),
            }
            out.push(b',');
        }
    }
}

/// The attribute that a header carries, if it does.
fn attribute_of(header: &str) -> Option<&str> {
    let (prefix, name) = header.split_at_checked(PREFIX.len())?;
    prefix.eq_ignore_ascii_case(PREFIX).then_some(name)
}

fn lower(name: &str) -> Text<'_> {
    match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => name.to_ascii_lowercase().into(),
        false => name.into(),
    }
}

fn utf8<'h>(value: &'h [u8], name: &str) -> Result<&'h str, Fault> {
    std::str::from_utf8(value).map_err(|_| Fault::new(Rule::Format, name, "must be UTF-8."))
}

/// A header's value as the HTTP binding has it read: quotes first, then percent signs, once.
fn decoded<'h>(value: &'h [u8], name: &str) -> Result<Text<'h>, Fault> {
    let value = utf8(value, name)?;
    let value = unquoted(value)
        .ok_or_else(|| Fault::new(Rule::Format, name, "a quoted text that does not end."))?;
    if !value.contains('%') {
        return Ok(value);
    }
    let decoded = percent_encoding::percent_decode_str(&value).decode_utf8();
    let decoded = decoded.map_err(|_| Fault::new(Rule::Format, name, "must be UTF-8."))?;
    Ok(Cow::Owned(decoded.into_owned()))
}

/// Without the quotes around any part of it, and the backslashes within them.
fn unquoted(value: &str) -> Option<Text<'_>> {
    if !value.contains('"') {
        return Some(value.into());
    }
    let (mut out, mut is_quoted) = (String::with_capacity(value.len()), false);
    let mut left = value.chars();
    while let Some(c) = left.next() {
        match c {
            '"' => is_quoted = !is_quoted,
            '\\' if is_quoted => out.push(left.next()?),
            c => out.push(c),
        }
    }
    (!is_quoted).then(|| out.into())
}

fn twice(name: &str) -> Fault {
    Fault::new(Rule::Format, name, "given more than once.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn read(headers: &[(&str, Option<&str>)]) -> Result<String, String> {
        let headers = headers.iter().map(|(name, value)| {
            let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
            ((*name).to_owned().into(), value)
        });
        let headers = Headers(headers.collect());
        let attributes = Attributes::read(&headers).map_err(|fault| fault.to_string())?;
        let mut out = Vec::new();
        attributes.write_members(&mut out);
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn names_are_read_without_regard_to_case() {
        let headers = [
            ("CE_Id", Some("a")),
            ("Content-Type", Some("application/json")),
        ];
        let members = r#""id":"a","datacontenttype":"application/json","#;
        assert_eq!(read(&headers).as_deref(), Ok(members));
        assert_eq!(
            read(&[("trace", Some("a")), ("ce", None)]).as_deref(),
            Ok("")
        );
    }

    #[test]
    fn a_setting_that_is_given_twice_is_refused() {
        let again = |name: &str| Err(format!("{name}: given more than once."));
        assert_eq!(
            read(&[("ce_id", Some("a")), ("ce_id", Some("a"))]),
            again("id")
        );
        assert_eq!(read(&[("ce_id", None), ("CE_ID", Some("a"))]), again("id"));
        let json = Some("application/json");
        let types = [("content-type", json), ("CONTENT-TYPE", json)];
        assert_eq!(read(&types), again("content-type"));
        let types = [
            ("ce_datacontenttype", Some("text/plain")),
            ("content-type", json),
        ];
        let differs = "datacontenttype: differs from the header content-type.";
        assert_eq!(read(&types), Err(differs.into()));
        let alike = [("ce_datacontenttype", json), ("content-type", json)];
        let one = Ok(r#""datacontenttype":"application/json","#.to_owned());
        assert_eq!(read(&alike), one);
        // Null counts as missing.
        for types in [
            [("ce_datacontenttype", None), ("content-type", json)],
            [("ce_datacontenttype", json), ("content-type", None)],
        ] {
            assert_eq!(read(&types), one);
        }
        let many: Vec<String> = (0..40).map(|n| format!("ce_x{n}")).collect();
        let mut many: Vec<_> = many.iter().map(|name| (name.as_str(), None)).collect();
        assert!(read(&many).is_ok());
        many.push(("ce_x7", None));
        assert_eq!(read(&many), again("x7"));
        for name in ["ce_data", "CE_DATA", "ce_data_base64"] {
            assert!(read(&[(name, Some("{}"))]).is_err(), "{name}");
        }
    }

    #[test]
    fn values_are_unquoted_and_then_decoded_once() {
        for (given, read_as) in [
            ("a", "a"),
            ("\"a\"", "a"),
            ("\"  a  \"b", "  a  b"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            ("a%20%E2%82%AC%22", "a €\""),
            ("\"%22\"", "\""),
            ("%2525", "%25"),
            ("100%", "100%"),
            ("é", "é"),
            ("", ""),
        ] {
            let value = decoded(given.as_bytes(), "x");
            assert_eq!(value.as_deref(), Ok(read_as), "{given}");
        }
        for bad in ["\"a", "a\"b", r#""a\"#, "%C0%A0", "%ff"] {
            assert!(decoded(bad.as_bytes(), "x").is_err(), "{bad}");
        }
        assert!(decoded(b"\xff", "x").is_err());
    }
}
