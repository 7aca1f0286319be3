//! The parameters that say which operations a list or a stream is about.

use super::error::Refusal;
use super::params::Params;
use crate::domain::{Method, RollbackResult, Status, Timestamp};
use crate::query::filter::Filter;
use crate::wire::fault::{Fault, Rule};
use crate::wire::time::{TimeFault, parse_rfc3339};

/// By name.
pub const FILTERS: &[&str] = &[
    "status",
    "occurred_from",
    "occurred_to",
    "cluster_id",
    "method",
    "uri_prefix",
    "rollback_result",
];

pub fn filter(params: &Params) -> Result<Filter, Refusal> {
    let mut statuses = Vec::new();
    for text in params.all("status") {
        let what = "unexecuted, executing, completed, failed or canceled.";
        let status = Status::parse(text).ok_or_else(|| value("status", what))?;
        if !statuses.contains(&status) {
            statuses.push(status);
        }
    }
    let method = params.get("method").map(|text| {
        Method::parse(text).ok_or_else(|| value("method", "POST, PUT, DELETE or PATCH."))
    });
    let rollback_result = params.get("rollback_result").map(|text| {
        let what = "completed, failed or none.";
        RollbackResult::parse(text).ok_or_else(|| value("rollback_result", what))
    });
    Ok(Filter {
        statuses,
        occurred_from: time(params, "occurred_from")?,
        occurred_to: time(params, "occurred_to")?,
        cluster_id: params.get("cluster_id").map(str::to_owned),
        method: method.transpose()?,
        uri_prefix: params.get("uri_prefix").map(str::to_owned),
        rollback_result: rollback_result.transpose()?,
    })
}

fn time(params: &Params, name: &'static str) -> Result<Option<Timestamp>, Refusal> {
    let fault = |fault| match fault {
        TimeFault::Unreadable => Fault::new(Rule::Format, name, "must be an RFC 3339 time."),
        TimeFault::OutOfRange => Fault::new(Rule::Range, name, "years 0001 to 9999 in UTC."),
    };
    let time = params.get(name).map(parse_rfc3339);
    Ok(time.transpose().map_err(fault)?)
}

fn value(name: &'static str, what: &str) -> Refusal {
    Fault::new(Rule::Value, name, what.to_owned()).into()
}
