//! A separate thread writes log lines to standard error, so that no code that logs waits for it or
//! fails because of it. Lines without room, or that cannot be written, are lost and counted; the
//! first line that is written again reports the number.

use crate::config::{LogFormat, Telemetry};
use crate::output;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;

/// Bytes of lines that wait to be written, at most.
const WAITING: usize = 256 << 10;
/// How long the end of the program waits for the last lines.
const LAST: Duration = Duration::from_secs(1);

static LOST: AtomicU64 = AtomicU64::new(0);

/// Lines that could not be written, since the start.
pub fn lost_lines() -> u64 {
    LOST.load(Ordering::Relaxed)
}

enum LogMessage {
    Line(Vec<u8>),
    /// For a reply when all lines before it are written.
    Flush(mpsc::Sender<()>),
}

#[derive(Clone)]
struct LogLines {
    queue: mpsc::Sender<LogMessage>,
    waiting: Arc<AtomicUsize>,
}

/// Writes the last lines when it is dropped.
pub struct Logging(LogLines);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("telemetry.log: {0}")]
    Filter(#[from] ParseError),
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

/// Sends the log lines and panics of this process to standard error while the result lives.
pub fn start(telemetry: &Telemetry) -> Result<Logging, Error> {
    let filter = EnvFilter::try_new(&telemetry.log)?;
    let (queue, lines) = mpsc::channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let taken = waiting.clone();
    let thread = std::thread::Builder::new().name("log lines".into());
    thread.spawn(move || write_lines(lines, &taken))?;
    let lines = LogLines { queue, waiting };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Otherwise the subscriber prints its errors itself and panics if that fails.
        .log_internal_errors(false)
        .with_writer(lines.clone());
    match telemetry.format {
        LogFormat::Text => subscriber.with_ansi(output::stderr_is_terminal()).init(),
        LogFormat::Json => subscriber.json().init(),
    }
    let of_panics = lines.clone();
    std::panic::set_hook(Box::new(move |panic| log_panic(panic, &of_panics)));
    Ok(Logging(lines))
}

/// Writes a line to standard output without making the caller wait.
pub fn announce(line: String) {
    let write = move || {
        let written = output::stdout().write_all(line.as_bytes());
        if let Err(error) = written {
            tracing::warn!(%error, "standard output could not be written");
        }
    };
    let thread = std::thread::Builder::new().name("announce".into());
    if let Err(error) = thread.spawn(write) {
        tracing::warn!(%error, "cannot start a thread to write to standard output");
    }
}

/// The standard library's hook writes on the thread that panics, and hangs if standard error is
/// blocked.
fn log_panic(panic: &PanicHookInfo, lines: &LogLines) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("?");
    let backtrace = std::backtrace::Backtrace::capture();
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!(thread, %backtrace, "{panic}");
    } else {
        lines.send(format!("thread {thread} {panic}\n{backtrace}\n").into_bytes());
    }
}

impl LogLines {
    fn send(&self, line: Vec<u8>) {
        let len = line.len();
        let before = self.waiting.fetch_add(len, Ordering::Relaxed);
        // A single line always fits, whatever its size.
        let has_room = before == 0 || before + len <= WAITING;
        if !has_room || self.queue.send(LogMessage::Line(line)).is_err() {
            self.waiting.fetch_sub(len, Ordering::Relaxed);
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The subscriber writes each line in one call.
impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.send(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogLines {
    type Writer = LogLines;

    fn make_writer(&'a self) -> LogLines {
        self.clone()
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let (done, is_done) = mpsc::channel();
        if self.0.queue.send(LogMessage::Flush(done)).is_ok() {
            // Gives up on a standard error that is still blocked after this time.
            let _ = is_done.recv_timeout(LAST);
        }
    }
}

fn write_lines(lines: mpsc::Receiver<LogMessage>, waiting: &AtomicUsize) {
    let mut reported = 0;
    // After a partly written line, the next one must begin on a new line.
    let mut is_torn = false;
    for message in lines {
        let line = match message {
            LogMessage::Line(line) => line,
            LogMessage::Flush(done) => {
                // The waiting thread may have given up.
                let _ = done.send(());
                continue;
            }
        };
        let written = write_line(&line, &mut is_torn);
        waiting.fetch_sub(line.len(), Ordering::Relaxed);
        if written.is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let lost = lost_lines();
        if lost > reported {
            let lines = lost - reported;
            reported = lost;
            // This is logged like any line.
            tracing::warn!(lines, "log lines were lost: they could not be written");
        }
    }
}

fn write_line(line: &[u8], is_torn: &mut bool) -> io::Result<()> {
    let mut stream = output::stderr();
    if *is_torn {
        stream.write_all(b"\n")?;
        *is_torn = false;
    }
    let mut rest = line;
    while !rest.is_empty() {
        match stream.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                rest = &rest[written..];
                *is_torn = true;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    *is_torn = false;
    Ok(())
}
