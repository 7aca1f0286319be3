//! The standard output, and making text from elsewhere safe to show on it.

use crate::cli::failure::Failure;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

pub struct Output {
    inner: BufWriter<StdoutLock<'static>>,
    is_terminal: bool,
}

impl Output {
    pub fn new() -> Output {
        let stdout = io::stdout().lock();
        let is_terminal = stdout.is_terminal();
        Output {
            inner: BufWriter::with_capacity(64 << 10, stdout),
            is_terminal,
        }
    }

    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Failure> {
        self.inner.write_all(bytes.as_ref()).map_err(lost)
    }

    pub fn line(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        self.write(text.as_ref())?;
        self.write("\n")
    }

    /// To be called at the end: what a drop would flush could fail unseen.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.inner.flush().map_err(lost)
    }
}

fn lost(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::Output(error),
    }
}

/// No cell is longer: column widths are 16 bits wide in the table crate, and a
/// longer one could not be looked at anyway.
const SHOWN_CHARS_MAX: usize = 10_000;

/// Text of workers, clients or servers, for a terminal: an escape sequence in it
/// could otherwise repaint the screen, a line end break a table.
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
        if c.is_control() || is_bidi_control(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// They reorder what stands around them on the screen.
fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_spelt_out_and_length_is_bounded() {
        assert_eq!(clean("/v1/a\u{1b}[2J\n"), "/v1/a\\u{1b}[2J\\n");
        assert_eq!(clean("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(clean("größe ✓"), "größe ✓");
        assert_eq!(shorten("abcdef", 3), "abc…");
        assert_eq!(shorten("abc", 3), "abc");
    }
}
