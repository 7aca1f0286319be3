//! `opledger replay`: folds a log or a file of events without a server.

use crate::app::{self, Log, Topics};
use crate::audit::file::Lines;
use crate::audit::rebuild::{self, fold_all};
use crate::audit::replay::{self, write_document, write_documents};
use crate::cli::config::{ConfigSource, KafkaFlags};
use crate::cli::failure::Failure;
use crate::cli::operation_id;
use crate::cli::output::{Output, RECORDS, lost, note, progress};
use crate::config::{Config, Overrides};
use crate::data_folder::DataFolder;
use crate::domain::{OperationId, Slices, Timestamp};
use crate::event_log::{Identity, Reader, Share};
use crate::projector::Tally;
use crate::projector::step::Rules;
use crate::rows::{self, letters};
use crate::store::rocks::Rocks;
use crate::store::{self, Db};
use crate::wire::position::{LastOffsets, LogId, NextOffsets, Offset, Partition, Token};
use crate::wire::time::parse_rfc3339;
use clap::ValueHint;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::str::FromStr;

const EXAMPLES: &str = "\
Examples:
  opledger replay events.jsonl
  opledger replay events.jsonl --id 0001561626000500
  opledger replay --data /var/lib/opledger > documents.jsonl
  opledger replay --kafka kafka:9092 --from 2026-11-01T00:00:00Z
  opledger replay --kafka kafka:9092 --to 0:1041,1:7

Prints one document per line, oldest operation first. Invalid records are reported
on standard error, and the exit status is 4.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// File with events, one CloudEvent per line; `-` reads standard input. Without it,
    /// reads the topic of --kafka, or the log in the data folder, which no running ledger
    /// may be using
    #[arg(value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,

    /// The ledger's data folder [default: ./opledger-data]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "file")]
    data: Option<String>,

    #[command(flatten)]
    kafka: KafkaFlags,

    /// First record: positions (`0:120,3:7`, inclusive; other partitions are read from
    /// their beginning), or an arrival time (RFC 3339)
    #[arg(long, value_name = "POSITION|TIME", conflicts_with = "file")]
    from: Option<Edge>,

    /// Last record: positions (inclusive; other partitions are left out), or an arrival
    /// time (exclusive)
    #[arg(long, value_name = "POSITION|TIME", conflicts_with = "file")]
    to: Option<Edge>,

    /// Only the document of this operation
    #[arg(long, value_name = "ID", value_parser = operation_id)]
    id: Option<String>,

    #[command(flatten)]
    source: ConfigSource,
}

/// The beginning or end of a range of the log.
#[derive(Debug, Clone)]
enum Edge {
    /// With the log that they belong to, if it was given.
    At(Option<LogId>, LastOffsets),
    Time(Timestamp),
}

impl FromStr for Edge {
    type Err = String;

    fn from_str(text: &str) -> Result<Edge, String> {
        if let Ok(time) = parse_rfc3339(text) {
            return Ok(Edge::Time(time));
        }
        // With the log's id in front, as the ledger returns it, or without.
        let token = match text.contains(';') {
            true => text.parse::<Token>(),
            false => format!("{};{text}", NO_LOG).parse::<Token>(),
        };
        match token {
            Ok(token) => Ok(Edge::At(
                (token.log != NO_LOG).then_some(token.log),
                token.positions,
            )),
            Err(_) => Err("neither positions (0:120,3:7) nor a time (RFC 3339)".into()),
        }
    }
}

/// A file has no log identity.
const NO_LOG: LogId = LogId(*b"00000000");

pub fn run(args: Args) -> Result<(), Failure> {
    let config = args.source.load(Overrides {
        data: args.data.clone(),
        ..args.kafka.clone().overrides()
    })?;
    let scratch = tempfile::tempdir()
        .map_err(|error| Failure::DataFolder(format!("no folder for temporary files: {error}")))?;
    let store = rows::open(scratch.path(), app::memory(&config))?;
    let bad = match &args.file {
        None => fold_log(&store, &config, &args)?,
        Some(path) if path.as_os_str() == "-" => {
            let name = Path::new("standard input");
            fold_file(&store, &config, name, BufReader::new(std::io::stdin()))?
        }
        Some(path) => {
            let file = File::open(path).map_err(|source| Failure::File {
                path: path.clone(),
                source,
            })?;
            fold_file(&store, &config, path, BufReader::new(file))?
        }
    };
    let times = app::times(&config);
    let mut out = Output::new();
    match &args.id {
        None => write_documents(&store, &times, &mut out.json_writer())?,
        Some(id) => {
            if !write_document(&store, OperationId(id), &times, &mut out.json_writer())? {
                return Err(Failure::NotFound(format!("there is no operation {id}")));
            }
        }
    }
    out.flush()?;
    if bad > 0 {
        report_bad_records(&store, args.file.is_some())?;
        let s = if bad == 1 { "" } else { "s" };
        return Err(Failure::Refused(format!("{bad} invalid record{s}")));
    }
    Ok(())
}

fn fold_file(
    store: &Rocks,
    config: &Config,
    path: &Path,
    input: impl BufRead + Send + 'static,
) -> Result<u64, Failure> {
    let identity = Identity {
        id: NO_LOG,
        name: "a file".into(),
    };
    let mut lines = Lines::new(input);
    let folded = fold(store, &identity, &mut lines, None, app::rules(config));
    match lines.failed() {
        None => folded,
        Some(source) => Err(Failure::File {
            path: path.to_owned(),
            source,
        }),
    }
}

fn fold_log(store: &Rocks, config: &Config, args: &Args) -> Result<u64, Failure> {
    // On Kafka the data folder has no part in it, and a ledger may be running there.
    let folder = match app::uses_kafka(config) {
        true => None,
        false => Some(DataFolder::open_existing(&config.data)?),
    };
    let log = Log::open(config, folder.as_ref(), Topics::Leave)?;
    let port = log.port();
    let identity = port.identify()?;
    let bounds = port.bounds()?;
    let mut ends = port.readable()?;
    for edge in [&args.from, &args.to].into_iter().flatten() {
        if let Edge::At(Some(log), _) = edge
            && *log != identity.id
        {
            let found = &identity;
            let why = format!("the positions belong to the log {log}, but this is the log {found}");
            return Err(Failure::Refused(why));
        }
        if let Edge::At(_, positions) = edge
            && let Some(strange) = positions.keys().find(|p| !bounds.contains_key(p))
        {
            return Err(Failure::Refused(format!(
                "the log has no partition {strange}"
            )));
        }
    }
    let begins = match &args.from {
        None => NextOffsets::default(),
        // Its own record comes next.
        Some(Edge::At(_, positions)) => positions.clone().into_iter().collect(),
        Some(Edge::Time(time)) => log.offsets_at(*time)?,
    };
    let within = |(partition, at): (Partition, Offset)| {
        let bounds = bounds.get(&partition)?;
        Some((partition, at.min(bounds.end).max(bounds.first)))
    };
    let from: NextOffsets = begins.into_iter().filter_map(within).collect();
    let stops = match &args.to {
        None => NextOffsets::default(),
        Some(Edge::At(_, positions)) => {
            ends.retain(|partition, _| positions.contains_key(partition));
            positions.next()
        }
        Some(Edge::Time(time)) => log.offsets_at(*time)?,
    };
    for (partition, end) in ends.iter_mut() {
        *end = (*end).min(*stops.get(partition).unwrap_or(end));
    }
    let mut reader = port.reader(identity.id, &from, Share::ALL)?;
    fold(
        store,
        &identity,
        &mut *reader,
        Some(&ends),
        app::rules(config),
    )
}

/// How many records are invalid.
fn fold(
    store: &Rocks,
    log: &Identity,
    reader: &mut dyn Reader,
    ends: Option<&NextOffsets>,
    rules: Rules,
) -> Result<u64, Failure> {
    let begin = reader.next();
    let left = |(partition, end): (&Partition, &Offset)| {
        end.since(begin.get(partition).copied().unwrap_or_default())
    };
    let bar = match ends.map(|ends| ends.iter().map(left).sum()) {
        None => progress(None, "{spinner} {pos} records, {per_sec}"),
        total => progress(total, RECORDS),
    };
    let mut bad = 0;
    let mut projection = rebuild::begin(store, log)?;
    let mut count = |records, tally: &Tally| {
        bar.inc(records as u64);
        bad += tally.dead_letters.values().sum::<u64>();
    };
    fold_all(store, &mut projection, reader, ends, rules, &mut count)?;
    bar.finish_and_clear();
    Ok(bad)
}

/// Reports the positions and reasons of the first ones, never their content.
fn report_bad_records(db: &dyn Db, is_file: bool) -> Result<(), Failure> {
    let mut left = 20;
    store::view(db, |view| {
        letters::scan(view, Slices::ALL, None, &mut |letter| {
            let (_, detail, _) = letters::decode(&letter.row)?;
            match is_file {
                true => note(format!("line {}: {detail}", letter.at.offset.next())),
                false => note(format!("{}: {detail}", letter.at)),
            }
            left -= 1;
            Ok(match left {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            })
        })
    })?;
    Ok(())
}

impl From<replay::Error> for Failure {
    fn from(error: replay::Error) -> Failure {
        match error {
            replay::Error::Store(error) => error.into(),
            replay::Error::Output(error) => lost(error),
        }
    }
}
