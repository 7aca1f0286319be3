//! The filters of the interface, for the commands that show several operations.

use crate::domain::{Method, RollbackResult, Status};
use crate::wire::time::{TimeFault, parse_rfc3339};
use clap::builder::{PossibleValuesParser, TypedValueParser};

#[derive(Debug, Clone, Default, clap::Args)]
pub struct Filters {
    /// Only operations with this status; may be repeated
    #[arg(long, value_name = "STATUS", value_parser = statuses())]
    pub status: Vec<Status>,

    /// Only operations created at this time (RFC 3339) or later
    #[arg(long = "created-from", value_name = "TIME", value_parser = time)]
    pub occurred_from: Option<String>,

    /// Only operations created before this time (RFC 3339)
    #[arg(long = "created-to", value_name = "TIME", value_parser = time)]
    pub occurred_to: Option<String>,

    /// Only operations with a request to this cluster, or a rollback on it
    #[arg(long, value_name = "CLUSTER", visible_alias = "cluster")]
    pub cluster_id: Option<String>,

    /// Only operations whose request has this method
    #[arg(long, value_name = "METHOD", value_parser = methods())]
    pub method: Option<Method>,

    /// Only operations whose request's URI begins with this
    #[arg(long, value_name = "PREFIX")]
    pub uri_prefix: Option<String>,

    /// Only operations whose rollbacks have this result
    #[arg(long, value_name = "RESULT", value_parser = results())]
    pub rollback_result: Option<RollbackResult>,
}

impl Filters {
    /// The filters as query parameters.
    pub fn query(&self) -> Vec<(&'static str, &str)> {
        let statuses = self.status.iter().map(|status| ("status", status.as_str()));
        let others = [
            ("occurred_from", self.occurred_from.as_deref()),
            ("occurred_to", self.occurred_to.as_deref()),
            ("cluster_id", self.cluster_id.as_deref()),
            ("method", self.method.map(Method::as_str)),
            ("uri_prefix", self.uri_prefix.as_deref()),
            (
                "rollback_result",
                self.rollback_result.map(RollbackResult::as_str),
            ),
        ];
        let others = others
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        statuses.chain(others).collect()
    }
}

fn statuses() -> impl TypedValueParser<Value = Status> {
    one_of(Status::ALL.map(Status::as_str), Status::parse)
}

fn methods() -> impl TypedValueParser<Value = Method> {
    one_of(Method::ALL.map(Method::as_str), Method::parse)
}

fn results() -> impl TypedValueParser<Value = RollbackResult> {
    let names = RollbackResult::ALL.map(RollbackResult::as_str);
    one_of(names, RollbackResult::parse)
}

fn one_of<T: Clone + Send + Sync + 'static, const N: usize>(
    names: [&'static str; N],
    parse: fn(&str) -> Option<T>,
) -> impl TypedValueParser<Value = T> {
    let parser = PossibleValuesParser::new(names);
    parser.map(move |name| parse(&name).expect("each name is one of the values"))
}

/// The time as it was typed, because the ledger reads nanoseconds.
fn time(text: &str) -> Result<String, &'static str> {
    match parse_rfc3339(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(TimeFault::Unreadable) => Err("not RFC 3339 with an offset (2026-11-01T00:00:00Z)"),
        Err(TimeFault::OutOfRange) => Err("years 0001 to 9999 in UTC"),
    }
}
