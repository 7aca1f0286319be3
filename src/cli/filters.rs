//! Filters, for the commands that show several operations.

use crate::client::Filter;
use crate::domain::{Method, RollbackResult, Status};
use crate::wire::time::{TimeFault, parse_rfc3339};
use clap::builder::{PossibleValuesParser, TypedValueParser};

#[derive(Debug, Clone, Default, clap::Args)]
pub struct Filters {
    /// Only operations with this status; may be repeated
    #[arg(long, value_name = "STATUS", value_parser = statuses())]
    status: Vec<Status>,

    /// Only operations created at this time (RFC 3339) or later
    #[arg(long = "created-from", value_name = "TIME", value_parser = time)]
    occurred_from: Option<String>,

    /// Only operations created before this time (RFC 3339)
    #[arg(long = "created-to", value_name = "TIME", value_parser = time)]
    occurred_to: Option<String>,

    /// Only operations with a request to this cluster, or a rollback on it
    #[arg(long, value_name = "CLUSTER", visible_alias = "cluster")]
    cluster_id: Option<String>,

    /// Only operations whose request has this method
    #[arg(long, value_name = "METHOD", value_parser = methods())]
    method: Option<String>,

    /// Only operations whose request's URI begins with this
    #[arg(long, value_name = "PREFIX")]
    uri_prefix: Option<String>,

    /// Only operations whose rollbacks have this result
    #[arg(long, value_name = "RESULT", value_parser = results())]
    rollback_result: Option<String>,
}

impl From<Filters> for Filter {
    fn from(filters: Filters) -> Filter {
        Filter {
            statuses: filters.status,
            occurred_from: filters.occurred_from,
            occurred_to: filters.occurred_to,
            cluster_id: filters.cluster_id,
            method: filters.method,
            uri_prefix: filters.uri_prefix,
            rollback_result: filters.rollback_result,
        }
    }
}

fn statuses() -> impl TypedValueParser<Value = Status> {
    let names = PossibleValuesParser::new(Status::ALL.map(Status::as_str));
    names.map(|name| Status::parse(&name).expect("each name is a status"))
}

fn methods() -> PossibleValuesParser {
    Method::ALL.map(Method::as_str).into()
}

fn results() -> PossibleValuesParser {
    RollbackResult::ALL.map(RollbackResult::as_str).into()
}

/// The time as it was typed, because the ledger reads nanoseconds.
fn time(text: &str) -> Result<String, &'static str> {
    match parse_rfc3339(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(TimeFault::Unreadable) => Err("not RFC 3339 with an offset (2026-11-01T00:00:00Z)"),
        Err(TimeFault::OutOfRange) => Err("years 0001 to 9999 in UTC"),
    }
}
