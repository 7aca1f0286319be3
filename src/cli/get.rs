//! `opledger get`: one operation.

use crate::cli::at::At;
use crate::cli::client::Connection;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::table::TextTable;
use crate::cli::text::{clean, shorten};
use crate::cli::{no_operation, operation_id};
use crate::client::{Document, Response, TargetCluster};
use std::time::Duration;

/// Besides the time that the ledger may wait.
const PATIENCE: Duration = Duration::from_secs(30);
/// A worker may report much more.
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

pub async fn run(args: Args) -> Result<(), Failure> {
    let http = args.connection.http(PATIENCE + args.at.wait())?;
    let request = args.at.apply(http.get(http.operation(&args.id)?));
    let response = http.send(request).await.map_err(Failure::from);
    let response = response.map_err(|failure| no_operation(failure, &args.id))?;
    let body = http.body(response).await?;
    let mut out = Output::new();
    if args.json {
        out.json_line(&body)?;
    } else {
        show(&Document::read(&body)?, &mut out)?;
    }
    out.flush()
}

/// Shows only the sizes of bodies, which may contain passwords.
fn show(document: &Document, out: &mut Output) -> Result<(), Failure> {
    let label = |label: &str, text: String| format!("{label:<12}  {text}");
    out.line(label("operation", clean(&document.operation_id)))?;
    out.line(label("status", document.status.as_str().to_owned()))?;
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
        format!("{line} ({})", size(request.body.as_deref())),
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

fn show_clusters(title: &str, clusters: &[TargetCluster], out: &mut Output) -> Result<(), Failure> {
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
        let body = size(request.body.as_deref());
        let (code, size) = code_and_size(cluster.response.as_ref());
        let row = [
            &cluster.cluster_id,
            &request.method,
            &request.uri,
            &body,
            &code,
            &size,
        ];
        table.add(row.map(String::clone), out)?;
    }
    table.finish(out)
}

/// Status code and size of the body. Shows the difference between no response, a response
/// without a code, and one without a body.
fn code_and_size(response: Option<&Response>) -> (String, String) {
    let Some(response) = response else {
        return ("none yet".into(), String::new());
    };
    let code = response
        .status_code
        .map_or("no code".into(), |code| code.to_string());
    (code, size(response.body.as_deref()))
}

fn size(body: Option<&str>) -> String {
    match body.map(str::len) {
        None => "no body".into(),
        Some(0) => "empty".into(),
        Some(1) => "1 byte".into(),
        Some(len) => format!("{} bytes", indicatif::HumanCount(len as u64)),
    }
}
