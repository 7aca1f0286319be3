//! Every route with its parameters and responses. Query parameters have the names by
//! which the handler reads them.

use super::super::{audit, filters, listing, notifications, operations, pulse};

/// A method and a path, and what the reference says about them.
pub struct Route {
    pub method: &'static str,
    pub path: &'static str,
    pub id: &'static str,
    pub tag: &'static str,
    pub summary: &'static str,
    pub about: &'static str,
    /// Names only; `parameters.rs` describes them.
    pub query: &'static [&'static [&'static str]],
    pub headers: &'static [&'static str],
    pub body: Option<&'static [MediaContent]>,
    pub answers: &'static [RouteResponse],
    /// Statuses with an error response, beside those that every route has.
    pub refusals: &'static [(u16, &'static str)],
}

pub struct RouteResponse {
    pub status: u16,
    pub about: &'static str,
    pub headers: &'static [&'static str],
    pub content: &'static [MediaContent],
}

pub struct MediaContent {
    pub media: &'static str,
    /// A name of `schemas`.
    pub schema: &'static str,
}

const fn content(media: &'static str, schema: &'static str) -> MediaContent {
    MediaContent { media, schema }
}

const JSON: &str = "application/json";
const POSITION: &str = "ledger-position";
const WAITED: &str = "preference-applied";

const GONE: (u16, &str) = (
    410,
    "The position belongs to another log, or the cursor has expired.",
);
const BUSY: (u16, &str) = (429, "Too many requests.");
const NOT_REACHED: (u16, &str) = (504, "The position was not reached in time.");
const NOTHING: (u16, &str) = (404, "Not found.");

static GET_OPERATION: Route = Route {
    method: "get",
    path: "/v1/operations/{operation_id}",
    id: "getOperation",
    tag: "operations",
    summary: "Get an operation",
    about: "The document of the operation. 404 until its creation event has arrived. With \
        `Prefer: wait=S` the request waits for the document, with `If-None-Match` as well for \
        a change. With `Accept: text/event-stream` the response is a stream of the operation's \
        states as server-sent events (`document`, `waiting` while there is no document, \
        `removed`, `reset`) until the operation has ended. `Last-Event-ID` resumes a stream \
        that broke off. If `Accept` prefers both forms equally, the first one wins.",
    query: &[operations::ONE],
    headers: &[
        "Ledger-Position",
        "Prefer",
        "If-None-Match",
        "Last-Event-ID",
    ],
    body: None,
    answers: &[
        RouteResponse {
            status: 200,
            about: "The document or the stream.",
            headers: &[POSITION, "etag", "vary", WAITED],
            content: &[
                content(JSON, "OperationDocument"),
                content("text/event-stream", "text"),
            ],
        },
        RouteResponse {
            status: 204,
            about: "To a stream request with `Last-Event-ID`: the operation has ended, and the \
                client has its last state.",
            headers: &[POSITION, "vary", WAITED],
            content: &[],
        },
        RouteResponse {
            status: 304,
            about: "Not modified.",
            headers: &[POSITION, "etag", "vary", WAITED],
            content: &[],
        },
    ],
    refusals: &[NO_DOCUMENT, GONE, BUSY, NOT_REACHED],
};

/// `data_consistency` in a 404 comes from the fabric-controller interface.
const NO_DOCUMENT: (u16, &str) = (
    404,
    "Not found: the operation has no document. `data_consistency` is `rolled back`, as in every \
     error response to a GET: the request changed nothing. It does not mean that anything was \
     undone.",
);

static LIST_OPERATIONS: Route = Route {
    method: "get",
    path: "/v1/operations",
    id: "listOperations",
    tag: "operations",
    summary: "List operations",
    about: "Every operation that has a document, newest first. With `Prefer: wait=S` an empty \
        list waits for the first operation, with `If-None-Match` as well for a change. With \
        `Accept: text/event-stream` the response is a stream of the states of all matching \
        operations as server-sent events (`document`, `left`, `removed`, `reset`, and \
        `position` when no other event says how far the stream is). `Last-Event-ID` resumes a \
        stream that broke off, or continues after the `Ledger-Position` of a list. If `Accept` \
        prefers both forms equally, the first one wins. A stream does not take `format`, \
        `order`, `limit` or `cursor`.",
    query: &[&["format"], listing::EXTENSIONS, filters::FILTERS],
    headers: &[
        "Ledger-Position",
        "Prefer",
        "If-None-Match",
        "Last-Event-ID",
    ],
    body: None,
    answers: &[
        RouteResponse {
            status: 200,
            about: "Identifiers, documents without bodies, or the stream.",
            headers: &[POSITION, "link", "etag", "vary", WAITED],
            content: &[
                content(JSON, "OperationList"),
                content("text/event-stream", "text"),
            ],
        },
        RouteResponse {
            status: 304,
            about: "Not modified.",
            headers: &[POSITION, "link", "etag", "vary", WAITED],
            content: &[],
        },
    ],
    refusals: &[
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
    ],
};

static HISTORY: Route = Route {
    method: "get",
    path: "/v1/operations/{operation_id}/events",
    id: "getHistory",
    tag: "audit",
    summary: "Get the history of an operation",
    about: "Every event as it was received, in the order that decides the result: time, source, \
        id. An operation has a history before its creation event has arrived, too.",
    query: &[audit::PAGED],
    headers: &["Ledger-Position", "Prefer"],
    body: None,
    answers: &[RouteResponse {
        status: 200,
        about: "The history or a page of it.",
        headers: &[POSITION, "link", WAITED],
        content: &[content(JSON, "History")],
    }],
    refusals: &[NOTHING, GONE, BUSY, NOT_REACHED],
};

/// Media types are case-insensitive. In this case, openapi-python-client leaves the batch out.
/// Otherwise the code that it generates raises a TypeError, because one body is an array.
const BATCH: &str = "application/cloudevents-batch+JSON";

static PUBLISH: Route = Route {
    method: "post",
    path: "/v1/events",
    id: "publishEvents",
    tag: "events",
    summary: "Publish events",
    about: "One CloudEvent (`application/cloudevents+json`), a batch \
        (`application/cloudevents-batch+json`), or one in CloudEvents' binary mode: the content \
        type is `application/json`, the body is the event's `data`, and the attributes are in \
        `ce-` headers, percent-encoded where they are not printable ASCII; `ce-id`, `ce-source`, \
        `ce-type`, `ce-subject`, `ce-time` and `ce-specversion` are required then. Either all \
        events of a request are valid, or none is stored. Sending the same events again is \
        harmless.",
    query: &[],
    headers: &[
        "Content-Encoding",
        "ce-specversion",
        "ce-id",
        "ce-source",
        "ce-type",
        "ce-subject",
        "ce-time",
    ],
    body: Some(&[
        content("application/cloudevents+json", "Event"),
        content(BATCH, "Events"),
        content(JSON, "EventData"),
    ]),
    answers: &[RouteResponse {
        status: 202,
        about: "All events are durable.",
        headers: &[POSITION],
        content: &[content(JSON, "Accepted")],
    }],
    refusals: &[
        (408, "The body did not arrive in time."),
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
            "The event log does not accept writes, or is not verified as the store's own log. If \
             the log did not confirm a write, `data_consistency` is `unknown`: send the same \
             events again.",
        ),
        (504, "The event log did not respond in time."),
    ],
};

static DEAD_LETTERS: Route = Route {
    method: "get",
    path: "/v1/dead-letters",
    id: "listDeadLetters",
    tag: "audit",
    summary: "List dead letters",
    about: "Invalid records of the log, whole, with the reason, in the order of their positions.",
    query: &[audit::PAGED],
    headers: &["Ledger-Position", "Prefer"],
    body: None,
    answers: &[RouteResponse {
        status: 200,
        about: "All of them or a page.",
        headers: &[POSITION, "link", WAITED],
        content: &[content(JSON, "DeadLetters")],
    }],
    refusals: &[GONE, BUSY, NOT_REACHED],
};

static NOTIFICATIONS: Route = Route {
    method: "get",
    path: "/v1/notifications",
    id: "listNotifications",
    tag: "notifications",
    summary: "List webhook deliveries",
    about: "First the deliveries that are due, then those that were made. A page may have fewer \
        entries than `limit`, or none, and still have a next link.",
    query: &[notifications::LIST],
    headers: &["Ledger-Position", "Prefer"],
    body: None,
    answers: &[RouteResponse {
        status: 200,
        about: "All of them or a page.",
        headers: &[POSITION, "link", WAITED],
        content: &[content(JSON, "Notifications")],
    }],
    refusals: &[GONE, BUSY, NOT_REACHED],
};

/// An operator's request to retry or release webhook deliveries.
const fn said(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    refusals: &'static [(u16, &'static str)],
) -> Route {
    Route {
        method: "post",
        path,
        id,
        tag: "notifications",
        summary,
        about: "The request is recorded in the control log, with who asks and why, before the response is sent.",
        query: &[],
        headers: &["Content-Encoding"],
        body: Some(REASONS),
        answers: NOTED,
        refusals,
    }
}

const REASONS: &[MediaContent] = &[content(JSON, "Reasons")];
const NOTED: &[RouteResponse] = &[RouteResponse {
    status: 202,
    about: "Recorded.",
    headers: &[],
    content: &[content(JSON, "Recorded")],
}];
const ALL_OF_THEM: &[(u16, &str)] = &[TOO_LATE, TOO_LARGE, NO_JSON, BUSY, NONE_SENT, NO_ANSWER];
const ONE_OF_THEM: &[(u16, &str)] = &[
    NOTHING, TOO_LATE, TOO_LARGE, NO_JSON, BUSY, NONE_SENT, NO_ANSWER,
];
const TOO_LATE: (u16, &str) = (408, "The body did not arrive in time.");
const TOO_LARGE: (u16, &str) = (
    413,
    "The body is too large. A compressed one counts by its size after decompression.",
);
const NO_JSON: (u16, &str) = (
    415,
    "The body must be application/json; `Content-Encoding` may be `gzip` or `zstd`.",
);
const NONE_SENT: (u16, &str) = (
    503,
    "Webhooks are switched off, or the control log does not accept writes.",
);
const NO_ANSWER: (u16, &str) = (504, "The control log did not respond in time.");

static RETRY: Route = said(
    "/v1/notifications/{operation_id}/retry",
    "retryNotification",
    "Retry a delivery",
    ONE_OF_THEM,
);

static RELEASE: Route = said(
    "/v1/notifications/{operation_id}/release",
    "releaseNotification",
    "Release a held delivery",
    ONE_OF_THEM,
);

static RETRY_ALL: Route = said(
    "/v1/notifications/retry",
    "retryNotifications",
    "Retry all deliveries that failed permanently",
    ALL_OF_THEM,
);

static RELEASE_ALL: Route = said(
    "/v1/notifications/release",
    "releaseNotifications",
    "Release held deliveries",
    ALL_OF_THEM,
);

/// A GET without parameters, for operators.
const fn operators(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    answers: &'static [RouteResponse],
) -> Route {
    Route {
        method: "get",
        path,
        id,
        tag: "operators",
        summary,
        about: "",
        query: &[],
        headers: &[],
        body: None,
        answers,
        refusals: &[],
    }
}

const fn ok(about: &'static str, content: &'static [MediaContent]) -> RouteResponse {
    RouteResponse {
        status: 200,
        about,
        headers: &[],
        content,
    }
}

static LIVEZ: Route = operators(
    "/livez",
    "isAlive",
    "Liveness",
    &[ok("Alive.", &[content(JSON, "Liveness")])],
);

static READYZ: Route = operators(
    "/readyz",
    "isReady",
    "Readiness",
    &[
        ok("Ready.", &[content(JSON, "Readiness")]),
        RouteResponse {
            status: 503,
            about: "Not ready, with every reason. If there are too many connections, the body is an `Error`.",
            headers: &[],
            content: &[content(JSON, "Readiness")],
        },
    ],
);

static METRICS: Route = operators(
    "/metrics",
    "getMetrics",
    "Metrics",
    &[ok(
        "In the text format of Prometheus.",
        &[content("text/plain", "text")],
    )],
);

static VERSION: Route = operators(
    "/version",
    "getVersion",
    "Version",
    &[ok(
        "The versions of the program and its formats.",
        &[content(JSON, "Version")],
    )],
);

static PROJECTOR: Route = Route {
    about: "For the web page: the projector's position in each partition, the operations by \
        status, and a sample every two seconds of the last ten minutes.",
    query: &[pulse::SINCE],
    ..operators(
        "/projector",
        "getProjector",
        "The projector",
        &[RouteResponse {
            status: 200,
            about: "The projector's state.",
            headers: &[POSITION],
            content: &[content(JSON, "Projector")],
        }],
    )
};

static OPENAPI: Route = operators(
    "/openapi.json",
    "getOpenApi",
    "This document",
    &[ok("OpenAPI 3.0.", &[content(JSON, "object")])],
);

pub static ALL: &[&Route] = &[
    &LIST_OPERATIONS,
    &GET_OPERATION,
    &PUBLISH,
    &HISTORY,
    &DEAD_LETTERS,
    &NOTIFICATIONS,
    &RETRY_ALL,
    &RELEASE_ALL,
    &RETRY,
    &RELEASE,
    &LIVEZ,
    &READYZ,
    &METRICS,
    &VERSION,
    &PROJECTOR,
    &OPENAPI,
];
