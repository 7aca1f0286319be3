//! `opledger notifications`: who was told that an operation ended, who was not yet, and
//! having it tried again.

use crate::cli::client::{Connection, LedgerClient, next_page};
use crate::cli::failure::Failure;
use crate::cli::operation_id;
use crate::cli::output::{Output, note};
use crate::cli::table::TextTable;
use clap::{Subcommand, ValueEnum};
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use std::borrow::Cow;
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
    state: Option<DeliveryStateArg>,

    /// Only deliveries of this operation
    #[arg(long, value_name = "ID", value_parser = operation_id)]
    id: Option<String>,

    /// Print one JSON object per line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DeliveryStateArg {
    Pending,
    Held,
    Failed,
    Delivered,
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
struct DeliveryPage<'a> {
    #[serde(borrow)]
    notifications: Vec<&'a serde_json::value::RawValue>,
}

#[derive(Deserialize)]
struct DeliveryRow<'a> {
    #[serde(borrow)]
    operation_id: Cow<'a, str>,
    #[serde(borrow)]
    state: Cow<'a, str>,
    #[serde(borrow)]
    address: Cow<'a, str>,
    port: u16,
    #[serde(default)]
    attempts: u32,
    #[serde(borrow)]
    delivered: Option<Cow<'a, str>>,
    #[serde(borrow)]
    failed: Option<Cow<'a, str>>,
    #[serde(borrow)]
    next_attempt: Option<Cow<'a, str>>,
    #[serde(borrow)]
    last_error: Option<Cow<'a, str>>,
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
    let ledger = LedgerClient::new(&args.connection, PATIENCE)?;
    let mut url = ledger.url(&["v1", "notifications"]);
    url.query_pairs_mut().append_pair("limit", "500");
    if let Some(state) = args.state.and_then(|state| state.to_possible_value()) {
        url.query_pairs_mut().append_pair("state", state.get_name());
    }
    if let Some(id) = &args.id {
        url.query_pairs_mut().append_pair("operation_id", id);
    }
    let mut out = Output::new();
    let titles = ["OPERATION", "STATE", "TARGET", "ATTEMPTS", "TIME", "ERROR"];
    let mut table = TextTable::new(titles, 5, &out);
    let mut next = Some(url);
    let mut is_empty = true;
    while let Some(url) = next {
        let response = ledger.send(ledger.get(url.clone())).await?;
        next = next_page(&url, &response);
        let body = ledger.body(response).await?;
        let page: DeliveryPage = serde_json::from_slice(&body).map_err(|_| unreadable())?;
        for entry in page.notifications {
            is_empty = false;
            if args.json {
                out.json(entry.get().as_bytes())?;
                out.end_json()?;
                continue;
            }
            let entry: DeliveryRow = serde_json::from_str(entry.get()).map_err(|_| unreadable())?;
            let target = match entry.address.contains(':') {
                true => format!("[{}]:{}", entry.address, entry.port),
                false => format!("{}:{}", entry.address, entry.port),
            };
            let when = entry.delivered.or(entry.failed).or(entry.next_attempt);
            let row = [
                &*entry.operation_id,
                &*entry.state,
                &target,
                &entry.attempts.to_string(),
                when.as_deref().unwrap_or_default(),
                entry.last_error.as_deref().unwrap_or_default(),
            ];
            table.add(row, &mut out)?;
        }
    }
    table.finish(&mut out)?;
    out.flush()?;
    if is_empty {
        note("no deliveries");
    }
    Ok(())
}

async fn repair(args: RepairArgs, action: &str, done: &str) -> Result<(), Failure> {
    let ledger = LedgerClient::new(&args.connection, PATIENCE)?;
    let url = match &args.id {
        Some(id) => ledger.url(&["v1", "notifications", id, action]),
        None => ledger.url(&["v1", "notifications", action]),
    };
    let who = std::env::var("USER").unwrap_or_default();
    let body = serde_json::json!({"who": who, "why": args.why}).to_string();
    let mut all = 0;
    loop {
        let request = ledger
            .post(url.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(body.clone());
        let response = ledger
            .send(request)
            .await
            .map_err(|failure| match failure {
                Failure::NotFound(_) => Failure::NotFound(
                    "no such delivery; `opledger notifications list` lists them".into(),
                ),
                other => other,
            })?;
        let body = ledger.body(response).await?;
        let accepted: AcceptedCount = serde_json::from_slice(&body).map_err(|_| unreadable())?;
        all += accepted.accepted;
        if !accepted.more {
            break;
        }
    }
    let mut out = Output::new();
    out.line(format!("{all} deliveries {done}"))?;
    out.flush()
}

fn unreadable() -> Failure {
    Failure::Unexpected("the ledger's list of deliveries cannot be read".into())
}
