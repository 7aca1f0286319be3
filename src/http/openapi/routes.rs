//! Every route with its parameters and responses. Query parameters have the names by which the
//! handler reads them; `parameters.json` describes them.

use super::super::{audit, filters, listing, notifications, operations, pulse};
use super::{examples, schemas};
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

/// Parameters and the headers of responses, by name. A name means the same on every route.
static DESCRIPTIONS: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("parameters.json")).expect("the file is JSON")
});

/// Panics for a name without a description: every test that requests the reference finds it.
fn described(kind: &str, name: &str) -> Value {
    let found = DESCRIPTIONS[kind].get(name);
    found
        .cloned()
        .unwrap_or_else(|| panic!("{name}: describe it in parameters.json"))
}

/// An operation in the sense of OpenAPI: a method of a path.
pub struct Route {
    pub method: &'static str,
    pub path: &'static str,
    pub reference: Value,
}

/// A status with its description.
type StatusText = (u16, &'static str);
/// A content type with the name of its schema.
type MediaContent = (&'static str, &'static str);

fn get(path: &'static str, id: &str, tag: &str, summary: &str) -> Route {
    Route::new("get", path, id, tag, summary)
}

fn post(path: &'static str, id: &str, tag: &str, summary: &str) -> Route {
    Route::new("post", path, id, tag, summary)
}

impl Route {
    fn new(method: &'static str, path: &'static str, id: &str, tag: &str, summary: &str) -> Route {
        let names = path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let in_path = names.map(|name| {
            json!({
                "name": name,
                "in": "path",
                "required": true,
                "description": "The operation's identifier.",
                "schema": schemas::reference("OperationId"),
                "example": examples::OPERATION,
            })
        });
        let reference = json!({
            "operationId": id,
            "tags": [tag],
            "summary": summary,
            "description": "",
            "parameters": in_path.collect::<Vec<_>>(),
            "responses": {},
        });
        let route = Route {
            method,
            path,
            reference,
        };
        route.refusals(ALWAYS)
    }

    fn about(mut self, text: &str) -> Route {
        self.reference["description"] = json!(text);
        self
    }

    fn parameters(mut self, names: &[&[&str]]) -> Route {
        let parameters = self.reference["parameters"].as_array_mut();
        let parameters = parameters.expect("an array from the beginning");
        for name in names.iter().copied().flatten() {
            let mut parameter = described("parameters", name);
            parameter["name"] = json!(name);
            parameters.push(parameter);
        }
        self
    }

    fn body(mut self, content: &[MediaContent]) -> Route {
        self.reference["requestBody"] = json!({"required": true, "content": media(content)});
        self
    }

    fn response(
        mut self,
        (status, about): StatusText,
        headers: &[&str],
        content: &[MediaContent],
    ) -> Route {
        let headers = ["x-request-id"].iter().chain(headers);
        let headers: Map<_, _> = headers
            .map(|name| (String::from(*name), described("headers", name)))
            .collect();
        let mut response = json!({"description": about, "headers": headers});
        if !content.is_empty() {
            response["content"] = media(content);
        }
        self.reference["responses"][status.to_string()] = response;
        self
    }

    /// Statuses with an error response.
    fn refusals(self, all: &[StatusText]) -> Route {
        all.iter().fold(self, |route, refusal| {
            let headers: &[&str] = match refusal.0 {
                429 | 503 | 504 => &["retry-after"],
                415 => &["accept", "accept-encoding"],
                _ => &[],
            };
            route.response(*refusal, headers, &[(JSON, "Error")])
        })
    }
}

fn media(content: &[MediaContent]) -> Value {
    let media = content.iter().map(|(media, schema)| {
        let mut value = json!({"schema": schemas::reference(schema)});
        if let Some(placeholder) = examples::placeholder(schema) {
            value["example"] = json!(placeholder);
        }
        (String::from(*media), value)
    });
    media.collect::<Map<_, _>>().into()
}

const JSON: &str = "application/json";
const STREAM: MediaContent = ("text/event-stream", "text");
/// Media types are case-insensitive. In this case, openapi-python-client leaves the batch out.
/// Otherwise the code that it generates raises a TypeError, because one body is an array.
const BATCH: &str = "application/cloudevents-batch+JSON";

const POSITION: &str = "ledger-position";
const WAITED: &str = "preference-applied";
const READ: &[&str] = &["Ledger-Position", "Prefer"];
const STREAMED: &[&str] = &[
    "Ledger-Position",
    "Prefer",
    "If-None-Match",
    "Last-Event-ID",
];

/// Error statuses that any request may get.
const ALWAYS: &[StatusText] = &[
    (400, "The request is malformed or invalid."),
    (
        414,
        "The request line is too long: the setting `server.max_headers` limits it together with the headers.",
    ),
    (
        421,
        "The request's `Host` is not a name of this ledger: see the setting `server.hosts`.",
    ),
    (431, "The headers are too large or too many."),
    (500, "A fault of the ledger, or its store cannot be read."),
    (
        503,
        "Unavailable: the ledger is starting or stopping, its store is being reopened, there are \
         too many connections, or too many large responses are unread.",
    ),
];
const NOT_MODIFIED: StatusText = (304, "Not modified.");
const NOTHING: StatusText = (404, "Not found.");
/// `data_consistency` in a 404 comes from the fabric-controller interface.
const NO_DOCUMENT: StatusText = (
    404,
    "Not found: the operation has no document. `data_consistency` is `rolled back`, as in every \
     error response to a GET: the request changed nothing. It does not mean that anything was \
     undone.",
);
const TOO_LATE: StatusText = (408, "The body did not arrive in time.");
const GONE: StatusText = (
    410,
    "The position belongs to another log, or the cursor has expired.",
);
const BUSY: StatusText = (429, "Too many requests.");
const NOT_REACHED: StatusText = (504, "The position was not reached in time.");

pub fn all() -> impl Iterator<Item = Route> {
    of_operations()
        .into_iter()
        .chain([publish(), dead_letters()])
        .chain(of_notifications())
        .chain(of_operators())
}

fn of_operations() -> [Route; 3] {
    let list = get("/v1/operations", "listOperations", "operations", "List operations")
        .about(
            "Every operation that has a document, newest first. With `Prefer: wait=S` an empty \
             list waits for the first operation, with `If-None-Match` as well for a change. With \
             `Accept: text/event-stream` the response is a stream of the states of all matching \
             operations as server-sent events (`document`, `left`, `removed`, `reset`, and \
             `position` when no other event says how far the stream is). `Last-Event-ID` resumes a \
             stream that broke off, or continues after the `Ledger-Position` of a list. If `Accept` \
             prefers both forms equally, the first one wins. A stream does not take `format`, \
             `order`, `limit` or `cursor`.",
        )
        .parameters(&[&["format"], listing::EXTENSIONS, filters::FILTERS, STREAMED])
        .response(
            (200, "Identifiers, documents without bodies, or the stream."),
            &[POSITION, "link", "etag", "vary", WAITED],
            &[(JSON, "OperationList"), STREAM],
        )
        .response(NOT_MODIFIED, &[POSITION, "link", "etag", "vary", WAITED], &[])
        .refusals(&[
            GONE,
            BUSY,
            (
                500,
                "A fault of the ledger, or its store cannot be read. Also what is 503 on other \
                 routes, with the code 000001, because the fabric-controller interface has no 503 \
                 here.",
            ),
            (
                503,
                "Unavailable: only for streams, for pages while too many large responses are \
                 unread, and for too many connections. Otherwise a list gets 500.",
            ),
            NOT_REACHED,
        ]);
    let one = get("/v1/operations/{operation_id}", "getOperation", "operations", "Get an operation")
        .about(
            "The document of the operation. 404 until its creation event has arrived. With \
             `Prefer: wait=S` the request waits for the document, with `If-None-Match` as well for \
             a change. With `Accept: text/event-stream` the response is a stream of the operation's \
             states as server-sent events (`document`, `waiting` while there is no document, \
             `removed`, `reset`) until the operation has ended. `Last-Event-ID` resumes a stream \
             that broke off. If `Accept` prefers both forms equally, the first one wins.",
        )
        .parameters(&[operations::ONE, STREAMED])
        .response(
            (200, "The document or the stream."),
            &[POSITION, "etag", "vary", WAITED],
            &[(JSON, "OperationDocument"), STREAM],
        )
        .response(
            (
                204,
                "To a stream request with `Last-Event-ID`: the operation has ended, and the client \
                 has its last state.",
            ),
            &[POSITION, "vary", WAITED],
            &[],
        )
        .response(NOT_MODIFIED, &[POSITION, "etag", "vary", WAITED], &[])
        .refusals(&[NO_DOCUMENT, GONE, BUSY, NOT_REACHED]);
    let path = "/v1/operations/{operation_id}/events";
    let history = get(
        path,
        "getHistory",
        "audit",
        "Get the history of an operation",
    )
    .about(
        "Every event as it was received, in the order that decides the result: time, source, \
             id. An operation has a history before its creation event has arrived, too.",
    )
    .parameters(&[audit::PAGED, READ])
    .response(
        (200, "The history or a page of it."),
        &[POSITION, "link", WAITED],
        &[(JSON, "History")],
    )
    .refusals(&[NOTHING, GONE, BUSY, NOT_REACHED]);
    [list, one, history]
}

fn publish() -> Route {
    let attributes = &[
        "Content-Encoding",
        "ce-specversion",
        "ce-id",
        "ce-source",
        "ce-type",
        "ce-subject",
        "ce-time",
    ];
    post("/v1/events", "publishEvents", "events", "Publish events")
        .about(
            "One CloudEvent (`application/cloudevents+json`), a batch \
             (`application/cloudevents-batch+json`), or one in CloudEvents' binary mode: the \
             content type is `application/json`, the body is the event's `data`, and the \
             attributes are in `ce-` headers, percent-encoded where they are not printable ASCII; \
             `ce-id`, `ce-source`, `ce-type`, `ce-subject`, `ce-time` and `ce-specversion` are \
             required then. Either all events of a request are valid, or none is stored. Sending \
             the same events again is harmless.",
        )
        .parameters(&[attributes])
        .body(&[
            ("application/cloudevents+json", "Event"),
            (BATCH, "Events"),
            (JSON, "EventData"),
        ])
        .response(
            (202, "All events are durable."),
            &[POSITION],
            &[(JSON, "Accepted")],
        )
        .refusals(&[
            TOO_LATE,
            (
                413,
                "The body or an event is too large. A compressed body counts by its size after \
                 decompression.",
            ),
            (
                415,
                "Unsupported content type (`Accept` lists the supported ones), or \
                 `Content-Encoding` is neither `gzip` nor `zstd`.",
            ),
            BUSY,
            (
                503,
                "The event log does not accept writes, or is not verified as the store's own log. \
                 If the log did not confirm a write, `data_consistency` is `unknown`: send the \
                 same events again.",
            ),
            (504, "The event log did not respond in time."),
        ])
}

fn dead_letters() -> Route {
    get(
        "/v1/dead-letters",
        "listDeadLetters",
        "audit",
        "List dead letters",
    )
    .about("Invalid records of the log, whole, with the reason, in the order of their positions.")
    .parameters(&[audit::PAGED, READ])
    .response(
        (200, "All of them or a page."),
        &[POSITION, "link", WAITED],
        &[(JSON, "DeadLetters")],
    )
    .refusals(&[GONE, BUSY, NOT_REACHED])
}

fn of_notifications() -> [Route; 5] {
    /// An operator's request to retry or release deliveries.
    fn repair(path: &'static str, id: &str, summary: &str) -> Route {
        post(path, id, "notifications", summary)
            .about(
                "The request is recorded in the control log, with who asks and why, before the \
                 response is sent.",
            )
            .parameters(&[&["Content-Encoding"]])
            .body(&[(JSON, "Reasons")])
            .response((202, "Recorded."), &[], &[(JSON, "Recorded")])
            .refusals(&[
                TOO_LATE,
                (
                    413,
                    "The body is too large. A compressed one counts by its size after \
                     decompression.",
                ),
                (
                    415,
                    "The body must be application/json; `Content-Encoding` may be `gzip` or `zstd`.",
                ),
                BUSY,
                (
                    503,
                    "Webhooks are switched off, or the control log does not accept writes.",
                ),
                (504, "The control log did not respond in time."),
            ])
    }
    let list = get(
        "/v1/notifications",
        "listNotifications",
        "notifications",
        "List webhook deliveries",
    )
    .about(
        "First the deliveries that are due, then those that were made. A page may have fewer \
             entries than `limit`, or none, and still have a next link.",
    )
    .parameters(&[notifications::LIST, READ])
    .response(
        (200, "All of them or a page."),
        &[POSITION, "link", WAITED],
        &[(JSON, "Notifications")],
    )
    .refusals(&[GONE, BUSY, NOT_REACHED]);
    [
        list,
        repair(
            "/v1/notifications/retry",
            "retryNotifications",
            "Retry all deliveries that failed permanently",
        ),
        repair(
            "/v1/notifications/release",
            "releaseNotifications",
            "Release held deliveries",
        ),
        repair(
            "/v1/notifications/{operation_id}/retry",
            "retryNotification",
            "Retry a delivery",
        )
        .refusals(&[NOTHING]),
        repair(
            "/v1/notifications/{operation_id}/release",
            "releaseNotification",
            "Release a held delivery",
        )
        .refusals(&[NOTHING]),
    ]
}

fn of_operators() -> [Route; 6] {
    let ok = |path, id, summary, about, content: MediaContent| {
        get(path, id, "operators", summary).response((200, about), &[], &[content])
    };
    let not_ready =
        "Not ready, with every reason. If there are too many connections, the body is an `Error`.";
    [
        ok(
            "/livez",
            "isAlive",
            "Liveness",
            "Alive.",
            (JSON, "Liveness"),
        ),
        ok(
            "/readyz",
            "isReady",
            "Readiness",
            "Ready.",
            (JSON, "Readiness"),
        )
        .response((503, not_ready), &[], &[(JSON, "Readiness")]),
        ok(
            "/metrics",
            "getMetrics",
            "Metrics",
            "In the text format of Prometheus.",
            ("text/plain", "text"),
        ),
        ok(
            "/version",
            "getVersion",
            "Version",
            "The versions of the program and its formats.",
            (JSON, "Version"),
        ),
        get("/projector", "getProjector", "operators", "The projector")
            .about(
                "For the web page: the projector's position in each partition, the lag of each \
                 worker, the operations by status, and a sample every two seconds of the last ten \
                 minutes.",
            )
            .parameters(&[pulse::SINCE])
            .response(
                (200, "The projector's state."),
                &[POSITION],
                &[(JSON, "Projector")],
            ),
        ok(
            "/openapi.json",
            "getOpenApi",
            "This document",
            "OpenAPI 3.0.",
            (JSON, "object"),
        ),
    ]
}
