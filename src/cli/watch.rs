//! `opledger watch`: the states of one operation, or of all, as they change.

use crate::cli::client::Connection;
use crate::cli::failure::Failure;
use crate::cli::operation_id;
use crate::cli::output::{Output, clean, shorten};
use crate::client::{Change, Document, Filter, Status};
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

    /// Only operations with this status; may be repeated
    #[arg(long, value_name = "STATUS", value_parser = status, conflicts_with = "id")]
    status: Vec<Status>,

    /// Only operations with a request to this cluster
    #[arg(long, value_name = "CLUSTER", conflicts_with = "id")]
    cluster: Option<String>,

    /// Only operations whose request has this method
    #[arg(long, value_name = "METHOD", conflicts_with = "id")]
    method: Option<String>,

    /// Only operations whose request's URI begins so
    #[arg(long, value_name = "PREFIX", conflicts_with = "id")]
    uri_prefix: Option<String>,

    /// What has changed since this position, then all that comes
    #[arg(long, value_name = "TOKEN")]
    from: Option<String>,

    /// Print each document as the ledger serves it, one a line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

fn status(text: &str) -> Result<Status, String> {
    let wanted = json!(text);
    serde_json::from_value(wanted)
        .map_err(|_| "unexecuted, executing, completed, failed or canceled".into())
}

pub async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let mut watch = match &args.id {
        Some(id) => client.watch(id)?,
        None => client.watch_all(&Filter {
            statuses: args.status.clone(),
            cluster_id: args.cluster.clone(),
            method: args.method.clone(),
            uri_prefix: args.uri_prefix.clone(),
            ..Filter::default()
        }),
    };
    if let Some(position) = &args.from {
        watch = watch.from_position(position);
    }
    let mut out = Output::new();
    loop {
        let change = tokio::select! {
            change = watch.next() => change?,
            _ = tokio::signal::ctrl_c() => {
                if let Some(position) = watch.position() {
                    eprintln!("opledger: on with --from '{}'", clean(position));
                }
                return Err(Failure::Interrupted);
            }
        };
        let Some(change) = change else {
            return Ok(());
        };
        match args.json {
            true => out.line(as_json(&change))?,
            false => out.line(as_line(&change))?,
        }
        // Whoever watches wants to see it now.
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
