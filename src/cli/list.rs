//! `opledger list`: lists operations.

use crate::cli::at::At;
use crate::cli::client::Connection;
use crate::cli::failure::Failure;
use crate::cli::filters::Filters;
use crate::cli::output::{Output, note};
use crate::cli::stream::ListStream;
use crate::cli::table::TextTable;
use crate::client::{Document, Filter};
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
    #[arg(value_parser = ["newest", "oldest"])]
    order: String,

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

pub async fn run(args: Args) -> Result<(), Failure> {
    let http = args.connection.http(PATIENCE + args.at.wait())?;
    let (format, name) = match args.detail {
        true => ("detail-list", "operations"),
        false => ("list", "operation_ids"),
    };
    let mut query = vec![("format", format.to_owned())];
    query.extend(Filter::from(args.filters).query());
    // The default is left out, so that it stays a request of the fabric-controller interface.
    if args.order != "newest" {
        query.push(("order", args.order));
    }
    let url = http.url(&["v1", "operations"], &query);
    let list = ListStream::new(&http, url, name, &args.at, args.limit);
    let mut out = Output::new();
    if args.json {
        return list.print_json(&mut out).await;
    }
    let has_rows = if args.detail {
        let titles = ["ID", "STATUS", "CREATED", "LAST UPDATE", "METHOD", "URI"];
        let table = TextTable::new(titles, 5, &out);
        let row = |document: Document| {
            [
                document.operation_id,
                document.status.as_str().to_owned(),
                document.occurred_time,
                document.last_update_time,
                document.request.method,
                document.request.uri,
            ]
        };
        list.print_table(table, &mut out, row).await?
    } else {
        list.print_lines(&mut out).await?
    };
    if !has_rows {
        note("no operations");
    }
    Ok(())
}
