//! `opledger list`: which operations there are.

use crate::cli::at::At;
use crate::cli::client::{Connection, LedgerClient};
use crate::cli::failure::Failure;
use crate::cli::filters::Filters;
use crate::cli::output::{Output, note};
use crate::cli::stream::ListStream;
use crate::cli::table::TextTable;
use crate::cli::text::clean;
use clap::ValueEnum;
use serde::Deserialize;
use std::borrow::Cow;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);

const EXAMPLES: &str = "\
Examples:
  opledger list
  opledger list --detail --limit 20
  opledger list --status failed --status canceled --created-from 2026-11-01T00:00:00Z
  opledger list --order oldest --uri-prefix /v1/slices/ --cluster-id 1
  opledger list --detail --json | jq -r '.operations[].request.uri'";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Show a table of the operations instead of their ids
    #[arg(long)]
    detail: bool,

    #[command(flatten)]
    filters: Filters,

    /// Which operations come first, by creation time
    #[arg(long, value_name = "ORDER", default_value = "newest")]
    order: OrderArg,

    /// At most this many operations
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,

    #[command(flatten)]
    at: At,

    /// Print the ledger's JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OrderArg {
    Newest,
    Oldest,
}

/// A row of the detail list.
#[derive(Deserialize)]
struct OperationRow<'a> {
    #[serde(borrow)]
    operation_id: Cow<'a, str>,
    #[serde(borrow)]
    occurred_time: Cow<'a, str>,
    #[serde(borrow)]
    last_update_time: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow)]
    request: RequestCells<'a>,
}

#[derive(Deserialize)]
struct RequestCells<'a> {
    #[serde(borrow)]
    uri: Cow<'a, str>,
    #[serde(borrow)]
    method: Cow<'a, str>,
}

pub async fn run(args: Args) -> Result<(), Failure> {
    let ledger = LedgerClient::new(&args.connection, PATIENCE + args.at.wait())?;
    let list = ListStream {
        ledger: &ledger,
        url: url(&ledger, &args),
        at: &args.at,
        name: match args.detail {
            true => "operations",
            false => "operation_ids",
        },
        limit: args.limit,
    };
    let mut out = Output::new();
    if args.json {
        return list.print_json(&mut out).await;
    }
    let titles = ["ID", "STATUS", "CREATED", "LAST UPDATE", "METHOD", "URI"];
    let mut table = TextTable::new(titles, 5, &out);
    let mut is_empty = true;
    let read = list.read(|element| {
        is_empty = false;
        if args.detail {
            let op: OperationRow = serde_json::from_slice(element).map_err(|_| unreadable())?;
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
    });
    let outcome = read.await;
    // Show what arrived before a response broke off.
    table.finish(&mut out)?;
    out.flush()?;
    outcome?;
    if is_empty {
        note("no operations");
    }
    Ok(())
}

fn unreadable() -> Failure {
    Failure::Unexpected("the list contains an entry that cannot be read".into())
}

fn url(ledger: &LedgerClient, args: &Args) -> reqwest::Url {
    let mut url = ledger.url(&["v1", "operations"]);
    let format = if args.detail { "detail-list" } else { "list" };
    let mut query = url.query_pairs_mut();
    query.append_pair("format", format);
    query.extend_pairs(args.filters.query());
    // The default is left out, so that the request stays one of the origin's.
    if let OrderArg::Oldest = args.order {
        query.append_pair("order", "oldest");
    }
    drop(query);
    url
}
