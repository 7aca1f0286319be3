//! What each query parameter and header of a request means: one of a name, whatever
//! the route.

use super::schemas;
use serde_json::{Value, json};

struct Param {
    about: &'static str,
    schema: Value,
    /// May be given several times.
    repeats: bool,
}

/// As OpenAPI has it. A name that nobody described is a mistake that any test finds
/// which asks for the document.
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
            "Identifiers, or documents without their bodies.",
            choice(&["list", "detail-list"]),
        ),
        "position" => ("Ledger-Position, where headers cannot be set.", token()),
        "limit" => (
            "At most so many on a page. Without it everything comes at once.",
            json!({"type": "integer", "minimum": 1, "maximum": 1000}),
        ),
        "cursor" => (
            "Where a page begins: from the Link of the page before.",
            json!({"type": "string", "format": "cursor"}),
        ),
        "status" => (
            "Only operations with this status, or one of these.",
            schemas::reference("OperationStatus"),
        ),
        "occurred_from" => (
            "Only operations accepted then or later. The + of an offset is written `%2B`.",
            time(),
        ),
        "occurred_to" => ("Only operations accepted before then.", time()),
        "cluster_id" => (
            "Only operations with a request to this cluster, or a rollback of one.",
            json!({"type": "string", "minLength": 1, "maxLength": 256}),
        ),
        "method" => (
            "Only operations whose request has this method.",
            schemas::reference("Method"),
        ),
        "uri_prefix" => (
            "Only operations whose request's URI begins so.",
            json!({"type": "string", "minLength": 1, "maxLength": 8192}),
        ),
        "rollback_result" => (
            "Only operations with this result of a rollback.",
            schemas::reference("RollbackResult"),
        ),
        "state" => (
            "Only notifications in this state.",
            choice(&["pending", "held", "failed", "delivered"]),
        ),
        "operation_id" => (
            "Only those of this operation.",
            schemas::reference("OperationId"),
        ),
        "order" => ("By the time of acceptance.", choice(&["newest", "oldest"])),
        "since" => (
            "Only moments after this time, in milliseconds since 1970.",
            json!({"type": "integer", "format": "int64", "minimum": 0, "maximum": (1u64 << 53) - 1}),
        ),
        "Ledger-Position" => ("A state that the answer has to hold at least.", token()),
        "Prefer" => (
            "`wait=S`: how many seconds to wait for what is not there yet; `Preference-Applied` \
             says how many it may be.",
            json!({"type": "string", "example": "wait=5"}),
        ),
        "If-None-Match" => (
            "The ETag of what is known; answered with 304 if it is the same. With `Prefer: wait=S` \
             a change is waited for.",
            text(),
        ),
        "Last-Event-ID" => (
            "Of a stream: the `id` of the last event that was received; it goes on after that.",
            token(),
        ),
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
