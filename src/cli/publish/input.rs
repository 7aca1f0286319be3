//! Reads JSON Lines and groups them into batches. Runs on a separate thread, because reading a pipe
//! may block for as long as its writer is silent.

use super::resume::ResumePoint;
use crate::audit::file::BYTE_ORDER_MARK;
use crate::cli::failure::Failure;
use bytes::Bytes;
use serde_json::value::RawValue;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use tokio::sync::mpsc;

/// Bytes of a request with several events. A larger event is sent alone: the ledger decides whether
/// it is accepted.
const BODY_MAX: usize = 8 << 20;
/// Bytes of a line. No ledger can be configured to accept a larger event.
const LINE_MAX: usize = 1 << 30;
const READ_AHEAD: usize = 1 << 20;

/// Events of some lines, for one request.
#[derive(Debug, Clone)]
pub struct EventBatch {
    /// Each with the number of its line, from 1.
    pub events: Vec<(u64, Bytes)>,
    /// The input up to its last line.
    pub end: ResumePoint,
}

impl EventBatch {
    /// A JSON array of the events.
    pub fn body(&self) -> Bytes {
        let size: usize = self.events.iter().map(|(_, event)| event.len() + 1).sum();
        let mut body = Vec::with_capacity(size + 1);
        for (n, (_, event)) in self.events.iter().enumerate() {
            body.push(if n == 0 { b'[' } else { b',' });
            body.extend_from_slice(event);
        }
        body.push(b']');
        body.into()
    }

    /// The same events in two batches; `None` if it has only one event.
    pub fn halves(&self) -> Option<[EventBatch; 2]> {
        let (first, second) = self.events.split_at(self.events.len() / 2);
        let half = |events: &[(u64, Bytes)]| EventBatch {
            events: events.to_vec(),
            end: self.end.clone(),
        };
        (!first.is_empty()).then(|| [first, second].map(half))
    }
}

pub struct Input {
    lines: EventLines,
    /// The size of a batch.
    events_max: usize,
    /// The input may still grow: events are sent while the next line is awaited.
    is_live: bool,
}

impl Input {
    /// The reader continues after `begin`; `digest` is of everything before.
    pub fn new(
        reader: Box<dyn Read + Send>,
        name: String,
        (begin, digest): (&ResumePoint, blake3::Hasher),
        events_max: usize,
        is_live: bool,
    ) -> Input {
        let lines = EventLines {
            reader: BufReader::with_capacity(READ_AHEAD, reader),
            name,
            offset: begin.offset,
            line: begin.line,
            digest,
            text: Vec::new(),
        };
        Input {
            lines,
            events_max,
            is_live,
        }
    }

    pub fn name(&self) -> &str {
        &self.lines.name
    }

    /// Sends the batches in order, and at most one failure, as the last message. Ends early if
    /// nobody receives any more.
    pub fn pump(mut self, batches: &mpsc::Sender<Result<EventBatch, Failure>>) {
        let mut batch = Filling::default();
        let failure = loop {
            // Does not wait until a request is free, though the batch could grow: the next line
            // may be an hour away. The pipe grows meanwhile.
            if self.is_live && self.lines.may_block() && !batch.send(batches) {
                return;
            }
            match self.lines.read_event() {
                Ok(Some(event)) => {
                    if !batch.has_room_for(&event, self.events_max) && !batch.send(batches) {
                        return;
                    }
                    batch.add(event, &self.lines);
                }
                Ok(None) => break None,
                Err(failure) => break Some(failure),
            }
        };
        // A pipe cannot be read again. A file is, and then its batch includes the corrected line.
        if failure.is_none() || self.is_live {
            batch.send(batches);
        }
        if let Some(failure) = failure {
            // Nobody receives only after another failure.
            let _ = batches.blocking_send(Err(failure));
        }
    }
}

/// A batch in the making.
#[derive(Default)]
struct Filling {
    events: Vec<(u64, Bytes)>,
    /// Bytes of its body, without the last bracket.
    size: usize,
    /// The input up to its last line.
    offset: u64,
    digest: blake3::Hasher,
}

impl Filling {
    fn has_room_for(&self, event: &Bytes, events_max: usize) -> bool {
        let fits = self.size + event.len() + 2 <= BODY_MAX;
        self.events.is_empty() || (fits && self.events.len() < events_max)
    }

    fn add(&mut self, event: Bytes, lines: &EventLines) {
        self.size += event.len() + 1;
        self.events.push((lines.line, event));
        self.offset = lines.offset;
        self.digest.clone_from(&lines.digest);
    }

    /// False if nobody receives.
    fn send(&mut self, batches: &mpsc::Sender<Result<EventBatch, Failure>>) -> bool {
        let filled = std::mem::take(self);
        let Some((line, _)) = filled.events.last() else {
            return true;
        };
        let end = ResumePoint {
            offset: filled.offset,
            line: *line,
            digest: filled.digest.finalize(),
            token: None,
        };
        let events = filled.events;
        batches
            .blocking_send(Ok(EventBatch { events, end }))
            .is_ok()
    }
}

struct EventLines {
    reader: BufReader<Box<dyn Read + Send>>,
    name: String,
    /// After the current line.
    offset: u64,
    /// The current line.
    line: u64,
    /// Everything up to its end.
    digest: blake3::Hasher,
    text: Vec<u8>,
}

impl EventLines {
    /// No whole line has been read ahead.
    fn may_block(&self) -> bool {
        !self.reader.buffer().contains(&b'\n')
    }

    /// The next line that is not blank, without white space around it.
    fn read_event(&mut self) -> Result<Option<Bytes>, Failure> {
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
            // A line with this much white space may never end.
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
        Ok(Some(Bytes::copy_from_slice(event)))
    }

    /// Continues to the end of the line, or reads up to `max` bytes of it.
    fn read_until(&mut self, max: usize) -> Result<usize, Failure> {
        let from = self.text.len();
        let mut bounded = (&mut self.reader).take(max as u64);
        let read = bounded.read_until(b'\n', &mut self.text);
        let read = read.map_err(|source| Failure::File {
            path: PathBuf::from(&self.name),
            source,
        })?;
        self.digest.update(&self.text[from..]);
        self.offset += read as u64;
        Ok(read)
    }
}

/// Whether it can be an event at all. Otherwise one bad line would make the whole batch
/// unreadable, and the ledger could not say which one it was. Never quotes the line, because
/// bodies may contain passwords.
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
        let reader = Box::new(Cursor::new(text.into()));
        let begin = (&ResumePoint::beginning(), blake3::Hasher::new());
        let input = Input::new(reader, "events.jsonl".into(), begin, events_max, false);
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

    fn lines(batch: &EventBatch) -> Vec<u64> {
        batch.events.iter().map(|(line, _)| *line).collect()
    }

    #[test]
    fn lines_become_arrays_and_keep_their_numbers() {
        let text = "\u{feff}{\"a\":1}\r\n\n  \n {\"b\":2} \n{\"c\":3}";
        let (batches, failure) = pump(text, 2);
        assert!(failure.is_none());
        assert_eq!(batches.len(), 2);
        assert_eq!(&batches[0].body()[..], b"[{\"a\":1},{\"b\":2}]");
        assert_eq!(lines(&batches[0]), [1, 4]);
        assert_eq!(
            batches[0].end.offset as usize,
            text.len() - "{\"c\":3}".len()
        );
        assert_eq!(&batches[1].body()[..], b"[{\"c\":3}]");
        assert_eq!(lines(&batches[1]), [5]);
        assert_eq!(batches[1].end.offset as usize, text.len());
    }

    #[test]
    fn bodies_are_bounded_in_bytes() {
        let line = format!("{{\"a\":\"{}\"}}\n", "x".repeat(3 << 20));
        let (batches, failure) = pump(line.repeat(5), 500);
        assert!(failure.is_none());
        let counts: Vec<_> = batches.iter().map(|batch| batch.events.len()).collect();
        assert_eq!(counts, [2, 2, 1]);
        assert!(batches.iter().all(|batch| batch.body().len() <= BODY_MAX));
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
        let numbers: Vec<_> = batches.iter().map(lines).collect();
        assert_eq!(numbers, [&[1][..], &[2], &[3, 4]]);
        assert_eq!(batches[1].body().len(), large.len() + 2);
        for batch in &batches {
            let read = &text.as_bytes()[..batch.end.offset as usize];
            assert_eq!(batch.end.digest, blake3::hash(read));
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
            (&first.body()[..], &lines(&first)[..]),
            (&b"[{\"a\":1}]"[..], &[1][..])
        );
        assert_eq!(&second.body()[..], b"[{\"b\":[2,3]},{}]");
        assert_eq!(lines(&second), [3, 4]);
        let [third, fourth] = second.halves().unwrap();
        assert_eq!(
            (&third.body()[..], &fourth.body()[..]),
            (&b"[{\"b\":[2,3]}]"[..], &b"[{}]"[..])
        );
        assert!(first.halves().is_none() && fourth.halves().is_none());
    }

    /// A pipe: each read returns one write, and after the last it blocks until the writer is
    /// dropped. It reports each read that finds nothing.
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

    /// As if no open request gets a response until the test takes one.
    fn pump_live(writes: &[&'static str]) -> (Filled, ScriptedWriter) {
        let (write, written) = std::sync::mpsc::channel();
        for text in writes {
            write.send(*text).unwrap();
        }
        let (is_asked, asked) = std::sync::mpsc::channel();
        let reader = Box::new(Pipe { written, is_asked });
        let begin = (&ResumePoint::beginning(), blake3::Hasher::new());
        let input = Input::new(reader, "standard input".into(), begin, 100, true);
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
            assert_eq!(lines(&filled.next().unwrap().unwrap()), [line]);
        }
        drop(writer);
        assert!(filled.next().is_none());
    }

    #[test]
    fn a_bad_line_in_a_pipe_does_not_lose_the_events_before_it() {
        let (mut filled, _writer) = pump_live(&["{\"a\":1}\n{\"a\":2}\nnonsense\n"]);
        let batch = filled.next().unwrap().unwrap();
        assert_eq!(lines(&batch), [1, 2]);
        let failure = filled.next().unwrap().unwrap_err();
        assert!(matches!(failure, Failure::BadLine { line: 3, .. }));
        assert!(filled.next().is_none());
    }
}
