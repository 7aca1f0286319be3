//! `opledger rebuild`: makes the store anew from the log, off line.

use crate::app;
use crate::audit::rebuild::{self, fold_all};
use crate::cli::config::Source;
use crate::cli::failure::Failure;
use crate::data_folder::DataFolder;
use crate::event_log::{EventLog, ReadError};
use crate::projector::halt::OpenError;
use crate::store::Family;
use crate::store::rocks::Rocks;
use crate::wire::position::Positions;
use clap::ValueHint;
use indicatif::{ProgressBar, ProgressStyle};

const EXAMPLES: &str = "\
Examples:
  opledger rebuild --data /var/lib/opledger
  opledger rebuild --config /etc/opledger.toml

The ledger must not be running. The new store is folded from the log beside the
old one and takes its place in one step: an interruption leaves the old one.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder that holds the ledger's data [default: ./opledger-data]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    data: Option<String>,

    #[command(flatten)]
    source: Source,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let config = args.source.load(args.data, None)?;
    let folder = DataFolder::open_existing(&config.data)?;
    let log = app::open_log(&config, &folder)?;
    let records = log.bounds()?.values().map(|bounds| bounds.end).sum();
    {
        let store = Rocks::open(&folder.new_store()?, Family::LEDGER, app::memory(&config))?;
        let mut reader = log.reader(&Positions::new())?;
        let bar = progress(Some(records));
        fold_all(&store, log.id(), &mut *reader, &mut |cut, _| {
            bar.inc(cut as u64)
        })?;
        bar.finish_and_clear();
        store.flush()?;
    }
    folder.swap()?;
    println!(
        "rebuilt {} from {records} records",
        folder.store().display()
    );
    Ok(())
}

/// On standard error, and only on a terminal.
pub fn progress(total: Option<u64>) -> ProgressBar {
    let (bar, form) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{bar:30} {pos}/{len} records, {per_sec}, {eta} left",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {pos} records, {per_sec}",
        ),
    };
    bar.with_style(ProgressStyle::with_template(form).expect("a template of ours"))
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Failure {
        Failure::DataFolder(error.to_string())
    }
}

impl From<rebuild::Error> for Failure {
    fn from(error: rebuild::Error) -> Failure {
        match error {
            rebuild::Error::Open(OpenError::Halt(halt)) => Failure::Halted(halt.to_string()),
            rebuild::Error::Open(OpenError::Store(error)) | rebuild::Error::Store(error) => {
                error.into()
            }
            rebuild::Error::Read(error) => error.into(),
        }
    }
}
