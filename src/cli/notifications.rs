//! `opledger notifications`: lists, retries and releases webhook deliveries.

use crate::cli::at::At;
use crate::cli::client::Connection;
use crate::cli::failure::Failure;
use crate::cli::operation_id;
use crate::cli::output::{Output, note};
use crate::cli::stream::ListStream;
use crate::cli::table::TextTable;
use crate::client::Error;
use clap::Subcommand;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

const EXAMPLES: &str = "\
Examples:
  opledger notifications list --state failed
  opledger notifications list --id 0001561626000500 --json
  opledger notifications retry 0001561626000500 --why 'the receiver is back'
  opledger notifications retry --all
  opledger notifications release --all";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    action: DeliveryAction,
}

#[derive(Debug, Subcommand)]
enum DeliveryAction {
    /// List deliveries: first those that are due, then those that were made
    #[command(after_help = EXAMPLES)]
    List(ListArgs),
    /// Retry deliveries at once that failed permanently or wait for their next attempt
    #[command(after_help = EXAMPLES)]
    Retry(RepairArgs),
    /// Release deliveries that are held because they may have been made before
    #[command(after_help = EXAMPLES)]
    Release(RepairArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Only deliveries in this state
    #[arg(long, value_name = "STATE")]
    #[arg(value_parser = ["pending", "held", "failed", "delivered"])]
    state: Option<String>,

    /// Only deliveries of this operation
    #[arg(long, value_name = "ID", value_parser = operation_id)]
    id: Option<String>,

    /// Print one JSON object per line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
struct RepairArgs {
    /// The operation
    #[arg(value_name = "ID", value_parser = operation_id, required_unless_present = "all")]
    id: Option<String>,

    /// All deliveries that failed permanently, or are held
    #[arg(long, conflicts_with = "id")]
    all: bool,

    /// The reason, for the control log
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Deserialize)]
struct DeliveryRow {
    operation_id: String,
    state: String,
    address: String,
    port: u16,
    #[serde(default)]
    attempts: u32,
    delivered: Option<String>,
    failed: Option<String>,
    next_attempt: Option<String>,
    last_error: Option<String>,
}

#[derive(Deserialize)]
struct AcceptedCount {
    accepted: u64,
    #[serde(default)]
    more: bool,
}

pub async fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        DeliveryAction::List(args) => list(args).await,
        DeliveryAction::Retry(args) => repair(args, "retry", "retried").await,
        DeliveryAction::Release(args) => repair(args, "release", "released").await,
    }
}

async fn list(args: ListArgs) -> Result<(), Failure> {
    let http = args.connection.http(PATIENCE)?;
    let mut query = vec![("limit", "500".to_owned())];
    query.extend(args.state.map(|state| ("state", state)));
    query.extend(args.id.map(|id| ("operation_id", id)));
    let url = http.url(&["v1", "notifications"], &query);
    let now = At::default();
    let mut list = ListStream::new(&http, url, "notifications", &now, None);
    let mut out = Output::new();
    let mut has_rows = false;
    if args.json {
        while let Some(delivery) = list.next().await? {
            has_rows = true;
            out.json_line(&delivery)?;
        }
        out.flush()?;
    } else {
        let titles = ["OPERATION", "STATE", "TARGET", "ATTEMPTS", "TIME", "ERROR"];
        let table = TextTable::new(titles, 5, &out);
        let row = |delivery: DeliveryRow| {
            let target = match delivery.address.contains(':') {
                true => format!("[{}]:{}", delivery.address, delivery.port),
                false => format!("{}:{}", delivery.address, delivery.port),
            };
            let time = delivery.delivered.or(delivery.failed);
            [
                delivery.operation_id,
                delivery.state,
                target,
                delivery.attempts.to_string(),
                time.or(delivery.next_attempt).unwrap_or_default(),
                delivery.last_error.unwrap_or_default(),
            ]
        };
        has_rows = list.print_table(table, &mut out, row).await?;
    }
    if !has_rows {
        note("no deliveries");
    }
    Ok(())
}

async fn repair(args: RepairArgs, action: &str, done: &str) -> Result<(), Failure> {
    let http = args.connection.http(PATIENCE)?;
    let url = match &args.id {
        Some(id) => http.url(&["v1", "notifications", id, action], &[]),
        None => http.url(&["v1", "notifications", action], &[]),
    };
    let who = std::env::var("USER").unwrap_or_default();
    let body = serde_json::json!({"who": who, "why": args.why}).to_string();
    let mut all = 0;
    loop {
        let request = http.post(url.clone());
        let request = request.header(CONTENT_TYPE, "application/json");
        let sent = http.send(request.body(body.clone())).await;
        let response = sent.map_err(|error| match error {
            Error::NotFound(_) => Failure::NotFound(
                "no such delivery; `opledger notifications list` lists them".into(),
            ),
            other => other.into(),
        })?;
        let body = http.body(response).await?;
        let accepted: AcceptedCount = serde_json::from_slice(&body)
            .map_err(|error| Failure::Unexpected(format!("the response: {error}")))?;
        all += accepted.accepted;
        if !accepted.more {
            break;
        }
    }
    let mut out = Output::new();
    out.line(format!("{all} deliveries {done}"))?;
    out.flush()
}
