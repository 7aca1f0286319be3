//! `opledger history`: every event of one operation, as it was received.

use crate::cli::at::At;
use crate::cli::client::Connection;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::stream::ListStream;
use crate::cli::table::TextTable;
use crate::cli::{no_operation, operation_id};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

const EXAMPLES: &str = "\
Examples:
  opledger history 0001561626000500
  opledger history 0001561626000500 --json | jq '.events[].event.data'";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The operation
    #[arg(value_name = "ID", value_parser = operation_id)]
    id: String,

    /// At most this many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,

    #[command(flatten)]
    at: At,

    /// Print the ledger's JSON, bodies included
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Deserialize)]
struct HistoryRow {
    position: String,
    /// Empty if the log has no arrival time.
    #[serde(default)]
    arrived: String,
    /// As a worker wrote it.
    event: HashMap<String, Box<RawValue>>,
}

impl HistoryRow {
    /// Reads only attributes, never `data`, which may contain passwords.
    fn attribute(&self, name: &str) -> String {
        let value = self.event.get(name).map_or("", |value| value.get());
        serde_json::from_str(value).unwrap_or_default()
    }
}

pub async fn run(args: Args) -> Result<(), Failure> {
    let http = args.connection.http(PATIENCE + args.at.wait())?;
    let url = http.url(&["v1", "operations", &args.id, "events"], &[]);
    let list = ListStream::new(&http, url, "events", &args.at, args.limit);
    let mut out = Output::new();
    let outcome = if args.json {
        list.print_json(&mut out).await
    } else {
        let titles = ["TIME", "TYPE", "SOURCE", "ID", "POSITION", "ARRIVED"];
        let table = TextTable::new(titles, 2, &out);
        let row = |entry: HistoryRow| {
            let [time, kind, source, id] =
                ["time", "type", "source", "id"].map(|name| entry.attribute(name));
            let kind = short(&kind).to_owned();
            [time, kind, source, id, entry.position, entry.arrived]
        };
        list.print_table(table, &mut out, row).await.map(drop)
    };
    outcome.map_err(|failure| no_operation(failure, &args.id))
}

/// The type without the parts that all types share: `opledger.operation.created.v1` is
/// `operation.created`.
fn short(kind: &str) -> &str {
    let inner = kind
        .strip_prefix("opledger.")
        .and_then(|rest| rest.strip_suffix(".v1"));
    inner.unwrap_or(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_unchanged() {
        let text = r#"{"position":"0:1","arrived":"2026-11-23T10:00:00.123Z",
            "event":{"id":"b\u00e9","time":null,"data":{"x":[1]}}}"#;
        let entry: HistoryRow = serde_json::from_str(text).unwrap();
        assert_eq!(entry.attribute("id"), "bé");
        assert_eq!(entry.attribute("time"), "");
        assert_eq!(entry.attribute("source"), "");
    }

    #[test]
    fn only_opledgers_event_types_are_shortened() {
        assert_eq!(short("opledger.operation.created.v1"), "operation.created");
        assert_eq!(short("other.v1"), "other.v1");
    }
}
