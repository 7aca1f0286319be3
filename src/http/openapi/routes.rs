//! Every route with what it takes and answers. The names of its query parameters
//! are those that its handler reads them by.

use super::super::{audit, filters, listing, notifications, operations, pulse};

/// A way to ask the ledger for something.
pub struct Route {
    pub method: &'static str,
    pub path: &'static str,
    pub id: &'static str,
    pub tag: &'static str,
    pub summary: &'static str,
    pub about: &'static str,
    /// Names; `parameters` has the rest.
    pub query: &'static [&'static [&'static str]],
    pub headers: &'static [&'static str],
    pub body: Option<&'static [Content]>,
    pub answers: &'static [Answer],
    /// Statuses that carry the error sheet, beyond those of every route.
    pub refusals: &'static [(u16, &'static str)],
}

pub struct Answer {
    pub status: u16,
    pub about: &'static str,
    pub headers: &'static [&'static str],
    pub content: &'static [Content],
}

pub struct Content {
    pub media: &'static str,
    /// A name of `schemas`.
    pub schema: &'static str,
}

const fn content(media: &'static str, schema: &'static str) -> Content {
    Content { media, schema }
}

const JSON: &str = "application/json";
const POSITION: &str = "ledger-position";
const WAITED: &str = "preference-applied";

const GONE: (u16, &str) = (
    410,
    "A position of another log, or a cursor that is no longer kept.",
);
const BUSY: (u16, &str) = (429, "Too much at once.");
const NOT_REACHED: (u16, &str) = (504, "The position was not reached in time.");
const NOTHING: (u16, &str) = (404, "Not found.");

static GET_OPERATION: Route = Route {
    method: "get",
    path: "/v1/operations/{operation_id}",
    id: "getOperation",
    tag: "operations",
    summary: "Get an operation",
    about: "The document of the operation. 404 until its creation has arrived; with \
        `Prefer: wait=S` it is waited for. With `If-None-Match` as well, a change is waited for. \
        With `Accept: text/event-stream` its states follow each other, as server-sent events \
        (`document`, `waiting` while there is no document, `removed`, `reset`), until it has \
        ended; `Last-Event-ID` goes on where a stream broke off. A request that accepts both \
        alike gets the form that it names first.",
    query: &[operations::ONE],
    headers: &[
        "Ledger-Position",
        "Prefer",
        "If-None-Match",
        "Last-Event-ID",
    ],
    body: None,
    answers: &[
        Answer {
            status: 200,
            about: "The document, or the stream.",
            headers: &[POSITION, "etag", "vary", WAITED],
            content: &[
                content(JSON, "OperationDocument"),
                content("text/event-stream", "text"),
            ],
        },
        Answer {
            status: 204,
            about: "Of a stream with `Last-Event-ID`: the operation has ended, and the client has \
                its last state.",
            headers: &[POSITION, "vary", WAITED],
            content: &[],
        },
        Answer {
            status: 304,
            about: "Not modified.",
            headers: &[POSITION, "etag", "vary", WAITED],
            content: &[],
        },
    ],
    refusals: &[NO_DOCUMENT, GONE, BUSY, NOT_REACHED],
};

/// The body is the original interface's, which speaks of consistency there, too.
const NO_DOCUMENT: (u16, &str) = (
    404,
    "Not found: the operation has no document. `data_consistency` is `rolled back` as in \
     every refusal of a read: it says that the request changed nothing, not that anything was \
     undone.",
);

static LIST_OPERATIONS: Route = Route {
    method: "get",
    path: "/v1/operations",
    id: "listOperations",
    tag: "operations",
    summary: "List operations",
    about: "Every operation that has a document, the newest first. With `Prefer: wait=S` an \
        empty list waits for the first operation; with `If-None-Match` as well, a change is \
        waited for. With `Accept: text/event-stream` the states of all operations that match, as \
        server-sent events (`document`, `left`, `removed`, `reset`, and `position` where nothing \
        else says how far the stream is); `Last-Event-ID` goes on where a stream broke off, or \
        after the `Ledger-Position` of a list. A request that accepts both alike gets the form \
        that it names first. A stream takes neither `format` nor `order`, `limit` and `cursor`.",
    query: &[&["format"], listing::EXTENSIONS, filters::FILTERS],
    headers: &[
        "Ledger-Position",
        "Prefer",
        "If-None-Match",
        "Last-Event-ID",
    ],
    body: None,
    answers: &[
        Answer {
            status: 200,
            about: "Identifiers, or documents without their bodies; or the stream.",
            headers: &[POSITION, "link", "etag", "vary", WAITED],
            content: &[
                content(JSON, "OperationList"),
                content("text/event-stream", "text"),
            ],
        },
        Answer {
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
            "A fault of the ledger's own, or its store cannot be read; and what is 503 elsewhere, \
             as in the original interface: then the code is 000001.",
        ),
        (
            503,
            "Not now: of a stream; of a page, while clients have not read too many large \
             responses; or there are too many connections. A list says 500 otherwise.",
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
    about: "Every event as it was received, in the order that decides: time, source, id. There \
        is one for an operation whose creation has not arrived, too.",
    query: &[audit::PAGED],
    headers: &["Ledger-Position", "Prefer"],
    body: None,
    answers: &[Answer {
        status: 200,
        about: "The history, or a page of it.",
        headers: &[POSITION, "link", WAITED],
        content: &[content(JSON, "History")],
    }],
    refusals: &[NOTHING, GONE, BUSY, NOT_REACHED],
};

/// Media types may be written in any case. Written so, openapi-python-client leaves the batch
/// out and can publish: where one of several bodies is an array, its code raises a TypeError.
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
        `ce-type`, `ce-subject`, `ce-time` and `ce-specversion` are required then. All of a \
        request is checked before any of it is stored. Sending the same again is harmless.",
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
    answers: &[Answer {
        status: 202,
        about: "All of them are durable.",
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
            "The content type is none that events come in (`Accept` names those), or \
             `Content-Encoding` is neither `gzip` nor `zstd` (`Accept-Encoding` names those).",
        ),
        BUSY,
        (
            503,
            "The event log does not accept writes, or is not known to be the one that the store \
             belongs to; or it did not confirm: then `data_consistency` is `unknown`, and sending \
             the same again is harmless.",
        ),
        (504, "The event log did not answer in time."),
    ],
};

static DEAD_LETTERS: Route = Route {
    method: "get",
    path: "/v1/dead-letters",
    id: "listDeadLetters",
    tag: "audit",
    summary: "List dead letters",
    about: "Records of the log that are not events, whole, with the reason, by position.",
    query: &[audit::PAGED],
    headers: &["Ledger-Position", "Prefer"],
    body: None,
    answers: &[Answer {
        status: 200,
        about: "All of them, or a page.",
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
    about: "Those that are due first, then those that were delivered. A page may be short, even \
        empty, with a next link.",
    query: &[notifications::LIST],
    headers: &["Ledger-Position", "Prefer"],
    body: None,
    answers: &[Answer {
        status: 200,
        about: "All of them, or a page.",
        headers: &[POSITION, "link", WAITED],
        content: &[content(JSON, "Notifications")],
    }],
    refusals: &[GONE, BUSY, NOT_REACHED],
};

/// Something that an operator wants done about notifications.
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
        about: "Recorded in the control log, with who wants it and why, before it is answered.",
        query: &[],
        headers: &["Content-Encoding"],
        body: Some(REASONS),
        answers: NOTED,
        refusals,
    }
}

const REASONS: &[Content] = &[content(JSON, "Reasons")];
const NOTED: &[Answer] = &[Answer {
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
    "The body must be application/json, and `Content-Encoding` `gzip` or `zstd` if it is compressed.",
);
const NONE_SENT: (u16, &str) = (
    503,
    "No notifications are sent, or the control log does not accept writes.",
);
const NO_ANSWER: (u16, &str) = (504, "The control log did not answer in time.");

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

/// A resource without parameters, for operators.
const fn operators(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    answers: &'static [Answer],
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

const fn ok(about: &'static str, content: &'static [Content]) -> Answer {
    Answer {
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
        Answer {
            status: 503,
            about: "Not ready, with every reason. An `Error` if there are too many connections.",
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
    about: "What the web page shows of the projector: how far it is in each partition, the \
        operations by status, and a moment for every two seconds of the last ten minutes.",
    query: &[pulse::SINCE],
    ..operators(
        "/projector",
        "getProjector",
        "The projector",
        &[Answer {
            status: 200,
            about: "Its state.",
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
