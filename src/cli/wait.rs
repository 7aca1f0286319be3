//! `opledger wait`: waits until an operation has ended.

use crate::cli::client::Connection;
use crate::cli::failure::Failure;
use crate::cli::operation_id;
use crate::cli::output::Output;
use crate::cli::watch::line;
use crate::client::{Error, Status};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  opledger wait 0001561626000500
  opledger wait 0001561626000500 --timeout 600 --json | jq .response
  opledger wait 0001561626000500 && next-step

The exit status is 0 if it completed, 9 if it failed or was canceled, 5 after the
timeout. Also waits for an operation that does not exist yet.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The operation
    #[arg(value_name = "ID", value_parser = operation_id)]
    id: String,

    /// No longer than this
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,

    /// Print the document as the ledger serves it, bodies included
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

pub async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let waited = tokio::select! {
        waited = client.wait(&args.id, args.timeout.map(Duration::from_secs)) => waited,
        _ = tokio::signal::ctrl_c() => return Err(Failure::Interrupted),
    };
    let document = waited.map_err(|error| match error {
        Error::TimedOut => Failure::unavailable(format!("{} has not ended in time", args.id)),
        other => other.into(),
    })?;
    let mut out = Output::new();
    match args.json {
        true => out.json_line(&document.json)?,
        false => out.line(line(&document))?,
    }
    out.flush()?;
    match document.status {
        Status::Completed => Ok(()),
        other => {
            let status = other.as_str();
            Err(Failure::EndedBadly(format!("{} is {status}", args.id)))
        }
    }
}
