//! What each query parameter and header of a request means: one of a name, whatever
//! the route.

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
            choice(&["unexecuted", "executing", "completed", "failed", "canceled"]),
        ),
        "occurred_from" => ("Only operations accepted then or later.", time()),
        "occurred_to" => ("Only operations accepted before then.", time()),
        "cluster_id" => ("Only operations with a request to this cluster.", text()),
        "method" => (
            "Only operations whose request has this method.",
            choice(&["POST", "PUT", "DELETE", "PATCH"]),
        ),
        "uri_prefix" => ("Only operations whose request's URI begins so.", text()),
        "rollback_result" => (
            "Only operations with this result of a rollback.",
            choice(&["completed", "failed", "none"]),
        ),
        "state" => (
            "Only notifications that are so.",
            choice(&["pending", "held", "failed", "delivered"]),
        ),
        "operation_id" => ("Only those of this operation.", text()),
        "order" => ("By the time of acceptance.", choice(&["newest", "oldest"])),
        "since" => (
            "Only moments after this time, in milliseconds since 1970.",
            json!({"type": "integer", "minimum": 0, "maximum": (1u64 << 53) - 1}),
        ),
        "Ledger-Position" => ("A state that the answer has to hold at least.", token()),
        "Prefer" => (
            "`wait=S`: how many seconds to wait for what is not there yet.",
            json!({"type": "string", "examples": ["wait=5"]}),
        ),
        "If-None-Match" => (
            "The ETag of what is known; answered with 304 if it is the same.",
            text(),
        ),
        "Last-Event-ID" => (
            "Of a stream: the `id` of the last event that was received; it goes on behind that.",
            token(),
        ),
        _ => return None,
    };
    Some(Param {
        about,
        schema,
        repeats: name == "status",
    })
}
