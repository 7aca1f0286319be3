//! `opledger dead-letters`: records of the log that are not events, and why.

use crate::cli::at::At;
use crate::cli::client::{Connection, LedgerClient};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, note};
use crate::cli::stream::ListStream;
use crate::cli::table::TextTable;
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

const EXAMPLES: &str = "\
Examples:
  opledger dead-letters
  opledger dead-letters --limit 20
  opledger dead-letters --json | jq -r '.dead_letters[0].value_base64' | base64 -d

An invalid record is kept whole, with the reason. Fix the producer and publish the
event again: a dead letter is never applied later.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// At most this many, in the order of their positions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,

    #[command(flatten)]
    at: At,

    /// Print the ledger's JSON: key, headers and value of each record as well
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

/// The table never shows a value, which may contain passwords.
#[derive(Deserialize)]
struct Letter<'a> {
    #[serde(borrow)]
    position: Cow<'a, str>,
    #[serde(borrow)]
    arrived: Option<Cow<'a, str>>,
    /// Text, or an object with base64 if it is not UTF-8.
    key: Value,
    #[serde(borrow)]
    reason: Cow<'a, str>,
    #[serde(borrow)]
    detail: Option<Cow<'a, str>>,
}

pub async fn run(args: Args) -> Result<(), Failure> {
    let ledger = LedgerClient::new(&args.connection, PATIENCE + args.at.wait())?;
    let list = ListStream {
        ledger: &ledger,
        url: ledger.url(&["v1", "dead-letters"]),
        at: &args.at,
        name: "dead_letters",
        limit: args.limit,
    };
    let mut out = Output::new();
    if args.json {
        return list.print_json(&mut out).await;
    }
    let titles = ["POSITION", "ARRIVED", "KEY", "REASON", "DETAIL"];
    let mut table = TextTable::new(titles, 4, &out);
    let mut is_empty = true;
    let read = list.read(|element| {
        is_empty = false;
        let letter: Letter = serde_json::from_slice(element).map_err(|_| {
            Failure::Unexpected("the ledger's list of dead letters cannot be read".into())
        })?;
        let key = match letter.key {
            Value::Null => String::new(),
            Value::String(text) => text,
            other => other.to_string(),
        };
        let row = [
            &*letter.position,
            letter.arrived.as_deref().unwrap_or_default(),
            &key,
            &letter.reason,
            letter.detail.as_deref().unwrap_or_default(),
        ];
        table.add(row, &mut out)
    });
    let outcome = read.await;
    // Show what arrived before a response broke off.
    table.finish(&mut out)?;
    out.flush()?;
    outcome?;
    if is_empty {
        note("no dead letters");
    }
    Ok(())
}
