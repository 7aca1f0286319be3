//! Text of workers, clients and servers, made safe to show on a terminal.

use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};
use std::borrow::Cow;

/// No cell is longer: column widths are 16 bits wide in the table crate, and a
/// longer one could not be looked at anyway.
const SHOWN_CHARS_MAX: usize = 10_000;

/// Text on one line: an escape sequence in it could otherwise repaint the
/// screen, a line end break a table.
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
        show(c, &mut shown);
    }
    shown
}

/// Text on several lines, of any length: a message with what it quotes.
pub fn clean_lines(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push(c),
            _ => show(c, &mut shown),
        }
    }
    shown
}

/// TOML whose strings all take escapes: it stays the same TOML.
pub fn clean_toml(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push(c),
            _ if acts_on_a_terminal(c) => match c as u32 {
                code @ ..=0xFFFF => shown.push_str(&format!("\\u{code:04X}")),
                code => shown.push_str(&format!("\\U{code:08X}")),
            },
            _ => shown.push(c),
        }
    }
    shown
}

fn show(c: char, shown: &mut String) {
    match acts_on_a_terminal(c) {
        true => shown.extend(c.escape_default()),
        false => shown.push(c),
    }
}

/// Whether a terminal does something else with it than to draw it: controls,
/// what reorders its surroundings, what ends a line, what is never seen.
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

/// JSON that comes in pieces, made safe without changing any value: within a
/// string the same character as `\u` and four digits. Line ends between the
/// values stay.
#[derive(Debug, Default)]
pub struct JsonEscaper {
    /// The beginning of a character whose end is in the next piece.
    held: Vec<u8>,
}

impl JsonEscaper {
    pub fn feed<'p>(&mut self, piece: &'p [u8]) -> Cow<'p, [u8]> {
        if self.held.is_empty() && piece.iter().all(|byte| is_plain(*byte)) {
            return Cow::Borrowed(piece);
        }
        let mut bytes = std::mem::take(&mut self.held);
        bytes.extend_from_slice(piece);
        let whole = bytes.len() - unfinished(&bytes);
        self.held = bytes.split_off(whole);
        Cow::Owned(escape(&bytes))
    }

    /// What is left where the JSON broke off in the middle of a character.
    pub fn finish(&mut self) -> Vec<u8> {
        escape(&std::mem::take(&mut self.held))
    }
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b'\n' | b' '..=b'~')
}

/// How many bytes at the end are the beginning of a longer character.
fn unfinished(bytes: &[u8]) -> usize {
    match bytes.utf8_chunks().last() {
        // Something invalid may stand there, too: it is no beginning then.
        Some(chunk) => match std::str::from_utf8(chunk.invalid()) {
            Err(error) if error.error_len().is_none() => chunk.invalid().len(),
            Ok(_) | Err(_) => 0,
        },
        None => 0,
    }
}

fn escape(bytes: &[u8]) -> Vec<u8> {
    let mut escaped = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => escaped.push(c),
                // Only between values: as a part of one JSON has it escaped.
                '\r' | '\t' => escaped.push(' '),
                _ if acts_on_a_terminal(c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        escaped.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                _ => escaped.push(c),
            }
        }
        if !chunk.invalid().is_empty() {
            escaped.push(char::REPLACEMENT_CHARACTER);
        }
    }
    escaped.into_bytes()
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

    /// By the categories of another crate; and beyond those, what is invisible though
    /// it counts as a letter or a mark.
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

    fn fed(text: &[u8], piece_len: usize) -> String {
        let mut escaper = JsonEscaper::default();
        let mut all = Vec::new();
        for piece in text.chunks(piece_len) {
            all.extend_from_slice(&escaper.feed(piece));
        }
        all.extend(escaper.finish());
        String::from_utf8(all).expect("UTF-8")
    }

    #[test]
    fn json_keeps_its_values_in_pieces_of_any_length() {
        let strings: Vec<String> = ('\0'..=char::MAX)
            .filter(|c| acts_on_a_terminal(*c))
            .map(|c| format!("ü{c}🦀"))
            .collect();
        let text = format!(
            " {{\"a\":\r\n\t{} }}\r\n",
            serde_json::to_string(&strings).expect("JSON")
        );
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        for piece_len in (1..=9).chain([text.len()]) {
            let shown = fed(text.as_bytes(), piece_len);
            assert_eq!(
                serde_json::from_str::<serde_json::Value>(&shown).expect("JSON"),
                value
            );
            let raw = shown.chars().filter(|c| acts_on_a_terminal(*c));
            assert!(raw.filter(|c| *c != '\n').count() == 0, "{piece_len}");
            assert!(shown.contains("ü") && shown.contains('🦀'));
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced() {
        for piece_len in 1..6 {
            assert_eq!(fed(b"\"\x9b\xe2\x80\"\xf0\x9f", piece_len), "\"��\"�");
        }
    }
}
