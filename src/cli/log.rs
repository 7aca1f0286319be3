//! `opledger log`: checks and repairs the embedded log or the control log while no ledger runs.

use crate::cli::config::{DataArgs, KafkaFlags};
use crate::cli::failure::Failure;
use crate::cli::output::{progress, say};
use crate::data_folder::DataFolder;
use crate::event_log::embedded::{self, Checked, Damage, Which};
use crate::webhook::control_log::new_record;
use crate::wire::control_record::Control;
use crate::wire::position::{LogId, NextOffsets};
use clap::Subcommand;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  opledger log check --data /var/lib/opledger
  opledger log check --control --data /var/lib/opledger
  opledger log repair --accept-loss --data /var/lib/opledger";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    /// Read the whole log in a data folder and list its damage; changes nothing
    #[command(after_help = CHECK)]
    Check(Where),
    /// Drop the records that cannot be read; keeps the damaged files
    #[command(after_help = REPAIR)]
    Repair {
        #[command(flatten)]
        place: Where,

        /// Accept the loss of the records that cannot be read
        #[arg(long)]
        accept_loss: bool,
    },
}

const CHECK: &str = "\
Examples:
  opledger log check --data /var/lib/opledger
  opledger log check --control --data /var/lib/opledger

The ledger must not be running. Exit status 0: no damage; 7: damage.";

const REPAIR: &str = "\
Examples:
  opledger log repair --data /var/lib/opledger
  opledger log repair --accept-loss --data /var/lib/opledger
  opledger log repair --accept-loss --control --data /var/lib/opledger

The ledger must not be running. Restore damaged files from a backup first, if there is
one. Every record that can be read keeps its position, and no offset is assigned twice.
The original files are kept in a folder beside the log. If records of the control log
are lost, webhook deliveries that are due are held until they are released.";

#[derive(Debug, clap::Args)]
struct Where {
    #[command(flatten)]
    data: DataArgs,

    /// The control log instead of the event log
    #[arg(long)]
    control: bool,
}

pub fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        LogCommand::Check(place) => check(&LogFolder::of(place)?),
        LogCommand::Repair { place, accept_loss } => repair(&LogFolder::of(place)?, accept_loss),
    }
}

struct LogFolder {
    which: Which,
    data: PathBuf,
    log: PathBuf,
    _folder: DataFolder,
}

impl LogFolder {
    fn of(place: Where) -> Result<LogFolder, Failure> {
        let config = place.data.load(KafkaFlags::default())?;
        let which = match place.control {
            true => Which::Control,
            false => Which::Events,
        };
        let log = config.data.join(which.folder());
        if !embedded::is_there(&log) {
            return Err(Failure::DataFolder(format!(
                "{} has no {which}: give another data folder, or restore it from a backup",
                log.display()
            )));
        }
        Ok(LogFolder {
            which,
            _folder: DataFolder::open(&config.data)?,
            data: config.data,
            log,
        })
    }

    fn read(&self) -> Result<Checked, Failure> {
        let form = "{bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left";
        let bar = progress(Some(embedded::total_bytes(&self.log)), form);
        let checked = embedded::check(&self.log, self.which, &mut |bytes| bar.inc(bytes));
        bar.finish_and_clear();
        Ok(checked?)
    }
}

fn check(place: &LogFolder) -> Result<(), Failure> {
    let checked = place.read()?;
    let which = place.which;
    let mut found = format!(
        "{which} {}: {} records in {} partitions",
        checked.id, checked.records, checked.partitions
    );
    for note in &checked.notes {
        found += &format!("\n  {note}");
    }
    found += &list(&place.log, &checked.damages);
    if checked.damages.is_empty() {
        return say(found + "\nno damage");
    }
    // The exit status says it, too, so an error of the output is ignored.
    let _ = say(found);
    let flag = flag(which);
    Err(Failure::DataFolder(format!(
        "the {which} is damaged: {}\n  restore the files from a backup if you can; otherwise \
         `opledger log repair --accept-loss --data {}{flag}` drops the records that cannot be read \
         and keeps the damaged files",
        total(&checked.damages),
        place.data.display()
    )))
}

fn flag(which: Which) -> &'static str {
    match which {
        Which::Events => "",
        Which::Control => " --control",
    }
}

/// One line for each file, followed by its damage.
fn list(log: &Path, damages: &[Damage]) -> String {
    let each = damages.iter().map(|damage| {
        let file = log.join(&damage.file);
        format!("\n  {}\n    {damage}", file.display())
    });
    each.collect()
}

/// How many records cannot be read in all.
fn lost(damages: &[Damage]) -> Option<u64> {
    damages.iter().map(|damage| damage.records).sum()
}

fn total(damages: &[Damage]) -> String {
    match lost(damages) {
        Some(1) => "1 record cannot be read".into(),
        Some(records) => format!("{records} records cannot be read"),
        None => "an unknown number of records cannot be read".into(),
    }
}

fn repair(place: &LogFolder, accept_loss: bool) -> Result<(), Failure> {
    let which = place.which;
    let checked = place.read()?;
    if checked.damages.is_empty() {
        return say("no damage, nothing was changed");
    }
    let damages = list(&place.log, &checked.damages);
    let damages = damages.trim_start_matches('\n');
    let loses = lost(&checked.damages) != Some(0);
    if loses && !accept_loss {
        let _ = say(damages);
        return Err(Failure::Refused(format!(
            "{}: nothing was changed\n  give --accept-loss to drop them",
            total(&checked.damages)
        )));
    }
    // The event log's end is recorded, so that deliveries due before it are held.
    let holds = match (which, loses) {
        (Which::Control, true) => events(place)?,
        _ => None,
    };
    let repaired = embedded::repair(&place.log, which, &mut |_| {})?;
    let Some(repaired) = repaired else {
        return Ok(());
    };
    if let Some((id, ends)) = holds {
        let now = crate::clock::now();
        let lost = new_record(&Control::Lost { log: id, ends }, now);
        embedded::append(&place.log, which, lost, now)?;
    }
    let repaired_is = format!(
        "{damages}\nrepaired: {}; the original files are in {}",
        match repaired.lost {
            Some(0) => "no record is lost".into(),
            Some(1) => "1 record is lost".into(),
            Some(records) => format!("{records} records are lost"),
            None => String::from("an unknown number of records is lost"),
        },
        place.log.join(&repaired.kept).display()
    );
    let data = place.data.display();
    let advice = match (which, repaired.new_identity) {
        (Which::Events, Some(id)) => format!(
            "\nthe end of the log is unknown, so it has a new identity, {id}: earlier positions \
             are not valid any more\n\
             now run `opledger rebuild --data {data}`"
        ),
        (Which::Events, None) if loses => format!(
            "\nnow run `opledger rebuild --data {data}`: the store may contain records that the \
             log has lost"
        ),
        (Which::Control, Some(_)) => format!(
            "\nthe end of the log is unknown, so it has a new identity\n\
             now run `opledger rebuild --data {data}`; webhook deliveries that are due are held until \
             they are released"
        ),
        (Which::Control, None) if loses => format!(
            "\nnow run `opledger rebuild --data {data}`; webhook deliveries that are due are held \
             until they are released: `opledger notifications`"
        ),
        _ => String::new(),
    };
    // After everything is done: an error of the output must not end a repair.
    say(repaired_is + &advice)
}

/// The identity and the ends of the event log that belongs to the control log.
fn events(place: &LogFolder) -> Result<Option<(LogId, NextOffsets)>, Failure> {
    let log = place.data.join(Which::Events.folder());
    if !embedded::is_there(&log) {
        return Ok(None);
    }
    let checked = embedded::ends(&log, Which::Events)?;
    Ok(Some((checked.id, checked.ends)))
}
