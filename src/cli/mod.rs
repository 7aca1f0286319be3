//! The command line: one file per command. `serve`, `replay`, `rebuild`, `digest`, `log` and
//! `config` work on this machine. All others are HTTP clients of a running ledger and never
//! open a data folder.

mod at;
mod client;
mod completions;
mod config;
mod dead_letters;
mod digest;
pub mod failure;
mod filters;
mod get;
mod history;
mod list;
mod log;
mod notifications;
mod output;
mod publish;
mod rebuild;
mod replay;
mod serve;
mod stream;
mod table;
mod text;
mod wait;
mod watch;

use crate::cli::failure::{EXIT_STATUSES, Failure};
use crate::cli::output::{Output, note};
use crate::wire::event::{OPERATION_ID, operation_id_fault};
use clap::builder::Resettable;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

/// A ledger of long-running operations
///
/// Workers publish events about an operation. The ledger folds them into one
/// document per operation and keeps the whole history.
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
  opledger publish events.jsonl         send events, one CloudEvent per line
  opledger list --detail                list the operations
  opledger get 0001561626000500         show one operation
  opledger history 0001561626000500     show every event of it
  opledger wait 0001561626000500        wait until it has ended

`opledger help COMMAND` describes a command, `opledger --help` the exit statuses.";

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
    /// List operations
    List(list::Args),
    /// Show every event of one operation
    History(history::Args),
    /// Show invalid records, and why they are invalid
    DeadLetters(dead_letters::Args),
    /// Follow one operation, or all of them, as they change
    Watch(watch::Args),
    /// Wait until an operation has ended
    Wait(wait::Args),
    /// List, retry or release webhook deliveries
    Notifications(notifications::Args),
    /// Fold a log or a file again and print the documents
    Replay(replay::Args),
    /// Rebuild the store from the log
    Rebuild(rebuild::Args),
    /// Print a digest of the store's content
    Digest(digest::Args),
    /// Check or repair the log in a data folder
    Log(log::Args),
    /// Check or show the configuration
    Config(config::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
}

/// Runs the command line. Errors go to standard error for people and into the exit status
/// for programs.
pub fn main() -> ExitCode {
    let Err(failure) = parse(std::env::args_os()).and_then(run) else {
        return ExitCode::SUCCESS;
    };
    match &failure {
        Failure::OutputClosed => {}
        // clap's text has the program's name already.
        Failure::CommandLine(text) => note(text.trim_end()),
        _ => note(format!("opledger: {}", failure.report())),
    }
    ExitCode::from(failure.exit_status())
}

/// Prints --help and --version itself and then returns nothing to run.
fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Option<Cli>, Failure> {
    let command = without_empty_variables(Cli::command());
    let parsed = command.try_get_matches_from(arguments);
    match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => Ok(Some(cli)),
        Err(error) if error.use_stderr() => {
            // Without colours, because the text quotes arguments, which may contain escapes.
            Err(Failure::CommandLine(error.render().to_string()))
        }
        Err(help) => {
            let mut out = Output::new();
            let text = help.render();
            match out.is_terminal() {
                true => out.write(text.ansi().to_string())?,
                false => out.write(text.to_string())?,
            }
            out.flush()?;
            Ok(None)
        }
    }
}

/// Treats empty variables as unset: `docker compose` sets `${OPLEDGER_URL:-}` to `""`.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| match arg.get_env().is_some_and(is_empty) {
            true => arg.env(Resettable::Reset),
            false => arg,
        })
        .mut_subcommands(without_empty_variables)
}

fn run(cli: Option<Cli>) -> Result<(), Failure> {
    let Some(cli) = cli else {
        return Ok(());
    };
    // Before a database is opened, because its share of the open files follows from the limit.
    crate::descriptors::raise();
    match cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Publish(args) => block_on(publish::run(args)),
        Command::Get(args) => block_on(get::run(args)),
        Command::List(args) => block_on(list::run(args)),
        Command::History(args) => block_on(history::run(args)),
        Command::DeadLetters(args) => block_on(dead_letters::run(args)),
        Command::Watch(args) => block_on(watch::run(args)),
        Command::Wait(args) => block_on(wait::run(args)),
        Command::Notifications(args) => block_on(notifications::run(args)),
        Command::Replay(args) => replay::run(args),
        Command::Rebuild(args) => rebuild::run(args),
        Command::Digest(args) => digest::run(args),
        Command::Log(args) => log::run(args),
        Command::Config(args) => config::run(args),
        Command::Completions(args) => completions::run(args),
    }
}

/// One thread is enough for an HTTP client.
fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Unexpected(format!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(command);
    // Does not wait for a DNS lookup that hangs.
    runtime.shutdown_background();
    outcome
}

/// Refuses ids that no event can have as its subject, before a request is sent.
fn operation_id(text: &str) -> Result<String, String> {
    match operation_id_fault(text) {
        None => Ok(text.to_owned()),
        Some(_) => Err(format!(
            "not a valid operation id; a valid id is {OPERATION_ID}"
        )),
    }
}

/// The same message for every command when the operation does not exist.
fn no_operation(failure: Failure, id: &str) -> Failure {
    match failure {
        Failure::NotFound(_) => Failure::NotFound(format!("there is no operation {id}")),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn invalid_operation_ids_are_refused() {
        let long = "x".repeat(257);
        for bad in ["", ".", "..", "log", "a/b", "a b", "é", "a\n", &long] {
            for command in ["get", "history", "wait", "watch"] {
                let error = Cli::try_parse_from(["opledger", command, bad]).unwrap_err();
                let text = error.to_string();
                assert!(text.contains("not a valid operation id"), "{text}");
            }
        }
        assert!(Cli::try_parse_from(["opledger", "get", "a-Z.0_~"]).is_ok());
    }
}
