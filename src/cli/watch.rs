//! `opledger watch`: the states of one operation, or of all, as they change.

use crate::cli::client::Connection;
use crate::cli::failure::Failure;
use crate::cli::filters::Filters;
use crate::cli::operation_id;
use crate::cli::output::{Output, note};
use crate::cli::text::{clean, shorten};
use crate::client::{Change, Document};
use crate::wire::position::Token;
use serde_json::json;

const EXAMPLES: &str = "\
Examples:
  opledger watch
  opledger watch 0001561626000500
  opledger watch --status failed --json | jq -r .operation_id
  opledger watch --from 'k3x9q2ab;0:41'

Prints states: those between two of them may be skipped, the last one never is. The
command reconnects where a connection broke off.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The operation; without it, all operations, until interrupted
    #[arg(value_name = "ID", value_parser = operation_id)]
    id: Option<String>,

    #[command(flatten)]
    filters: Filters,

    /// Start after this position: first everything that has changed since then
    #[arg(long, value_name = "TOKEN")]
    from: Option<Token>,

    /// Print each document as the ledger serves it, one a line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

pub async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let mut watch = match &args.id {
        Some(id) => client.watch(id)?,
        None => client.watch_all(&args.filters.into()),
    };
    if let Some(position) = &args.from {
        watch = watch.from_position(&position.to_string());
    }
    let mut out = Output::new();
    loop {
        let change = tokio::select! {
            change = watch.next() => change?,
            _ = tokio::signal::ctrl_c() => {
                if let Some(position) = watch.position() {
                    note(format!("opledger: resume with --from '{}'", clean(position)));
                }
                return Err(Failure::Interrupted);
            }
        };
        let Some(change) = change else {
            return Ok(());
        };
        match args.json {
            true => out.json_line(as_json(&change))?,
            false => out.line(as_line(&change))?,
        }
        out.flush()?;
    }
}

fn as_json(change: &Change) -> String {
    match change {
        Change::Document(document) => document.json.clone(),
        Change::Left(id) => json!({"left": id}).to_string(),
        Change::Removed(id) => json!({"removed": id}).to_string(),
        Change::Reset => json!({"reset": true}).to_string(),
    }
}

fn as_line(change: &Change) -> String {
    match change {
        Change::Document(document) => line(document),
        Change::Left(id) => format!("{:<10}  {}", "left", clean(id)),
        Change::Removed(id) => format!("{:<10}  {}", "removed", clean(id)),
        Change::Reset => "reset       not every change since then is remembered: list again".into(),
    }
}

/// One operation in one line.
pub fn line(document: &Document) -> String {
    let answered = document.target_clusters.iter();
    let answered = answered.filter(|entry| entry.response.is_some()).count();
    let mut line = format!(
        "{:<10}  {}  {}  {} {}  {answered}/{} answered",
        document.status.as_str(),
        clean(&document.last_update_time),
        clean(&document.operation_id),
        clean(&document.request.method),
        shorten(&document.request.uri, 100),
        document.target_clusters.len(),
    );
    if let Some(rollbacks) = &document.rollbacks {
        line.push_str(&format!("  rollback {}", clean(&rollbacks.result)));
    }
    if let Some(sub_status) = &document.sub_status {
        line.push_str(&format!("  {}", shorten(sub_status, 60)));
    }
    line
}
