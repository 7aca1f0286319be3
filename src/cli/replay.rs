//! `opledger replay`: what a log or a file of events amounts to, without a server.

use crate::app;
use crate::audit::file::Lines;
use crate::audit::rebuild::fold_all;
use crate::audit::replay::{self, write_document, write_documents};
use crate::cli::config::Source;
use crate::cli::failure::Failure;
use crate::cli::rebuild::progress;
use crate::data_folder::DataFolder;
use crate::event_log::{EventLog, Reader};
use crate::query::{Page, dead_letters};
use crate::store::rocks::Rocks;
use crate::store::{Db, Family};
use crate::wire::position::{LogId, Position, Positions};
use clap::ValueHint;
use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  opledger replay events.jsonl
  opledger replay events.jsonl --id 0001561626000500
  opledger replay --data /var/lib/opledger > documents.jsonl

Prints one document a line, the oldest operation first. Events that cannot be
read are told on standard error, and the exit status is 4.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Events, one CloudEvent a line; `-` reads standard input. Without it, the log in
    /// the data folder, which no running ledger may be using
    #[arg(value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,

    /// Folder that holds the ledger's data [default: ./opledger-data]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "file")]
    data: Option<String>,

    /// Only the document of this operation
    #[arg(long, value_name = "ID")]
    id: Option<String>,

    #[command(flatten)]
    source: Source,
}

/// A file belongs to no log.
const NO_LOG: LogId = LogId(*b"00000000");

pub fn run(args: Args) -> Result<(), Failure> {
    let config = args.source.load(args.data, None)?;
    let scratch = tempfile::tempdir()
        .map_err(|error| Failure::DataFolder(format!("no folder for temporary files: {error}")))?;
    let store = Rocks::open(scratch.path(), Family::LEDGER, app::memory(&config))?;
    let bad = match &args.file {
        None => {
            let folder = DataFolder::open_existing(&config.data)?;
            let log = app::open_log(&config, &folder)?;
            let total = log.bounds()?.values().map(|bounds| bounds.end).sum();
            fold(
                &store,
                log.id(),
                &mut *log.reader(&Positions::new())?,
                Some(total),
            )?
        }
        Some(path) if path.as_os_str() == "-" => fold(
            &store,
            NO_LOG,
            &mut Lines::new(BufReader::new(std::io::stdin())),
            None,
        )?,
        Some(path) => {
            let file = File::open(path).map_err(|source| Failure::File {
                path: path.clone(),
                source,
            })?;
            fold(&store, NO_LOG, &mut Lines::new(BufReader::new(file)), None)?
        }
    };
    let times = app::times(&config);
    let mut out = BufWriter::new(std::io::stdout().lock());
    match &args.id {
        None => write_documents(&store, &times, &mut out)?,
        Some(id) => {
            if !write_document(&store, id, &times, &mut out)? {
                return Err(Failure::NotFound(format!("there is no operation {id}")));
            }
        }
    }
    out.flush().map_err(replay::Error::Output)?;
    if bad > 0 {
        tell_bad_records(&store, args.file.is_some())?;
        return Err(Failure::Refused(format!("{bad} records are not events")));
    }
    Ok(())
}

/// How many records are not events.
fn fold(
    store: &Rocks,
    log: LogId,
    reader: &mut dyn Reader,
    total: Option<u64>,
) -> Result<u64, Failure> {
    let bar = progress(total);
    let mut bad = 0;
    fold_all(store, log, reader, &mut |records, tally| {
        bar.inc(records as u64);
        bad += tally.dead_letters.values().sum::<u64>();
    })?;
    bar.finish_and_clear();
    Ok(bad)
}

/// Where the first of them are and why; never what they hold.
fn tell_bad_records(store: &dyn Db, is_file: bool) -> Result<(), Failure> {
    let first = Page {
        after: None,
        limit: Some(20),
    };
    let mut body = Vec::new();
    dead_letters::stream(store, &first, &mut |piece| {
        body.extend_from_slice(piece);
        ControlFlow::Continue(())
    })?;
    let body: serde_json::Value = serde_json::from_slice(&body)
        .map_err(|error| Failure::Unexpected(format!("our own dead letters: {error}")))?;
    for letter in body["dead_letters"].as_array().into_iter().flatten() {
        let position = letter["position"].as_str().unwrap_or_default();
        let place = match position.parse::<Position>() {
            Ok(at) if is_file => format!("line {}", at.offset + 1),
            Ok(_) | Err(_) => position.to_owned(),
        };
        eprintln!("{place}: {}", letter["detail"].as_str().unwrap_or_default());
    }
    Ok(())
}

impl From<replay::Error> for Failure {
    fn from(error: replay::Error) -> Failure {
        match error {
            replay::Error::Store(error) => error.into(),
            replay::Error::Output(error) if error.kind() == ErrorKind::BrokenPipe => {
                Failure::OutputClosed
            }
            replay::Error::Output(error) => Failure::Output(error),
        }
    }
}
