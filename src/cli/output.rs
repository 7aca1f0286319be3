//! The standard output, and notes on the standard error. No command prints in
//! another way: `println!` would panic where nobody reads any more.

use crate::cli::failure::Failure;
use crate::cli::text::{JsonEscaper, clean_lines};
use crate::output::{self, Patient};
use std::io::{self, BufWriter, StdoutLock, Write};

pub struct Output {
    inner: BufWriter<Patient<StdoutLock<'static>>>,
    is_terminal: bool,
    json: JsonEscaper,
}

impl Output {
    pub fn new() -> Output {
        Output {
            inner: BufWriter::with_capacity(64 << 10, output::stdout()),
            is_terminal: output::stdout_is_terminal(),
            json: JsonEscaper::default(),
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

    /// A piece of a JSON text of somebody else: its values stay what they are.
    pub fn json(&mut self, piece: &[u8]) -> Result<(), Failure> {
        let piece = self.json.feed(piece);
        self.inner.write_all(&piece).map_err(lost)
    }

    /// Behind its last piece.
    pub fn end_json(&mut self) -> Result<(), Failure> {
        let rest = self.json.finish();
        self.write(rest)?;
        self.write("\n")
    }

    /// For JSON of our own whose bytes are compared with others: as it is, but on a
    /// terminal.
    pub fn json_writer(&mut self) -> impl Write + '_ {
        JsonWriter(self)
    }

    /// To be called at the end: what a drop would flush could fail unseen.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.inner.flush().map_err(lost)
    }
}

/// Lines for people on the standard output.
pub fn say(text: impl AsRef<str>) -> Result<(), Failure> {
    let mut out = Output::new();
    out.line(clean_lines(text.as_ref()))?;
    out.flush()
}

struct JsonWriter<'o>(&'o mut Output);

impl Write for JsonWriter<'_> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        match self.0.is_terminal {
            true => self.0.inner.write_all(&self.0.json.feed(piece))?,
            false => self.0.inner.write_all(piece)?,
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.inner.flush()
    }
}

pub fn lost(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::Output(error),
    }
}

/// One line or several for people, on the standard error. Nobody is told where that
/// cannot be written: there is nowhere left to tell it.
pub fn note(text: impl AsRef<str>) {
    output::note(clean_lines(text.as_ref()));
}
