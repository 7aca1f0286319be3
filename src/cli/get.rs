//! `opledger get`: one operation.

use crate::cli::at::At;
use crate::cli::client::{Connection, LedgerClient};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::table::TextTable;
use crate::cli::text::{clean, shorten};
use crate::cli::{no_operation, operation_id};
use serde::Deserialize;
use std::borrow::Cow;
use std::time::Duration;

/// In addition to the time that the ledger was asked to wait.
const PATIENCE: Duration = Duration::from_secs(30);
/// A worker may report pages of it.
const SUB_STATUS_CHARS_MAX: usize = 200;

const EXAMPLES: &str = "\
Examples:
  opledger get 0001561626000500
  opledger get 0001561626000500 --json | jq .response
  opledger get 0001561626000500 --position 'k3x9q2ab;0:41' --wait 10

With a position, which `opledger publish` prints, the document includes at least
what was published there.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The operation
    #[arg(value_name = "ID", value_parser = operation_id)]
    id: String,

    #[command(flatten)]
    at: At,

    /// Print the document as the ledger serves it, bodies included
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

/// The operation document. Only the sizes of its bodies are ever looked at: they
/// may hold passwords.
#[derive(Deserialize)]
struct PrintedDocument<'a> {
    #[serde(borrow)]
    operation_id: Cow<'a, str>,
    #[serde(borrow)]
    occurred_time: Cow<'a, str>,
    #[serde(borrow)]
    last_update_time: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow)]
    sub_status: Option<Cow<'a, str>>,
    #[serde(borrow)]
    request: PrintedRequest<'a>,
    #[serde(borrow)]
    response: Option<PrintedResponse<'a>>,
    #[serde(borrow)]
    target_clusters: Vec<Cluster<'a>>,
    #[serde(borrow)]
    rollbacks: Option<PrintedRollbacks<'a>>,
}

#[derive(Deserialize)]
struct PrintedRequest<'a> {
    #[serde(borrow)]
    uri: Cow<'a, str>,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow)]
    body: Cow<'a, str>,
}

#[derive(Deserialize)]
struct PrintedResponse<'a> {
    status_code: Option<u16>,
    #[serde(borrow)]
    body: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Cluster<'a> {
    #[serde(borrow)]
    cluster_id: Cow<'a, str>,
    #[serde(borrow)]
    request: PrintedRequest<'a>,
    #[serde(borrow)]
    response: Option<PrintedResponse<'a>>,
}

#[derive(Deserialize)]
struct PrintedRollbacks<'a> {
    #[serde(borrow)]
    result: Cow<'a, str>,
    #[serde(borrow)]
    occurred_time: Cow<'a, str>,
    #[serde(borrow)]
    target_clusters: Vec<Cluster<'a>>,
}

pub async fn run(args: Args) -> Result<(), Failure> {
    let ledger = LedgerClient::new(&args.connection, PATIENCE + args.at.wait())?;
    let request = ledger.get(ledger.url(&["v1", "operations", &args.id]));
    let response = ledger.send(args.at.apply(request)).await;
    let mut response = response.map_err(|failure| no_operation(failure, &args.id))?;
    let mut out = Output::new();
    if args.json {
        while let Some(piece) = ledger.piece(&mut response).await? {
            out.json(&piece)?;
        }
        out.end_json()?;
    } else {
        let body = ledger.body(response).await?;
        let document = serde_json::from_slice(&body)
            .map_err(|_| Failure::Unexpected("the response is not an operation document".into()))?;
        show(&document, &mut out)?;
    }
    out.flush()
}

fn show(document: &PrintedDocument, out: &mut Output) -> Result<(), Failure> {
    let label = |label: &str, text: String| format!("{label:<12}  {text}");
    out.line(label("operation", clean(&document.operation_id)))?;
    out.line(label("status", clean(&document.status)))?;
    if let Some(sub_status) = &document.sub_status {
        out.line(label(
            "sub-status",
            shorten(sub_status, SUB_STATUS_CHARS_MAX),
        ))?;
    }
    out.line(label("created", clean(&document.occurred_time)))?;
    out.line(label("last update", clean(&document.last_update_time)))?;
    let request = &document.request;
    let line = format!("{} {}", clean(&request.method), clean(&request.uri));
    out.line(label(
        "request",
        format!("{line} ({})", size(&request.body)),
    ))?;
    if let Some(response) = &document.response {
        let (code, body) = code_and_size(Some(response));
        out.line(label("response", format!("{code} ({body})")))?;
    }
    show_clusters("clusters", &document.target_clusters, out)?;
    if let Some(rollbacks) = &document.rollbacks {
        let (result, since) = (clean(&rollbacks.result), clean(&rollbacks.occurred_time));
        let title = format!("rollbacks: {result}, since {since}");
        show_clusters(&title, &rollbacks.target_clusters, out)?;
    }
    Ok(())
}

fn show_clusters(title: &str, clusters: &[Cluster], out: &mut Output) -> Result<(), Failure> {
    if clusters.is_empty() {
        return Ok(());
    }
    out.line(format!("\n{title}"))?;
    let titles = [
        "CLUSTER",
        "METHOD",
        "URI",
        "BODY",
        "RESPONSE",
        "RESPONSE BODY",
    ];
    let mut table = TextTable::new(titles, 2, out);
    for cluster in clusters {
        let request = &cluster.request;
        let body = size(&request.body);
        let (code, size) = code_and_size(cluster.response.as_ref());
        let row = [
            &*cluster.cluster_id,
            &request.method,
            &request.uri,
            &body,
            &code,
            &size,
        ];
        table.add(row, out)?;
    }
    table.finish(out)
}

/// Status code and size of the body. Shows the difference between no response, a response
/// without a code, and one without a body.
fn code_and_size(response: Option<&PrintedResponse>) -> (String, String) {
    let Some(response) = response else {
        return ("none yet".into(), String::new());
    };
    let code = response
        .status_code
        .map_or("no code".into(), |code| code.to_string());
    let body = response
        .body
        .as_ref()
        .map_or("no body".into(), |body| size(body));
    (code, body)
}

fn size(body: &str) -> String {
    match body.len() {
        0 => "empty".into(),
        1 => "1 byte".into(),
        len => format!("{} bytes", indicatif::HumanCount(len as u64)),
    }
}
