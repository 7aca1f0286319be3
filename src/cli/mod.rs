//! The command line: one file per command. `serve`, `replay`, `rebuild` and
//! `config` work on this machine; all others ask a running ledger over HTTP and
//! never touch a data folder.

mod client;
mod completions;
mod config;
pub mod failure;
mod get;
mod history;
mod list;
mod notifications;
mod output;
mod publish;
mod rebuild;
mod replay;
mod serve;
mod stream;
mod table;
#[cfg(feature = "client")]
mod wait;
#[cfg(feature = "client")]
mod watch;

use crate::cli::failure::{EXIT_STATUSES, Failure};
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A ledger of long-running operations
///
/// Workers publish what happens to an operation; the ledger folds it into one
/// document per operation and keeps the whole history behind it.
#[derive(Debug, Parser)]
#[command(name = "opledger", version, max_term_width = 100)]
#[command(after_help = EXAMPLES, after_long_help = LONG_HELP.as_str())]
#[command(arg_required_else_help = true, subcommand_required = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  opledger serve                        start a ledger on this machine
  opledger publish events.jsonl         send it events, one CloudEvent a line
  opledger list --detail                see its operations
  opledger get 0001561626000500         see one of them
  opledger history 0001561626000500     see what was reported of it
  opledger wait 0001561626000500        wait until it has ended

`opledger help COMMAND` tells more, `opledger --help` the exit statuses.";

static LONG_HELP: std::sync::LazyLock<String> =
    std::sync::LazyLock::new(|| format!("{EXAMPLES}\n\n{EXIT_STATUSES}"));

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a ledger
    Serve(serve::Args),
    /// Send events to a running ledger
    Publish(publish::Args),
    /// Show one operation
    Get(get::Args),
    /// List the operations
    List(list::Args),
    /// Show every event of one operation
    History(history::Args),
    /// Follow one operation, or all of them, as they change
    #[cfg(feature = "client")]
    Watch(watch::Args),
    /// Wait until an operation has ended
    #[cfg(feature = "client")]
    Wait(wait::Args),
    /// Show who was told that operations ended, and try again
    Notifications(notifications::Args),
    /// Fold the log again and tell what it yields
    Replay(replay::Args),
    /// Make the store anew from the log
    Rebuild(rebuild::Args),
    /// Check or show the configuration
    Config(config::Args),
    /// Print a script that makes a shell complete `opledger`
    Completions(completions::Args),
}

/// The whole program: reads the command line, runs it, tells people what went
/// wrong and others by the exit status. Ends the process itself on --help and on
/// a wrong command line (status 2).
pub fn main() -> ExitCode {
    let Err(failure) = run(Cli::parse()) else {
        return ExitCode::SUCCESS;
    };
    if !matches!(failure, Failure::OutputClosed) {
        eprintln!("opledger: {}", failure.report());
    }
    ExitCode::from(failure.exit_status())
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Publish(args) => block_on(publish::run(args)),
        Command::Get(args) => block_on(get::run(args)),
        Command::List(args) => block_on(list::run(args)),
        Command::History(args) => block_on(history::run(args)),
        #[cfg(feature = "client")]
        Command::Watch(args) => block_on(watch::run(args)),
        #[cfg(feature = "client")]
        Command::Wait(args) => block_on(wait::run(args)),
        Command::Notifications(args) => block_on(notifications::run(args)),
        Command::Replay(args) => replay::run(args),
        Command::Rebuild(args) => rebuild::run(args),
        Command::Config(args) => config::run(args),
        Command::Completions(args) => completions::run(args),
    }
}

/// For the commands that ask a ledger: one thread is plenty.
fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Unexpected(format!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(command);
    // A look-up of a host name may still be stuck; nobody waits for it.
    runtime.shutdown_background();
    outcome
}

/// Identifiers that no path of the interface can name never reach the ledger:
/// they would ask for something else.
fn operation_id(text: &str) -> Result<String, String> {
    match text {
        "" | "." | ".." => Err("no operation can have this id".into()),
        _ => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        for command in Cli::command()
            .get_subcommands()
            .filter(|c| !c.has_subcommands())
        {
            assert!(command.get_after_help().is_some(), "{}", command.get_name());
        }
    }

    #[test]
    fn ids_that_would_ask_for_something_else_are_refused() {
        for bad in ["", ".", ".."] {
            assert!(
                Cli::try_parse_from(["opledger", "get", bad]).is_err(),
                "{bad}"
            );
        }
        assert!(Cli::try_parse_from(["opledger", "get", "a/b"]).is_ok());
    }
}
