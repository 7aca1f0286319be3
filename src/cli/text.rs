//! Text of workers, clients and servers, made safe to show on a terminal.

use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};
use std::borrow::Cow;

/// Column widths have 16 bits in the table crate, and nobody could read a longer cell.
const SHOWN_CHARS_MAX: usize = 10_000;

/// Text on one line. Otherwise an escape sequence could repaint the screen, and a line end could
/// break a table.
pub fn clean(text: &str) -> String {
    shorten(text, SHOWN_CHARS_MAX)
}

pub fn shorten(text: &str, chars_max: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(chars_max));
    for (i, c) in text.chars().enumerate() {
        if i == chars_max {
            shown.push('…');
            break;
        }
        match acts_on_a_terminal(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// Text on several lines, of any length: a message with its quotations.
pub fn clean_lines(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    spell(text, &mut shown, |c, shown| {
        shown.extend(c.escape_default())
    });
    shown
}

/// TOML whose strings all take escapes: it stays the same TOML.
pub fn clean_toml(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    spell(text, &mut shown, |c, shown| match c as u32 {
        code @ ..=0xFFFF => shown.push_str(&format!("\\u{code:04X}")),
        code => shown.push_str(&format!("\\U{code:08X}")),
    });
    shown
}

/// Spells out the characters that act on a terminal, except line ends.
fn spell(text: &str, shown: &mut String, escape: impl Fn(char, &mut String)) {
    for c in text.chars() {
        match c != '\n' && acts_on_a_terminal(c) {
            true => escape(c, shown),
            false => shown.push(c),
        }
    }
}

/// Whether a terminal does not just draw it: controls, and characters that reorder their
/// surroundings, end a line or are invisible.
fn acts_on_a_terminal(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    matches!(
        CodePointMapData::<GeneralCategory>::new().get(c),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
    ) || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
}

/// JSON with the same values: within a string, such a character becomes `\u` and four digits. Line
/// ends between the values stay.
pub fn clean_json(json: &[u8]) -> Cow<'_, [u8]> {
    if json.iter().all(|byte| matches!(byte, b'\n' | b' '..=b'~')) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len());
    for chunk in json.utf8_chunks() {
        spell(chunk.valid(), &mut escaped, |c, escaped| match c {
            // Only between values: within a string they are escaped already.
            '\r' | '\t' => escaped.push(' '),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    escaped.push_str(&format!("\\u{unit:04x}"));
                }
            }
        });
        if !chunk.invalid().is_empty() {
            escaped.push(char::REPLACEMENT_CHARACTER);
        }
    }
    Cow::Owned(escaped.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use unicode_general_category::{GeneralCategory as Category, get_general_category};

    #[test]
    fn controls_are_spelt_out_and_length_is_bounded() {
        assert_eq!(clean("/v1/a\u{1b}[2J\n"), "/v1/a\\u{1b}[2J\\n");
        assert_eq!(clean("a\u{202e}b\u{61c}"), "a\\u{202e}b\\u{61c}");
        assert_eq!(clean("größe ✓ e\u{301}"), "größe ✓ e\u{301}");
        assert_eq!(clean_lines("a\n\tb\u{9b}"), "a\n\\tb\\u{9b}");
        assert_eq!(shorten("abcdef", 3), "abc…");
        assert_eq!(shorten("abc", 3), "abc");
    }

    #[test]
    fn toml_keeps_its_values() {
        for c in ('\0'..=char::MAX).filter(|c| !c.is_ascii()) {
            let shown = clean_toml(&format!("a = \"{c}\" # {c}\n"));
            assert!(!shown.contains(c) || !acts_on_a_terminal(c), "{shown}");
            let read: toml::Table = shown.parse().expect("TOML");
            assert_eq!(read["a"].as_str(), Some(&*c.to_string()));
        }
    }

    /// Compares with the categories of another crate. In addition, some letters and marks are
    /// invisible.
    #[test]
    fn of_all_of_unicode_only_what_is_drawn_is_shown() {
        let invisible = |c| {
            matches!(c, '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
                | '\u{180b}'..='\u{180f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
                | '\u{ffa0}' | '\u{e0100}'..='\u{e01ef}')
        };
        for c in '\0'..=char::MAX {
            let category = get_general_category(c);
            if category == Category::Unassigned {
                continue;
            }
            let acts = matches!(
                category,
                Category::Control
                    | Category::Format
                    | Category::LineSeparator
                    | Category::ParagraphSeparator
            );
            let shown = clean(&c.to_string());
            let escaped = shown != c.to_string();
            assert_eq!(escaped, acts || invisible(c), "U+{:04X} {shown}", c as u32);
            assert!(!escaped || shown.is_ascii(), "U+{:04X}", c as u32);
        }
    }

    fn shown(json: &[u8]) -> String {
        String::from_utf8(clean_json(json).into_owned()).expect("UTF-8")
    }

    #[test]
    fn json_keeps_its_values() {
        let strings: Vec<String> = ('\0'..=char::MAX)
            .filter(|c| acts_on_a_terminal(*c))
            .map(|c| format!("ü{c}🦀"))
            .collect();
        let text = format!(
            " {{\"a\":\r\n\t{} }}\r\n",
            serde_json::to_string(&strings).expect("JSON")
        );
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let shown = shown(text.as_bytes());
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).expect("JSON"),
            value
        );
        let raw = shown.chars().filter(|c| acts_on_a_terminal(*c));
        assert_eq!(raw.filter(|c| *c != '\n').count(), 0);
        assert!(shown.contains("ü") && shown.contains('🦀'));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced() {
        assert_eq!(shown(b"\"\x9b\xe2\x80\"\xf0\x9f"), "\"��\"�");
    }
}
