//! `opledger log`: reads the embedded log or the control log whole, off line, and repairs what
//! cannot be read.

use crate::cli::config::Source;
use crate::cli::failure::Failure;
use crate::cli::output::say;
use crate::config::Overrides;
use crate::data_folder::DataFolder;
use crate::event_log::embedded::{self, Checked, Damage, Which};
use crate::projector::control;
use crate::wire::position::{LogId, NextOffsets};
use clap::{Subcommand, ValueHint};
use indicatif::{ProgressBar, ProgressStyle};
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
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read all of the log in a data folder and list what is damaged; changes nothing
    #[command(after_help = CHECK)]
    Check(Where),
    /// Go on without the records that cannot be read; keeps the damaged files aside
    #[command(after_help = REPAIR)]
    Repair {
        #[command(flatten)]
        place: Where,

        /// Accept that the records which cannot be read are lost for good
        #[arg(long)]
        accept_loss: bool,
    },
}

const CHECK: &str = "\
Examples:
  opledger log check --data /var/lib/opledger
  opledger log check --control --data /var/lib/opledger

The ledger must not be running. Exit status 0: nothing is damaged; 7: something is.";

const REPAIR: &str = "\
Examples:
  opledger log repair --data /var/lib/opledger
  opledger log repair --accept-loss --data /var/lib/opledger
  opledger log repair --accept-loss --control --data /var/lib/opledger

The ledger must not be running. Bring a damaged file back from a copy first, if there
is one: a repair is for what nobody has any more. Every record that can be read keeps
its position, and no offset is given twice. The files as they were are kept in a folder
beside the log. After records of the control log were lost, notifications that were due
are held until they are released.";

#[derive(Debug, clap::Args)]
struct Where {
    /// Folder that holds the ledger's data [default: ./opledger-data]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    data: Option<String>,

    /// The control log instead of the event log
    #[arg(long)]
    control: bool,

    #[command(flatten)]
    source: Source,
}

pub fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        Command::Check(place) => check(&Place::of(place)?),
        Command::Repair { place, accept_loss } => repair(&Place::of(place)?, accept_loss),
    }
}

struct Place {
    which: Which,
    data: PathBuf,
    log: PathBuf,
    _folder: DataFolder,
}

impl Place {
    fn of(place: Where) -> Result<Place, Failure> {
        let config = place.source.load(Overrides {
            data: place.data,
            ..Overrides::default()
        })?;
        let which = match place.control {
            true => Which::Control,
            false => Which::Events,
        };
        let log = config.data.join(which.folder());
        if !embedded::is_there(&log) {
            return Err(Failure::DataFolder(format!(
                "{} holds no {which}: name another data folder, or bring it back from a copy",
                log.display()
            )));
        }
        Ok(Place {
            which,
            _folder: DataFolder::open(&config.data)?,
            data: config.data,
            log,
        })
    }

    fn read(&self) -> Result<Checked, Failure> {
        let bar = progress(embedded::total_bytes(&self.log));
        let checked = embedded::check(&self.log, self.which, &mut |bytes| bar.inc(bytes));
        bar.finish_and_clear();
        Ok(checked?)
    }
}

/// On standard error, and only on a terminal.
fn progress(total: u64) -> ProgressBar {
    let form = "{bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(form).expect("a template of ours");
    ProgressBar::new(total).with_style(style)
}

fn check(place: &Place) -> Result<(), Failure> {
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
        return say(found + "\nnothing is damaged");
    }
    // The exit status says it as well, also where nobody reads.
    let _ = say(found);
    let flag = flag(which);
    Err(Failure::DataFolder(format!(
        "the {which} is damaged: {}\n  bring the files back as they were, if you can; \
         `opledger log repair --accept-loss --data {}{flag}` keeps them aside and goes on without \
         the records that cannot be read",
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

/// A file a line, and below it what is damaged there.
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
        None => "nobody knows how many records cannot be read".into(),
    }
}

fn repair(place: &Place, accept_loss: bool) -> Result<(), Failure> {
    let which = place.which;
    let checked = place.read()?;
    if checked.damages.is_empty() {
        return say("nothing is damaged, and nothing was changed");
    }
    let damages = list(&place.log, &checked.damages);
    let damages = damages.trim_start_matches('\n');
    let loses = lost(&checked.damages) != Some(0);
    if loses && !accept_loss {
        let _ = say(damages);
        return Err(Failure::Refused(format!(
            "{}: nothing was changed\n  give --accept-loss to go on without them",
            total(&checked.damages)
        )));
    }
    // What is lost of the control log is made good by what the event log says.
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
        embedded::append(&place.log, which, control::lost(id, ends, now), now)?;
    }
    let repaired_is = format!(
        "{damages}\nrepaired: {}; the files as they were are in {}",
        match repaired.lost {
            Some(0) => "no record is lost".into(),
            Some(1) => "1 record is lost".into(),
            Some(records) => format!("{records} records are lost"),
            None => String::from("nobody knows how many records are lost"),
        },
        place.log.join(&repaired.kept).display()
    );
    let data = place.data.display();
    let advice = match (which, repaired.new_identity) {
        (Which::Events, Some(id)) => format!(
            "\nhow far the log went is not known: it is the log {id} from now on, and positions \
             that were given before mean nothing in it\n\
             now run `opledger rebuild --data {data}`"
        ),
        (Which::Events, None) if loses => format!(
            "\nnow run `opledger rebuild --data {data}`: the store may hold what the log does not \
             have any more"
        ),
        (Which::Control, Some(_)) => format!(
            "\nhow far the log went is not known: it is another log from now on\n\
             now run `opledger rebuild --data {data}`; notifications that were due are held until \
             they are released"
        ),
        (Which::Control, None) if loses => format!(
            "\nnow run `opledger rebuild --data {data}`; notifications that were due are held \
             until they are released: `opledger notifications`"
        ),
        _ => String::new(),
    };
    // Not before all is done: nobody may read it, and that must not end a repair.
    say(repaired_is + &advice)
}

/// Which event log lies beside the control log, and where it ends.
fn events(place: &Place) -> Result<Option<(LogId, NextOffsets)>, Failure> {
    let log = place.data.join(Which::Events.folder());
    if !embedded::is_there(&log) {
        return Ok(None);
    }
    let checked = embedded::ends(&log, Which::Events)?;
    Ok(Some((checked.id, checked.ends)))
}
