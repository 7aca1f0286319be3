//! Descriptions of query parameters and request headers. A name means the same on every
//! route.

use super::schemas;
use serde_json::{Value, json};

struct Param {
    about: &'static str,
    schema: Value,
    /// May be given several times.
    repeats: bool,
}

/// The parameter in OpenAPI's form. Panics for a name without a description; every test that
/// asks for the document finds that.
pub fn parameter(name: &str, place: &str) -> Value {
    let param = known(name).unwrap_or_else(|| panic!("{name}: describe it in parameters.rs"));
    let mut shown = json!({
        "name": name,
        "in": place,
        "description": param.about,
        "schema": param.schema,
    });
    if param.repeats {
        shown["schema"] = json!({"type": "array", "items": param.schema});
        shown["explode"] = json!(true);
    }
    shown
}

fn known(name: &str) -> Option<Param> {
    let text = || json!({"type": "string"});
    let time = || json!({"type": "string", "format": "date-time"});
    let token = || {
        json!({
            "type": "string",
            "format": "ledger-position",
            "pattern": "^[0-9a-z]{8};([0-9]{1,9}:[0-9]{1,18}(,[0-9]{1,9}:[0-9]{1,18})*)?$",
        })
    };
    let choice = |values: &[&str]| json!({"type": "string", "enum": values});
    let (about, schema) = match name {
        "format" => (
            "Identifiers, or documents without bodies.",
            choice(&["list", "detail-list"]),
        ),
        "position" => (
            "The same as the header Ledger-Position, for clients that cannot set headers.",
            token(),
        ),
        "limit" => (
            "Maximum number of entries on a page. Without it there is one page with everything.",
            json!({"type": "integer", "minimum": 1, "maximum": 1000}),
        ),
        "cursor" => (
            "Where the page begins. Take it from the Link header of the page before.",
            json!({"type": "string", "format": "cursor"}),
        ),
        "status" => (
            "Only operations with this status, or one of these.",
            schemas::reference("OperationStatus"),
        ),
        "occurred_from" => (
            "Only operations created at this time or later. Write the + of an offset as `%2B`.",
            time(),
        ),
        "occurred_to" => ("Only operations created before this time.", time()),
        "cluster_id" => (
            "Only operations with a request to this cluster, or a rollback on it.",
            json!({"type": "string", "minLength": 1, "maxLength": 256}),
        ),
        "method" => (
            "Only operations whose request has this method.",
            schemas::reference("Method"),
        ),
        "uri_prefix" => (
            "Only operations whose request's URI begins with this.",
            json!({"type": "string", "minLength": 1, "maxLength": 8192}),
        ),
        "rollback_result" => (
            "Only operations whose rollback has this result.",
            schemas::reference("RollbackResult"),
        ),
        "state" => (
            "Only deliveries in this state.",
            choice(&["pending", "held", "failed", "delivered"]),
        ),
        "operation_id" => (
            "Only deliveries of this operation.",
            schemas::reference("OperationId"),
        ),
        "order" => ("By creation time.", choice(&["newest", "oldest"])),
        "since" => (
            "Only samples after this time, in milliseconds since 1970.",
            json!({"type": "integer", "format": "int64", "minimum": 0, "maximum": (1u64 << 53) - 1}),
        ),
        "Ledger-Position" => (
            "The response must be at least as new as this state.",
            token(),
        ),
        "Prefer" => (
            "`wait=S`: how many seconds to wait if the result is not there yet. \
             `Preference-Applied` has the limit that was applied.",
            json!({"type": "string", "example": "wait=5"}),
        ),
        "If-None-Match" => (
            "The ETag of the state that the client has: 304 if it is still the same. With \
             `Prefer: wait=S` the request waits for a change.",
            text(),
        ),
        "Last-Event-ID" => ("Resumes a stream after the event with this `id`.", token()),
        "Content-Encoding" => (
            "How the body is compressed, if it is.",
            choice(&["gzip", "zstd"]),
        ),
        "ce-specversion" => (
            "Binary mode: the attribute `specversion`.",
            json!({"type": "string", "enum": ["1.0"]}),
        ),
        "ce-id" => ("Binary mode: the attribute `id`.", text()),
        "ce-source" => ("Binary mode: the attribute `source`.", text()),
        "ce-type" => ("Binary mode: the attribute `type`.", text()),
        "ce-subject" => (
            "Binary mode: the attribute `subject`, the operation's identifier.",
            text(),
        ),
        // Generators put nothing but text into headers.
        "ce-time" => ("Binary mode: the attribute `time`, in RFC 3339.", text()),
        _ => return None,
    };
    Some(Param {
        about,
        schema,
        repeats: name == "status",
    })
}
