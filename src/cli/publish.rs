//! `opledger publish`: sends a file of events to a running ledger.
//!
//! Events are known by their ids, so sending one again is harmless. Everything
//! here rests on that: a request whose answer was lost is sent again, and a run
//! that was interrupted takes up at the last point that was surely acknowledged.

mod input;
mod resume;
mod target;

use crate::cli::client::Connection;
use crate::cli::config::{ConfigSource, KafkaFlags};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, note};
use crate::cli::text::clean;
use crate::output::stderr_is_terminal;
use crate::wire::position::Token;
use backon::{ExponentialBuilder, Retryable};
use clap::ValueHint;
use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
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

/// For one answer: the ledger itself gives up on its log earlier than this.
const PATIENCE: Duration = Duration::from_secs(60);
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
    let mut publishing = PublishRun {
        target: &target,
        resume: source.resume,
        point: source.begin,
        accepted: 0,
        saved: Instant::now(),
        bar: progress(source.length, begin.offset),
    };
    let outcome = tokio::select! {
        outcome = publishing.send_all(source.input, &args) => outcome,
        // What is under way may or may not arrive; the next run sends it again.
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
            // Once listened to, the signal ends nothing by itself any more.
            _ = tokio::signal::ctrl_c() => return Err(Failure::Interrupted),
        }
    }
    publishing.tell(&args, begin.offset)
}

struct PublishSource {
    input: Input,
    /// Only a file can be taken up again.
    resume: Option<Resume>,
    begin: ResumePoint,
    length: Option<u64>,
}

impl PublishSource {
    async fn open(args: &Args, target: &PublishTarget) -> Result<PublishSource, Failure> {
        let events_max = args.batch as usize;
        if args.file.as_os_str() == "-" {
            return Ok(PublishSource {
                input: Input {
                    reader: Box::new(std::io::stdin()),
                    name: "standard input".into(),
                    offset: 0,
                    line: 0,
                    read: blake3::Hasher::new(),
                    events_max,
                    is_live: true,
                },
                resume: None,
                begin: ResumePoint::beginning(),
                length: None,
            });
        }
        let unreadable = |source| Failure::File {
            path: args.file.clone(),
            source,
        };
        let mut file = File::open(&args.file).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        // A pipe or a device has no length and no place to return to.
        let length = metadata.is_file().then_some(metadata.len());
        let resume = length.map(|_| Resume::new(&args.file, target.name()));
        let (begin, read) = match &resume {
            Some(resume) => {
                let (begin, read) = begin(resume, &mut file, args, target).await?;
                file.seek(SeekFrom::Start(begin.offset))
                    .map_err(unreadable)?;
                (begin, read)
            }
            None => (ResumePoint::beginning(), blake3::Hasher::new()),
        };
        let reader: Box<dyn Read + Send> = Box::new(file);
        Ok(PublishSource {
            input: Input {
                reader,
                name: shown(&args.file),
                offset: begin.offset,
                line: begin.line,
                read,
                events_max,
                is_live: length.is_none(),
            },
            resume,
            begin,
            length,
        })
    }
}

fn shown(path: &Path) -> String {
    clean(&path.to_string_lossy())
}

/// Where the last run was, if it was interrupted and the ledger still holds what the
/// note counts as acknowledged. Another log at the same address has nothing of it, one
/// that was brought back from a copy only a part.
async fn begin(
    resume: &Resume,
    file: &mut File,
    args: &Args,
    target: &PublishTarget,
) -> Result<(ResumePoint, blake3::Hasher), Failure> {
    let anew = (ResumePoint::beginning(), blake3::Hasher::new());
    if args.from_start {
        return Ok(anew);
    }
    let why = match resume.find(file) {
        FoundNote::Nothing => return Ok(anew),
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
    Ok(anew)
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
        let name = input.name.clone();
        // Not a blocking task: one that waits for a pipe would be waited for at the end.
        let reader = std::thread::spawn(move || input.pump(&sender));
        let target = self.target;
        let batches = futures_util::stream::unfold(receiver, |mut receiver| async {
            let batch = receiver.recv().await?;
            Some((batch, receiver))
        });
        let retry_for = args.retry_for();
        let mut answers = batches
            .map(|batch| send(target, batch, retry_for, &name))
            // In the order of the file, so that what is acknowledged has no gaps.
            .buffered(args.in_flight as usize)
            .boxed_local();
        while let Some(answer) = answers.next().await {
            let (batch, token) = answer?;
            self.acknowledge(batch, token)?;
        }
        // It has ended, since nothing more comes of it: but how?
        reader
            .join()
            .map_err(|_| Failure::Unexpected(format!("{name} was not read to its end")))
    }

    fn acknowledge(&mut self, batch: EventBatch, token: Token) -> Result<(), Failure> {
        let before = self.point.token.take();
        if before
            .as_ref()
            .is_some_and(|before| before.log != token.log)
        {
            // The note on disk still names the log before: the next run begins anew.
            return Err(Failure::Refused(
                "the ledger's log was replaced by another one during this run: \
                 what was sent before is not in it; run the same command again"
                    .into(),
            ));
        }
        self.accepted += batch.lines.len() as u64;
        self.point.offset = batch.end;
        self.point.digest = batch.digest;
        self.point.line = batch.lines.last().copied().unwrap_or(self.point.line);
        self.point.token = Some(match before {
            Some(before) => merge(before, token),
            None => token,
        });
        self.bar.set_position(batch.end);
        self.bar.set_message(format!("{} events", self.accepted));
        if self.saved.elapsed() >= SAVE_EVERY {
            self.keep_note(false);
            self.saved = Instant::now();
        }
        Ok(())
    }

    /// A note that cannot be kept costs sending again, nothing else.
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

    fn tell(&self, args: &Args, resumed_from: u64) -> Result<(), Failure> {
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

/// The later offset of each partition; both are of the same log.
fn merge(before: Token, mut token: Token) -> Token {
    for (&partition, &offset) in before.positions.iter() {
        token.positions.raise(partition, offset);
    }
    token
}

/// Tries again while that can help, for so long after the first failure. The pauses do
/// not tell how long that is: an attempt that is not answered takes its time, too.
async fn retrying<T, F: Future<Output = Result<T, Failure>>>(
    retry_for: Duration,
    attempt: impl FnMut() -> F,
) -> Result<T, Failure> {
    let pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .with_total_delay(Some(retry_for))
        .without_max_times()
        .with_jitter();
    let mut failed = None;
    let can_help = |failure: &Failure| {
        let since: &mut Instant = failed.get_or_insert_with(Instant::now);
        failure.is_transient() && since.elapsed() < retry_for
    };
    attempt.retry(pauses).when(can_help).await
}

/// Until it is acknowledged, refused, or has been tried for long enough.
async fn send(
    target: &PublishTarget,
    batch: Result<EventBatch, Failure>,
    retry_for: Duration,
    file: &str,
) -> Result<(EventBatch, Token), Failure> {
    let batch = batch?;
    let mut token: Option<Token> = None;
    // From the last, so that they are sent in order.
    let mut parts = vec![batch.clone()];
    while let Some(part) = parts.pop() {
        let post = || target.post(&part);
        let sent = match retrying(retry_for, post).await {
            Ok(sent) => sent,
            Err(failure) => match (at_line(failure, &part, file), part.halves()) {
                // The ledger takes smaller requests than ours.
                (Failure::TooLarge(_), Some([first, second])) => {
                    parts.extend([second, first]);
                    continue;
                }
                (failure, _) => return Err(failure),
            },
        };
        token = Some(match token {
            Some(before) if before.log == sent.log => merge(before, sent),
            _ => sent,
        });
    }
    let token = token.ok_or_else(|| Failure::Unexpected("an empty batch".into()))?;
    Ok((batch, token))
}

/// The ledger names an event by its place in the batch, `[3].data.cluster_id`, unless
/// there is one alone.
fn at_line(failure: Failure, batch: &EventBatch, file: &str) -> Failure {
    let (Failure::Refused(why) | Failure::TooLarge(why)) = &failure else {
        return failure;
    };
    let index = why
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    let named = index.and_then(|(index, rest)| {
        let line = *batch.lines.get(index.parse::<usize>().ok()?)?;
        Some((line, rest.trim_start_matches(['.', ':', ' '])))
    });
    let alone = match (&failure, &batch.lines[..]) {
        (Failure::TooLarge(why), [line]) => Some((*line, &why[..])),
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

/// On standard error, and only on a terminal.
fn progress(length: Option<u64>, begin: u64) -> ProgressBar {
    if !stderr_is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, form) = match length {
        Some(length) => {
            let form = "{bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left, {msg}";
            (ProgressBar::new(length), form)
        }
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}, {msg}"),
    };
    let bar = bar.with_style(ProgressStyle::with_template(form).expect("a template of ours"));
    // What an earlier run has sent is no speed of this one.
    bar.with_position(begin).with_elapsed(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(events: usize) -> EventBatch {
        let text: String = (7..)
            .step_by(2)
            .take(events)
            .map(|n| format!("{{\"n\":{n}}}\n\n"))
            .collect();
        let (sender, mut receiver) = mpsc::channel(1);
        let input = Input {
            reader: Box::new(std::io::Cursor::new(text)),
            name: "events.jsonl".into(),
            offset: 0,
            line: 6,
            read: blake3::Hasher::new(),
            events_max: 100,
            is_live: false,
        };
        input.pump(&sender);
        receiver.try_recv().unwrap().unwrap()
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

    #[test]
    fn retrying_ends_in_time_however_long_an_attempt_takes() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        let mut attempts = 0;
        let attempt = || {
            attempts += 1;
            async {
                // As one that is not answered.
                tokio::time::sleep(Duration::from_millis(800)).await;
                Err::<(), _>(Failure::Unavailable {
                    why: "no answer".into(),
                    retry_after: None,
                })
            }
        };
        let outcome = retrying(Duration::from_millis(700), attempt);
        assert!(runtime.unwrap().block_on(outcome).is_err());
        assert_eq!(attempts, 2, "the second one ends behind the time");
    }

    #[test]
    fn tokens_merge_to_the_later_offset() {
        let token = |text: &str| text.parse::<Token>().unwrap();
        let merged = merge(token("abcd1234;0:7,2:9"), token("abcd1234;0:3,1:4"));
        assert_eq!(merged, token("abcd1234;0:7,1:4,2:9"));
    }
}
