//! The filters of lists and streams of operations.

use super::error::Refusal;
use super::params::Params;
use crate::domain::{Method, RollbackResult, Status, Timestamp};
use crate::rows::filter::Filter;
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
    let (from, to) = (time(params, "occurred_from")?, time(params, "occurred_to")?);
    if let (Some(from), Some(to)) = (from, to)
        && from > to
    {
        let what = "must not be before occurred_from.";
        return Err(Fault::new(Rule::Range, "occurred_to", what).into());
    }
    Ok(Filter {
        statuses,
        occurred_from: from,
        occurred_to: to,
        cluster_id: text(params, "cluster_id", 256)?,
        method: method.transpose()?,
        uri_prefix: text(params, "uri_prefix", 8192)?,
        rollback_result: rollback_result.transpose()?,
    })
}

/// `max` is the longest value that it is compared with. An empty value, for example of a variable
/// that is not set, would list everything or nothing.
fn text(params: &Params, name: &'static str, max: usize) -> Result<Option<String>, Refusal> {
    let Some(text) = params.get(name) else {
        return Ok(None);
    };
    match text.chars().count() {
        length if (1..=max).contains(&length) => Ok(Some(text.to_owned())),
        _ => Err(Fault::new(Rule::Range, name, format!("1 to {max} characters.")).into()),
    }
}

fn time(params: &Params, name: &'static str) -> Result<Option<Timestamp>, Refusal> {
    let Some(text) = params.get(name) else {
        return Ok(None);
    };
    let fault = match parse_rfc3339(text) {
        Ok(time) => return Ok(Some(time)),
        Err(TimeFault::OutOfRange) => Fault::new(Rule::Range, name, "years 0001 to 9999 in UTC."),
        // In a query a plus is a blank.
        Err(TimeFault::Unreadable) if parse_rfc3339(&text.replace(' ', "+")).is_ok() => {
            let what = "must be an RFC 3339 time; the + of its offset is written %2B in a query.";
            Fault::new(Rule::Format, name, what)
        }
        Err(TimeFault::Unreadable) => Fault::new(Rule::Format, name, "must be an RFC 3339 time."),
    };
    Err(fault.into())
}

fn value(name: &'static str, what: &str) -> Refusal {
    Fault::new(Rule::Value, name, what.to_owned()).into()
}
