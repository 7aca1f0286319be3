//! `opledger rebuild`: rebuilds the store from the log, while no ledger runs.

use crate::app::{self, Log, Topics};
use crate::audit::rebuild;
use crate::cli::config::{DataArgs, KafkaFlags};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, RECORDS, note, progress};
use crate::cli::text::clean;
use crate::config::Config;
use crate::data_folder::DataFolder;
use crate::domain::{SLICES, Slice};
use crate::event_log::ReadError;
use crate::projector::halt::{Halt, OpenError};
use crate::rows;
use crate::wire::position::Offset;
use clap::value_parser;
use std::sync::Arc;

const EXAMPLES: &str = "\
Examples:
  opledger rebuild --data /var/lib/opledger
  opledger rebuild --config /etc/opledger.toml
  opledger rebuild --data /var/lib/opledger --kafka kafka:9092
  opledger rebuild --data /var/lib/opledger --slice 17

The ledger must not be running. The new store is built beside the old one and
replaces it in one step, so an interruption leaves the old one.

With --slice, the operations of one slice are removed from the store, and the ledger
folds them again at its next start. The others stay, and are served meanwhile.
`opledger digest --json` shows the digest of each slice.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,

    #[command(flatten)]
    kafka: KafkaFlags,

    /// Rebuild only this slice of the store, from 0 to 63
    #[arg(long, value_name = "N", value_parser = value_parser!(u8).range(..i64::from(SLICES)))]
    slice: Option<u8>,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let config = args.data.load(args.kafka)?;
    if let Some(slice) = args.slice {
        return put_back(&config, Slice(slice));
    }
    let folder = if app::uses_kafka(&config) {
        DataFolder::open(&config.data)?
    } else {
        DataFolder::open_existing(&config.data)?
    };
    let log = Log::open(&config, Some(&folder), Topics::Leave)?.port();
    log.identify()?;
    let bounds = log.bounds()?;
    let ends = log.readable()?;
    let first = |partition| {
        bounds
            .get(partition)
            .map_or(Offset::ZERO, |bounds| bounds.first)
    };
    let records = ends.iter().map(|(p, end)| end.since(first(p))).sum();
    let applied = {
        let store = Arc::new(rows::open(&folder.new_store()?, app::memory(&config))?);
        let writer = app::writer(&config, store.clone());
        let bar = progress(Some(records), RECORDS);
        let settings = app::projector(&config);
        let mut count = |records| bar.set_position(records);
        let applied = rebuild::fold_log(&writer, &log, &ends, settings, &mut count)?;
        bar.finish_and_clear();
        if app::uses_kafka(&config)
            && let Err(error) = rebuild::keep_sent(&folder.store(), &writer, app::memory(&config))
        {
            note(format!(
                "opledger: dead letters are sent to their topic again, as the old store does not \
                 say which were sent: {}",
                error.what()
            ));
        }
        store.flush()?;
        applied
    };
    folder.swap()?;
    let mut out = Output::new();
    let store = folder.store().display().to_string();
    out.line(format!("rebuilt {} from {applied} records", clean(&store)))?;
    out.flush()
}

/// The ledger folds the slice again when it starts.
fn put_back(config: &Config, slice: Slice) -> Result<(), Failure> {
    let folder = DataFolder::open_stored(&config.data)?;
    if !app::uses_kafka(config) && !folder.has_log() {
        Err(folder.no_log())?;
    }
    let log = Log::open(config, Some(&folder), Topics::Leave)?.port();
    let store = Arc::new(rows::open(&folder.store(), app::memory(config))?);
    let writer = app::writer(config, store.clone());
    rebuild::put_back(&writer, &*log, slice.into())?;
    store.flush()?;
    let mut out = Output::new();
    let Slice(number) = slice;
    let store = folder.store().display().to_string();
    out.line(format!(
        "removed slice {number} from {}: the ledger folds it again when it starts",
        clean(&store)
    ))?;
    out.flush()
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Failure {
        match error {
            ReadError::Unavailable(why) => Failure::unavailable(why),
            ReadError::Unfit(why) => Failure::Halted(why),
            ReadError::Damaged { .. } => Failure::DataFolder(error.to_string()),
        }
    }
}

impl From<rebuild::Error> for Failure {
    fn from(error: rebuild::Error) -> Failure {
        match error {
            rebuild::Error::Open(OpenError::Halt(Halt::LogDamaged { at, what })) => {
                ReadError::Damaged { at, what }.into()
            }
            rebuild::Error::Open(OpenError::Halt(halt)) => Failure::Halted(halt.to_string()),
            rebuild::Error::Open(OpenError::Store(error)) | rebuild::Error::Store(error) => {
                error.into()
            }
            rebuild::Error::Open(OpenError::Log(why)) => Failure::unavailable(why),
            rebuild::Error::Read(error) => error.into(),
        }
    }
}
