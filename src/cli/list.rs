//! `opledger list`: which operations there are.

use crate::cli::client::{Connection, Ledger};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, clean};
use crate::cli::stream;
use crate::cli::table::Table;
use serde::Deserialize;
use std::borrow::Cow;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);

const EXAMPLES: &str = "\
Examples:
  opledger list
  opledger list --detail | head -20
  opledger list --detail --json | jq -r '.operations[].request.uri'";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Show a table of the operations instead of their ids
    #[arg(long)]
    detail: bool,

    /// Print the ledger's JSON as it comes
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

/// A row of the detail list.
#[derive(Deserialize)]
struct Operation<'a> {
    #[serde(borrow)]
    operation_id: Cow<'a, str>,
    #[serde(borrow)]
    occurred_time: Cow<'a, str>,
    #[serde(borrow)]
    last_update_time: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow)]
    request: Request<'a>,
}

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    uri: Cow<'a, str>,
    #[serde(borrow)]
    method: Cow<'a, str>,
}

pub async fn run(args: Args) -> Result<(), Failure> {
    let ledger = Ledger::new(&args.connection, PATIENCE)?;
    let response = ledger.send(ledger.get(url(&ledger, &args))).await?;
    let mut out = Output::new();
    let name = if args.detail {
        "operations"
    } else {
        "operation_ids"
    };
    if args.json {
        return stream::pass_through(&ledger, response, name, &mut out).await;
    }
    let titles = ["ID", "STATUS", "OCCURRED", "LAST UPDATE", "METHOD", "URI"];
    let mut table = Table::new(titles, 5, &out);
    let mut is_empty = true;
    let outcome = stream::elements(&ledger, response, name, |element| {
        is_empty = false;
        if args.detail {
            let op: Operation = serde_json::from_slice(element).map_err(|_| unreadable())?;
            let (id, status, request) = (&op.operation_id, &op.status, &op.request);
            let times = [&op.occurred_time, &op.last_update_time];
            table.add(
                [
                    id,
                    status,
                    times[0],
                    times[1],
                    &request.method,
                    &request.uri,
                ],
                &mut out,
            )
        } else {
            let id: Cow<str> = serde_json::from_slice(element).map_err(|_| unreadable())?;
            out.line(clean(&id))
        }
    })
    .await;
    // What came before an answer broke off is worth seeing, too.
    table.finish(&mut out)?;
    out.flush()?;
    outcome?;
    if is_empty {
        eprintln!("no operations");
    }
    Ok(())
}

fn unreadable() -> Failure {
    Failure::Unexpected("the list holds an entry that cannot be read".into())
}

fn url(ledger: &Ledger, args: &Args) -> reqwest::Url {
    let mut url = ledger.url(&["v1", "operations"]);
    let format = if args.detail { "detail-list" } else { "list" };
    url.query_pairs_mut().append_pair("format", format);
    url
}
