//! `opledger watch`: the states of one operation, or of all, as they change.

use crate::cli::client::Connection;
use crate::cli::failure::Failure;
use crate::cli::filters::Filters;
use crate::cli::operation_id;
use crate::cli::output::{Output, note};
use crate::cli::text::{clean, shorten};
use crate::client::{Change, Document, Filter, Status};
use crate::domain;
use crate::wire::position::Token;
use serde_json::json;

const EXAMPLES: &str = "\
Examples:
  opledger watch
  opledger watch 0001561626000500
  opledger watch --status failed --json | jq -r .operation_id
  opledger watch --from 'k3x9q2ab;0:41'

States, not changes: what lies between two of them may be skipped, the last one
never is. A connection that breaks off is taken up where it was.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The operation; all of them, without an end, if none is named
    #[arg(value_name = "ID", value_parser = operation_id)]
    id: Option<String>,

    #[command(flatten)]
    filters: Filters,

    /// What has changed since this position, then all that comes
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
        None => client.watch_all(&filter(args.filters)),
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
                    note(format!("opledger: on with --from '{}'", clean(position)));
                }
                return Err(Failure::Interrupted);
            }
        };
        let Some(change) = change else {
            return Ok(());
        };
        match args.json {
            true => {
                out.json(as_json(&change).as_bytes())?;
                out.end_json()?;
            }
            false => out.line(as_line(&change))?,
        }
        // Whoever watches wants to see it now.
        out.flush()?;
    }
}

fn filter(filters: Filters) -> Filter {
    let status = |status| match status {
        domain::Status::Unexecuted => Status::Unexecuted,
        domain::Status::Executing => Status::Executing,
        domain::Status::Completed => Status::Completed,
        domain::Status::Failed => Status::Failed,
        domain::Status::Canceled => Status::Canceled,
    };
    Filter {
        statuses: filters.status.into_iter().map(status).collect(),
        occurred_from: filters.occurred_from,
        occurred_to: filters.occurred_to,
        cluster_id: filters.cluster_id,
        method: filters.method.map(|method| method.as_str().to_owned()),
        uri_prefix: filters.uri_prefix,
        rollback_result: filters
            .rollback_result
            .map(|result| result.as_str().to_owned()),
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
        Change::Reset => "reset       not all that changed is remembered: list again".into(),
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
