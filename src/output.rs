//! The only place that writes to standard output and standard error. Neither can end or block a
//! part of the program if the reader is gone, full, slow or non-blocking.

use rustix::event::{PollFd, PollFlags, poll};
use std::fmt::Display;
use std::io::{self, IsTerminal, StderrLock, StdoutLock, Write};
use std::os::fd::AsFd;

/// A stream that waits until it can be written, even if the other end made it non-blocking.
pub struct Patient<W>(W);

impl<W: Write + AsFd> Patient<W> {
    fn retry<T>(&mut self, mut attempt: impl FnMut(&mut W) -> io::Result<T>) -> io::Result<T> {
        loop {
            match attempt(&mut self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut fds = [PollFd::new(&self.0, PollFlags::OUT)];
                    // If it was interrupted, the next attempt shows whether it can be written.
                    let _ = poll(&mut fds, None);
                }
                outcome => return outcome,
            }
        }
    }
}

impl<W: Write + AsFd> Write for Patient<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.retry(|stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.retry(|stream| stream.flush())
    }
}

pub fn stdout() -> Patient<StdoutLock<'static>> {
    Patient(io::stdout().lock())
}

pub fn stderr() -> Patient<StderrLock<'static>> {
    Patient(io::stderr().lock())
}

pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

pub fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Writes a line for people to standard error, if that can be written.
pub fn note(text: impl Display) {
    // In one call, so that lines of several processes do not mix.
    let line = format!("{text}\n");
    // An error here cannot be reported anywhere.
    let _ = stderr().write_all(line.as_bytes());
}
