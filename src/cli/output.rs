//! Standard output, notes on standard error, and progress bars. No command prints in another way:
//! `println!` would panic if the reader has closed the pipe.

use crate::cli::failure::Failure;
use crate::cli::text::{clean_json, clean_lines};
use crate::output::{self, Patient};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, BufWriter, StdoutLock, Write};

pub struct Output {
    inner: BufWriter<Patient<StdoutLock<'static>>>,
    is_terminal: bool,
}

impl Output {
    pub fn new() -> Output {
        Output {
            inner: BufWriter::with_capacity(64 << 10, output::stdout()),
            is_terminal: output::stdout_is_terminal(),
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

    /// JSON that others wrote, without changing its values.
    pub fn json(&mut self, json: &[u8]) -> Result<(), Failure> {
        self.write(clean_json(json))
    }

    pub fn json_line(&mut self, json: impl AsRef<[u8]>) -> Result<(), Failure> {
        self.json(json.as_ref())?;
        self.write("\n")
    }

    /// For our own JSON, which is compared byte for byte: changed only on a terminal.
    pub fn json_writer(&mut self) -> impl Write + '_ {
        JsonWriter(self)
    }

    /// To be called at the end: the flush of a drop would not report its error.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.inner.flush().map_err(lost)
    }
}

/// Lines for people on standard output.
pub fn say(text: impl AsRef<str>) -> Result<(), Failure> {
    let mut out = Output::new();
    out.line(clean_lines(text.as_ref()))?;
    out.flush()
}

struct JsonWriter<'o>(&'o mut Output);

impl Write for JsonWriter<'_> {
    /// Takes a whole document at a time.
    fn write(&mut self, document: &[u8]) -> io::Result<usize> {
        match self.0.is_terminal {
            true => self.0.inner.write_all(&clean_json(document))?,
            false => self.0.inner.write_all(document)?,
        }
        Ok(document.len())
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

/// Lines for people on standard error. If that fails, the error cannot be reported anywhere.
pub fn note(text: impl AsRef<str>) {
    output::note(clean_lines(text.as_ref()));
}

/// The template of a progress bar that counts records.
pub const RECORDS: &str = "{bar:30} {pos}/{len} records, {per_sec}, {eta} left";

/// On standard error, and only on a terminal. Without a total it is a spinner.
pub fn progress(total: Option<u64>, form: &str) -> ProgressBar {
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::new_spinner(),
    };
    bar.with_style(ProgressStyle::with_template(form).expect("a template of ours"))
}
