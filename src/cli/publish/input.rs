//! Reads JSON Lines and cuts them into the bodies of requests. Runs on a thread
//! of its own: reading a pipe may block for as long as its writer likes.

use crate::audit::file::BYTE_ORDER_MARK;
use crate::cli::failure::Failure;
use bytes::Bytes;
use serde_json::value::RawValue;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use tokio::sync::mpsc;

/// Bytes of the body of a request with several events. One that is larger goes alone:
/// whether the ledger takes it is for the ledger to say.
const BODY_MAX: usize = 8 << 20;
/// Bytes of a line: no ledger can be set up to take a larger event.
const LINE_MAX: usize = 1 << 30;
const READ_AHEAD: usize = 1 << 20;

/// Some lines, as the body of one request.
#[derive(Debug, Clone)]
pub struct EventBatch {
    /// A JSON array of the events.
    pub body: Bytes,
    /// The line that each event stands on, from 1.
    pub lines: Vec<u64>,
    /// Where in the body each event begins.
    starts: Vec<usize>,
    /// Where its last line ends, from the beginning of the input.
    pub end: u64,
    /// Of the input up to there.
    pub digest: blake3::Hash,
}

impl EventBatch {
    /// The same events in two requests; nothing if it is one event.
    pub fn halves(&self) -> Option<[EventBatch; 2]> {
        let middle = self.lines.len() / 2;
        let cut = *self.starts.get(middle).filter(|_| middle > 0)?;
        let part = |events: &[u8], range: std::ops::Range<usize>| {
            let first = self.starts[range.start];
            EventBatch {
                body: [b"[", events, b"]"].concat().into(),
                lines: self.lines[range.clone()].to_vec(),
                starts: self.starts[range].iter().map(|at| at - first + 1).collect(),
                end: self.end,
                digest: self.digest,
            }
        };
        // Without the comma between them, and the brackets.
        let first = part(&self.body[1..cut - 1], 0..middle);
        let second = part(
            &self.body[cut..self.body.len() - 1],
            middle..self.lines.len(),
        );
        Some([first, second])
    }
}

pub struct Input {
    pub reader: Box<dyn Read + Send>,
    /// For messages.
    pub name: String,
    /// What has been read before: bytes and lines.
    pub offset: u64,
    pub line: u64,
    /// Of these bytes.
    pub read: blake3::Hasher,
    pub events_max: usize,
    /// Somebody may still be writing: what is there is sent while we wait.
    pub is_live: bool,
}

impl Input {
    /// Sends the batches in order, and at most one failure, the last thing sent.
    /// Ends early if nobody listens any more.
    pub fn pump(self, batches: &mpsc::Sender<Result<EventBatch, Failure>>) {
        let mut lines = EventLines {
            reader: BufReader::with_capacity(READ_AHEAD, self.reader),
            name: self.name,
            offset: self.offset,
            line: self.line,
            read: self.read,
            text: Vec::new(),
        };
        let mut filling = Filling::default();
        loop {
            // Not kept back while all requests are under way, though the batch could
            // grow: the next line may be an hour away. The pipe grows meanwhile.
            if self.is_live
                && !filling.is_empty()
                && lines.may_block()
                && batches.blocking_send(Ok(filling.take())).is_err()
            {
                return;
            }
            match lines.read_event() {
                Ok(Some(line)) => {
                    if !filling.has_room_for(line.event, self.events_max)
                        && batches.blocking_send(Ok(filling.take())).is_err()
                    {
                        return;
                    }
                    filling.add(&line);
                }
                Ok(None) => {
                    if !filling.is_empty() {
                        // Nobody listens only after something else went wrong.
                        let _ = batches.blocking_send(Ok(filling.take()));
                    }
                    return;
                }
                Err(failure) => {
                    // What a pipe gave is not there for another try. A file is read
                    // again, and its batch then made with the line that was mended.
                    if self.is_live && !filling.is_empty() {
                        let _ = batches.blocking_send(Ok(filling.take()));
                    }
                    let _ = batches.blocking_send(Err(failure));
                    return;
                }
            }
        }
    }
}

/// A batch in the making: its body without the last bracket.
#[derive(Default)]
struct Filling {
    body: Vec<u8>,
    lines: Vec<u64>,
    starts: Vec<usize>,
    end: u64,
    read: blake3::Hasher,
}

impl Filling {
    fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    fn has_room_for(&self, event: &[u8], events_max: usize) -> bool {
        // A bracket or comma before it, the closing bracket behind.
        let fits = self.body.len() + event.len() + 2 <= BODY_MAX;
        self.is_empty() || (fits && self.lines.len() < events_max)
    }

    fn add(&mut self, line: &Line) {
        self.body.push(if self.is_empty() { b'[' } else { b',' });
        self.starts.push(self.body.len());
        self.body.extend_from_slice(line.event);
        self.lines.push(line.number);
        self.end = line.end;
        self.read.clone_from(line.read);
    }

    fn take(&mut self) -> EventBatch {
        let mut filled = std::mem::take(self);
        filled.body.push(b']');
        EventBatch {
            body: filled.body.into(),
            lines: filled.lines,
            starts: filled.starts,
            end: filled.end,
            digest: filled.read.finalize(),
        }
    }
}

/// A line that may be an event, without white space around it.
struct Line<'l> {
    event: &'l [u8],
    /// From 1.
    number: u64,
    /// Where it ends, from the beginning of the input.
    end: u64,
    /// The input up to there.
    read: &'l blake3::Hasher,
}

struct EventLines {
    reader: BufReader<Box<dyn Read + Send>>,
    name: String,
    /// Behind the current line.
    offset: u64,
    /// The current line.
    line: u64,
    /// All up to its end.
    read: blake3::Hasher,
    text: Vec<u8>,
}

impl EventLines {
    /// No whole line has been read ahead.
    fn may_block(&self) -> bool {
        !self.reader.buffer().contains(&b'\n')
    }

    /// The next line that is not blank.
    fn read_event(&mut self) -> Result<Option<Line<'_>>, Failure> {
        loop {
            let is_first = self.offset == 0;
            self.text.clear();
            let read = self.read_until(BODY_MAX)?;
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            if is_first && self.text.starts_with(BYTE_ORDER_MARK) {
                self.text.drain(..BYTE_ORDER_MARK.len());
            }
            let goes_on = read == BODY_MAX && !self.text.ends_with(b"\n");
            if goes_on && self.text.trim_ascii_start().first() == Some(&b'{') {
                // Perhaps an event. Anything else need not be read to its end.
                self.read_until(LINE_MAX - BODY_MAX)?;
            }
            // So much white space is no blank line: it may go on for ever.
            if goes_on || !self.text.trim_ascii().is_empty() {
                break;
            }
        }
        let event = self.text.trim_ascii();
        check(event, &self.text).map_err(|why| Failure::BadLine {
            file: self.name.clone(),
            line: self.line,
            why,
        })?;
        Ok(Some(Line {
            event,
            number: self.line,
            end: self.offset,
            read: &self.read,
        }))
    }

    /// Reads on to the end of the line, or so many bytes of it.
    fn read_until(&mut self, max: usize) -> Result<usize, Failure> {
        let from = self.text.len();
        let mut bounded = (&mut self.reader).take(max as u64);
        let read = bounded.read_until(b'\n', &mut self.text);
        let read = read.map_err(|source| Failure::File {
            path: PathBuf::from(&self.name),
            source,
        })?;
        self.read.update(&self.text[from..]);
        self.offset += read as u64;
        Ok(read)
    }
}

/// Whether it can be an event at all: one bad line would otherwise make the
/// whole batch unreadable, and nobody could say which it was. Never quotes the
/// line, as bodies may hold passwords.
fn check(event: &[u8], line: &[u8]) -> Result<(), String> {
    let is_whole = line.ends_with(b"\n") || line.len() < BODY_MAX - BYTE_ORDER_MARK.len();
    let is_too_long = line.len() >= LINE_MAX - BYTE_ORDER_MARK.len();
    if is_too_long || !is_whole && event.first() != Some(&b'{') {
        let len = line.len() >> 20;
        return Err(format!(
            "{len} MiB and more without an event: one event a line is expected"
        ));
    }
    if event.first() == Some(&b'[') {
        return Err("not an event but the beginning of an array: \
                    one event a line is expected (`jq -c '.[]'` makes that of an array)"
            .into());
    }
    match serde_json::from_slice::<&RawValue>(event) {
        Ok(_) if event.first() == Some(&b'{') => Ok(()),
        Ok(_) => Err("not a JSON object: one event a line is expected".into()),
        Err(error) if error.is_eof() => {
            Err("JSON that ends early: one event a line is expected".into())
        }
        Err(error) => Err(format!("not valid JSON, column {}", error.column())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn pump(text: impl Into<Vec<u8>>, events_max: usize) -> (Vec<EventBatch>, Option<Failure>) {
        let (sender, mut receiver) = mpsc::channel(1000);
        let input = Input {
            reader: Box::new(Cursor::new(text.into())),
            name: "events.jsonl".into(),
            offset: 0,
            line: 0,
            read: blake3::Hasher::new(),
            events_max,
            is_live: false,
        };
        input.pump(&sender);
        drop(sender);
        let mut batches = Vec::new();
        while let Some(next) = receiver.blocking_recv() {
            match next {
                Ok(batch) => batches.push(batch),
                Err(failure) => return (batches, Some(failure)),
            }
        }
        (batches, None)
    }

    #[test]
    fn lines_become_arrays_and_keep_their_numbers() {
        let text = "\u{feff}{\"a\":1}\r\n\n  \n {\"b\":2} \n{\"c\":3}";
        let (batches, failure) = pump(text, 2);
        assert!(failure.is_none());
        assert_eq!(batches.len(), 2);
        assert_eq!(&batches[0].body[..], b"[{\"a\":1},{\"b\":2}]");
        assert_eq!(batches[0].lines, [1, 4]);
        assert_eq!(batches[0].end as usize, text.len() - "{\"c\":3}".len());
        assert_eq!(&batches[1].body[..], b"[{\"c\":3}]");
        assert_eq!(batches[1].lines, [5]);
        assert_eq!(batches[1].end as usize, text.len());
    }

    #[test]
    fn bodies_are_bounded_in_bytes() {
        let line = format!("{{\"a\":\"{}\"}}\n", "x".repeat(3 << 20));
        let (batches, failure) = pump(line.repeat(5), 500);
        assert!(failure.is_none());
        let counts: Vec<_> = batches.iter().map(|batch| batch.lines.len()).collect();
        assert_eq!(counts, [2, 2, 1]);
        assert!(batches.iter().all(|batch| batch.body.len() <= BODY_MAX));
    }

    #[test]
    fn an_invalid_line_is_named_and_its_batch_is_not_sent() {
        let good = "{\"a\":1}\n".repeat(4);
        for (bad, expected) in [
            ("{\"a\":}", "not valid JSON, column 6"),
            ("{\"a\":", "ends early"),
            ("\"a\"", "not a JSON object"),
            ("[{\"a\":1}]", "beginning of an array"),
            ("{\"a\":1}{\"b\":2}", "not valid JSON"),
        ] {
            let (batches, failure) = pump(format!("{good}\n{bad}\n{good}"), 3);
            assert_eq!(batches.len(), 1, "{bad}");
            match failure.unwrap() {
                Failure::BadLine { line, why, .. } => {
                    assert_eq!(line, 6, "{bad}");
                    assert!(why.contains(expected), "{bad}: {why}");
                }
                other => panic!("{bad}: {other}"),
            }
        }
        let (_, failure) = pump(b"{\"a\":\"\xff\"}".to_vec(), 3);
        assert!(matches!(failure, Some(Failure::BadLine { line: 1, .. })));
    }

    #[test]
    fn a_large_event_goes_alone() {
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(3 * BODY_MAX));
        let text = format!("{{\"a\":1}}\n{large}\n{{\"a\":2}}\n{{\"a\":3}}\n");
        let (batches, failure) = pump(text.clone(), 500);
        assert!(failure.is_none());
        let lines: Vec<_> = batches.iter().map(|batch| &batch.lines[..]).collect();
        assert_eq!(lines, [&[1][..], &[2], &[3, 4]]);
        assert_eq!(batches[1].body.len(), large.len() + 2);
        for batch in &batches {
            let read = &text.as_bytes()[..batch.end as usize];
            assert_eq!(batch.digest, blake3::hash(read));
        }
    }

    #[test]
    fn an_endless_invalid_line_is_not_read_to_its_end() {
        for byte in ["x", " ", "\0", "[{"] {
            let (batches, failure) = pump(byte.repeat(2 * BODY_MAX), 3);
            assert!(batches.is_empty());
            let why = failure.unwrap().to_string();
            assert!(why.contains("8 MiB and more without an event"), "{why}");
        }
    }

    #[test]
    fn the_halves_of_a_batch_have_the_same_events() {
        let text = "{\"a\":1}\n\n{\"b\":[2,3]}\n{}\n";
        let (batches, _) = pump(text, 500);
        let [first, second] = batches[0].halves().unwrap();
        assert_eq!(
            (&first.body[..], &first.lines[..]),
            (&b"[{\"a\":1}]"[..], &[1][..])
        );
        assert_eq!(&second.body[..], b"[{\"b\":[2,3]},{}]");
        assert_eq!(second.lines, [3, 4]);
        let [third, fourth] = second.halves().unwrap();
        assert_eq!(
            (&third.body[..], &fourth.body[..]),
            (&b"[{\"b\":[2,3]}]"[..], &b"[{}]"[..])
        );
        assert!(first.halves().is_none() && fourth.halves().is_none());
    }

    /// A pipe: what is written at once is read at once, then it is silent until the
    /// writer goes. Tells when it is asked for more than there is.
    struct Pipe {
        written: std::sync::mpsc::Receiver<&'static str>,
        is_asked: std::sync::mpsc::Sender<()>,
    }

    impl Read for Pipe {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let written = self.written.try_recv().or_else(|_| {
                self.is_asked.send(()).unwrap();
                self.written.recv()
            });
            let text = written.unwrap_or_default();
            into[..text.len()].copy_from_slice(text.as_bytes());
            Ok(text.len())
        }
    }

    /// As if the requests under way were never answered, until the test takes one.
    fn pump_live(writes: &[&'static str]) -> (Filled, ScriptedWriter) {
        let (write, written) = std::sync::mpsc::channel();
        for text in writes {
            write.send(*text).unwrap();
        }
        let (is_asked, asked) = std::sync::mpsc::channel();
        let input = Input {
            reader: Box::new(Pipe { written, is_asked }),
            name: "standard input".into(),
            offset: 0,
            line: 0,
            read: blake3::Hasher::new(),
            events_max: 100,
            is_live: true,
        };
        let (sender, receiver) = mpsc::channel(1);
        std::thread::spawn(move || input.pump(&sender));
        let writer = ScriptedWriter {
            _write: write,
            asked,
        };
        (Filled(receiver), writer)
    }

    struct ScriptedWriter {
        _write: std::sync::mpsc::Sender<&'static str>,
        asked: std::sync::mpsc::Receiver<()>,
    }

    struct Filled(mpsc::Receiver<Result<EventBatch, Failure>>);

    impl Filled {
        /// Fails in the end, rather than to wait for ever.
        fn next(&mut self) -> Option<Result<EventBatch, Failure>> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build();
            runtime.unwrap().block_on(async {
                let patience = std::time::Duration::from_secs(20);
                let next = tokio::time::timeout(patience, self.0.recv()).await;
                next.expect("what was written is sent while the writer is silent")
            })
        }
    }

    #[test]
    fn events_of_a_silent_writer_are_sent_without_waiting_for_more() {
        let (mut filled, writer) = pump_live(&["{\"a\":1}\n", "{\"a\":2}\n"]);
        let patience = std::time::Duration::from_millis(500);
        let asked = writer.asked.recv_timeout(patience);
        assert!(asked.is_err(), "waits for the writer with an event in hand");
        for line in [1, 2] {
            assert_eq!(filled.next().unwrap().unwrap().lines, [line]);
        }
        drop(writer);
        assert!(filled.next().is_none());
    }

    #[test]
    fn a_bad_line_in_a_pipe_does_not_lose_the_events_before_it() {
        let (mut filled, _writer) = pump_live(&["{\"a\":1}\n{\"a\":2}\nnonsense\n"]);
        let batch = filled.next().unwrap().unwrap();
        assert_eq!(batch.lines, [1, 2]);
        let failure = filled.next().unwrap().unwrap_err();
        assert!(matches!(failure, Failure::BadLine { line: 3, .. }));
        assert!(filled.next().is_none());
    }
}
