//! `opledger publish`: sends a file of events to a running ledger.
//!
//! An event has an id, so sending it again is harmless. Everything here rests on that: a request
//! whose response was lost is sent again, and an interrupted run resumes after the last event
//! that was certainly acknowledged.

mod input;
mod resume;
mod target;

use crate::cli::client::Connection;
use crate::cli::config::{ConfigSource, KafkaFlags};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, note, progress};
use crate::cli::text::clean;
use crate::client::http::retrying;
use crate::wire::position::Token;
use clap::ValueHint;
use futures_util::StreamExt;
use indicatif::ProgressBar;
use input::{EventBatch, Input};
use resume::{FoundNote, Resume, ResumePoint};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use target::PublishTarget;
use tokio::sync::mpsc;

const EXAMPLES: &str = "\
Examples:
  opledger publish events.jsonl
  worker | opledger publish -
  opledger publish events.jsonl --wait && opledger list
  opledger publish events.jsonl --kafka 127.0.0.1:9092

The same command resumes an interrupted run: a note beside the file
(FILE.opledger-resume) records how far the ledger has everything. Sending an event
twice is harmless.";

/// The ledger's own timeouts are shorter.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const SAVE_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// File with events, one CloudEvent (structured JSON) per line; `-` reads standard input
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,

    /// Maximum number of events in a request
    #[arg(long, value_name = "N", default_value_t = 500)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,

    /// Requests in flight
    #[arg(long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    in_flight: u32,

    /// How long to retry a request while the ledger cannot be reached or is busy
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    retry_for: u64,

    /// Start from the first line, even if an interrupted run left a note
    #[arg(long)]
    from_start: bool,

    /// Return when everything that was sent can be read
    #[arg(long)]
    wait: bool,

    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,

    /// Produce to the topic that the ledger reads, instead of sending to the ledger
    #[command(flatten)]
    kafka: KafkaFlags,

    #[command(flatten)]
    settings: ConfigSource,
}

impl Args {
    fn retry_for(&self) -> Duration {
        Duration::from_secs(self.retry_for)
    }
}

pub async fn run(args: Args) -> Result<(), Failure> {
    let kafka = match args.kafka.is_given()? {
        true => Some(args.settings.load(args.kafka.clone().overrides())?),
        false => None,
    };
    let target = PublishTarget::new(&args.connection, kafka.as_ref())?;
    target.reach(args.retry_for()).await?;
    let source = PublishSource::open(&args, &target).await?;
    let begin = source.begin.clone();
    let form = match source.length {
        Some(_) => "{bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left, {msg}",
        None => "{spinner} {bytes}, {msg}",
    };
    let bar = progress(source.length, form).with_position(begin.offset);
    // The speed does not include what an earlier run has sent.
    let bar = bar.with_elapsed(Duration::ZERO);
    let mut publishing = PublishRun {
        target: &target,
        resume: source.resume,
        point: source.begin,
        accepted: 0,
        saved: Instant::now(),
        bar,
    };
    let outcome = tokio::select! {
        outcome = publishing.send_all(source.input, &args) => outcome,
        // Open requests may or may not arrive; the next run sends them again.
        _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
    };
    publishing.bar.finish_and_clear();
    publishing.keep_note(outcome.is_ok());
    outcome?;
    if args.wait
        && let Some(token) = &publishing.point.token
    {
        tokio::select! {
            outcome = target.wait_until_visible(token, args.retry_for()) => outcome?,
            // The signal does not end the process any more once a handler was installed.
            _ = tokio::signal::ctrl_c() => return Err(Failure::Interrupted),
        }
    }
    publishing.report(&args, begin.offset)
}

struct PublishSource {
    input: Input,
    /// Only for a file.
    resume: Option<Resume>,
    begin: ResumePoint,
    length: Option<u64>,
}

impl PublishSource {
    async fn open(args: &Args, target: &PublishTarget) -> Result<PublishSource, Failure> {
        if args.file.as_os_str() == "-" {
            let reader = Box::new(std::io::stdin());
            return Ok(PublishSource::live(reader, "standard input".into(), args));
        }
        let unreadable = |source| Failure::File {
            path: args.file.clone(),
            source,
        };
        let mut file = File::open(&args.file).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let name = shown(&args.file);
        if !metadata.is_file() {
            return Ok(PublishSource::live(Box::new(file), name, args));
        }
        let resume = Resume::new(&args.file, target.name());
        let (begin, digest) = begin(&resume, &mut file, args, target).await?;
        file.seek(SeekFrom::Start(begin.offset))
            .map_err(unreadable)?;
        let reader = Box::new(file);
        Ok(PublishSource {
            input: Input::new(reader, name, (&begin, digest), args.batch as usize, false),
            resume: Some(resume),
            begin,
            length: Some(metadata.len()),
        })
    }

    /// A pipe or a device has no length and cannot be read again.
    fn live(reader: Box<dyn Read + Send>, name: String, args: &Args) -> PublishSource {
        let begin = ResumePoint::beginning();
        let read = (&begin, blake3::Hasher::new());
        PublishSource {
            input: Input::new(reader, name, read, args.batch as usize, true),
            resume: None,
            begin,
            length: None,
        }
    }
}

fn shown(path: &Path) -> String {
    clean(&path.to_string_lossy())
}

/// The place where an interrupted run stopped, if the ledger still has the events that the note
/// counts as acknowledged. Another log at the same address has none of them, and a log that was
/// restored from a copy has only some.
async fn begin(
    resume: &Resume,
    file: &mut File,
    args: &Args,
    target: &PublishTarget,
) -> Result<(ResumePoint, blake3::Hasher), Failure> {
    let beginning = (ResumePoint::beginning(), blake3::Hasher::new());
    if args.from_start {
        return Ok(beginning);
    }
    let why = match resume.find(file) {
        FoundNote::Nothing => return Ok(beginning),
        FoundNote::Other(why) => why,
        FoundNote::Point(point, read) => {
            let holds = || async {
                match &point.token {
                    Some(token) => target.holds(token).await,
                    None => Ok(false),
                }
            };
            if retrying(args.retry_for(), holds).await? {
                let (file, line) = (shown(&args.file), point.line);
                note(format!("opledger: resuming {file} after line {line}"));
                return Ok((point, *read));
            }
            "the ledger does not have what the last run sent".into()
        }
    };
    note(format!("opledger: starting from the first line: {why}"));
    Ok(beginning)
}

struct PublishRun<'t> {
    target: &'t PublishTarget,
    resume: Option<Resume>,
    /// Everything before it is acknowledged.
    point: ResumePoint,
    accepted: u64,
    saved: Instant,
    bar: ProgressBar,
}

impl PublishRun<'_> {
    async fn send_all(&mut self, input: Input, args: &Args) -> Result<(), Failure> {
        let (sender, receiver) = mpsc::channel(1);
        let name = input.name().to_owned();
        // Not a blocking task: the runtime would wait for it at the end, even if a pipe is silent.
        let reader = std::thread::spawn(move || input.pump(&sender));
        let target = self.target;
        let batches = futures_util::stream::unfold(receiver, |mut receiver| async {
            let batch = receiver.recv().await?;
            Some((batch, receiver))
        });
        let retry_for = args.retry_for();
        let mut responses = batches
            .map(|batch| send(target, batch, retry_for, &name))
            // In the order of the file, so that acknowledged events have no gaps.
            .buffered(args.in_flight as usize)
            .boxed_local();
        while let Some(response) = responses.next().await {
            let (events, point) = response?;
            self.acknowledge(events, point)?;
        }
        // The thread has ended, perhaps by a panic.
        reader
            .join()
            .map_err(|_| Failure::Unexpected(format!("{name} was not read to its end")))
    }

    fn acknowledge(&mut self, events: usize, mut point: ResumePoint) -> Result<(), Failure> {
        point.token = match (self.point.token.take(), point.token) {
            (Some(before), Some(token)) => Some(both(before, &token)?),
            (_, token) => token,
        };
        self.point = point;
        self.accepted += events as u64;
        self.bar.set_position(self.point.offset);
        self.bar.set_message(format!("{} events", self.accepted));
        if self.saved.elapsed() >= SAVE_EVERY {
            self.keep_note(false);
            self.saved = Instant::now();
        }
        Ok(())
    }

    /// Without the note, the next run sends everything again. That is harmless.
    fn keep_note(&self, done: bool) {
        let Some(resume) = &self.resume else {
            return;
        };
        let kept = if done {
            resume.remove()
        } else {
            resume.save(&self.point)
        };
        if let Err(error) = kept {
            note(format!("opledger: {}: {error}", shown(resume.path())));
        }
    }

    fn report(&self, args: &Args, resumed_from: u64) -> Result<(), Failure> {
        let token = self.point.token.as_ref().map(Token::to_string);
        let mut out = Output::new();
        if args.json {
            let outcome = serde_json::json!({
                "accepted": self.accepted,
                "position": token,
                "resumed_from": resumed_from,
            });
            out.line(outcome.to_string())?;
        } else {
            out.line(format!("{} events accepted", self.accepted))?;
            if let Some(token) = token {
                out.line(format!("Ledger-Position: {token}"))?;
            }
        }
        out.flush()
    }
}

/// A position that includes both.
fn both(before: Token, token: &Token) -> Result<Token, Failure> {
    let both = before.join(token);
    // The note on disk still names the first log, so the next run begins at the first line.
    both.ok_or_else(|| {
        Failure::Refused(
            "the ledger's log was replaced by another one during this run: \
             what was sent before is not in it; run the same command again"
                .into(),
        )
    })
}

/// Sends a batch until it is acknowledged, refused, or `retry_for` is over. Returns the number of
/// its events and the point after them.
async fn send(
    target: &PublishTarget,
    batch: Result<EventBatch, Failure>,
    retry_for: Duration,
    file: &str,
) -> Result<(usize, ResumePoint), Failure> {
    let batch = batch?;
    let (events, mut point) = (batch.events.len(), batch.end.clone());
    // The next one is at the end.
    let mut parts = vec![batch];
    while let Some(part) = parts.pop() {
        match retrying(retry_for, || target.post(&part)).await {
            Ok(token) => {
                point.token = Some(match point.token {
                    Some(before) => both(before, &token)?,
                    None => token,
                });
            }
            Err(failure) => match (at_line(failure, &part, file), part.halves()) {
                // The ledger accepts only smaller requests.
                (Failure::TooLarge(_), Some([first, second])) => parts.extend([second, first]),
                (failure, _) => return Err(failure),
            },
        }
    }
    Ok((events, point))
}

/// Names the line instead of the event's index in the batch, as in `[3].data.cluster_id`. For a
/// single event the ledger reports no index.
fn at_line(failure: Failure, batch: &EventBatch, file: &str) -> Failure {
    let (Failure::Refused(why) | Failure::TooLarge(why)) = &failure else {
        return failure;
    };
    let index = why
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    let named = index.and_then(|(index, rest)| {
        let (line, _) = batch.events.get(index.parse::<usize>().ok()?)?;
        Some((*line, rest.trim_start_matches(['.', ':', ' '])))
    });
    let alone = match (&failure, &batch.events[..]) {
        (Failure::TooLarge(why), [(line, _)]) => Some((*line, &why[..])),
        _ => None,
    };
    match named.or(alone) {
        Some((line, why)) => Failure::BadLine {
            file: file.to_owned(),
            line,
            why: format!("refused: {why}"),
        },
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events of the lines 7, 9, 11, …
    fn batch(events: usize) -> EventBatch {
        let lines = (7..).step_by(2).take(events);
        EventBatch {
            events: lines.map(|line| (line, "{}".into())).collect(),
            end: ResumePoint::beginning(),
        }
    }

    #[test]
    fn an_event_index_in_an_error_becomes_a_line_of_the_file() {
        let why = "the ledger refuses: Parameter value error. [1].data.cluster_id: required (code 010002)";
        match at_line(Failure::Refused(why.into()), &batch(2), "events.jsonl") {
            Failure::BadLine { line: 9, why, .. } => {
                assert_eq!(why, "refused: data.cluster_id: required (code 010002)");
            }
            other => panic!("{other}"),
        }
        for why in ["[2].id", "nothing"] {
            let failure = at_line(Failure::Refused(why.into()), &batch(2), "f");
            assert!(matches!(failure, Failure::Refused(_)), "{failure}");
        }
        let large = || Failure::TooLarge("too large".into());
        assert!(matches!(
            at_line(large(), &batch(2), "f"),
            Failure::TooLarge(_)
        ));
        assert!(matches!(
            at_line(large(), &batch(1), "f"),
            Failure::BadLine { line: 7, .. }
        ));
    }
}
