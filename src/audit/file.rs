//! A file of events (JSON Lines) as a log of one partition; the offset is the line's number,
//! counted from 0. Blank lines and a byte order mark are not records.

use crate::event_log::{Limits, Logged, ReadError, Reader};
use crate::wire::position::{NextOffsets, Offset, Partition, Position};
use crate::wire::record::{Headers, Record};
use bytes::Bytes;
use std::io::{self, BufRead};

/// Some editors write this before the first line.
pub const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

pub struct Lines<R> {
    input: R,
    next: Offset,
    failed: Option<io::Error>,
}

impl<R: BufRead> Lines<R> {
    pub fn new(input: R) -> Lines<R> {
        Lines {
            input,
            next: Offset::ZERO,
            failed: None,
        }
    }

    /// Why the file could not be read to its end.
    pub fn failed(self) -> Option<io::Error> {
        self.failed
    }
}

impl<R: BufRead + Send> Reader for Lines<R> {
    fn read(&mut self, limits: &Limits, into: &mut Vec<Logged>) -> Result<(), ReadError> {
        let mut bytes = 0;
        while into.len() < limits.records && bytes < limits.bytes {
            let mut line = Vec::new();
            let read = self.input.read_until(b'\n', &mut line);
            let read = read.map_err(|error| {
                let why = error.to_string();
                self.failed = Some(error);
                ReadError::Unavailable(why)
            })?;
            if self.next == Offset::ZERO && line.starts_with(BYTE_ORDER_MARK) {
                line.drain(..BYTE_ORDER_MARK.len());
            }
            if read == 0 {
                return Ok(());
            }
            let at = Position {
                partition: Partition(0),
                offset: self.next,
            };
            self.next = self.next.next();
            if line.trim_ascii().is_empty() {
                continue;
            }
            bytes += line.len();
            into.push(Logged {
                at,
                record: Record {
                    arrived: Record::NO_ARRIVAL,
                    claimed: false,
                    key: None,
                    headers: Headers::default(),
                    value: Some(Bytes::from(line)),
                },
            });
        }
        Ok(())
    }

    fn next(&self) -> NextOffsets {
        [(Partition(0), self.next)].into_iter().collect()
    }
}
