//! `opledger dead-letters`: invalid records of the log, with the reason.

use crate::cli::at::At;
use crate::cli::client::Connection;
use crate::cli::failure::Failure;
use crate::cli::output::{Output, note};
use crate::cli::stream::ListStream;
use crate::cli::table::TextTable;
use serde::Deserialize;
use serde_json::Value;
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
struct Letter {
    position: String,
    arrived: Option<String>,
    /// Text, or an object with base64 if it is not UTF-8.
    key: Value,
    reason: String,
    detail: Option<String>,
}

pub async fn run(args: Args) -> Result<(), Failure> {
    let http = args.connection.http(PATIENCE + args.at.wait())?;
    let url = http.url(&["v1", "dead-letters"], &[]);
    let list = ListStream::new(&http, url, "dead_letters", &args.at, args.limit);
    let mut out = Output::new();
    if args.json {
        return list.print_json(&mut out).await;
    }
    let titles = ["POSITION", "ARRIVED", "KEY", "REASON", "DETAIL"];
    let table = TextTable::new(titles, 4, &out);
    let row = |letter: Letter| {
        let key = match letter.key {
            Value::Null => String::new(),
            Value::String(text) => text,
            other => other.to_string(),
        };
        let arrived = letter.arrived.unwrap_or_default();
        let detail = letter.detail.unwrap_or_default();
        [letter.position, arrived, key, letter.reason, detail]
    };
    if !list.print_table(table, &mut out, row).await? {
        note("no dead letters");
    }
    Ok(())
}
