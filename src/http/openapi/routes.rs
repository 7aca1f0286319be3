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

const GONE: (u16, &str) = (
    410,
    "A position of another log, or a cursor that is no longer kept.",
);
const BUSY: (u16, &str) = (429, "Too much at once.");
const NOT_NOW: (u16, &str) = (
    503,
    "The ledger is stopping, or its store is being reopened.",
);
const NOT_REACHED: (u16, &str) = (504, "The position was not reached in time.");
const NOTHING: (u16, &str) = (404, "There is none.");

static GET_OPERATION: Route = Route {
    method: "get",
    path: "/v1/operations/{operation_id}",
    id: "getOperation",
    tag: "operations",
    summary: "One operation",
    about: "The document of the operation. 404 until its creation has arrived; with \
        `Prefer: wait=S` it is waited for. With `If-None-Match` as well, a change is waited for. \
        With `Accept: text/event-stream` its states follow each other, as server-sent events \
        (`document`, `removed`, `reset`), until it has ended; `Last-Event-ID` goes on where a \
        stream broke off.",
    query: &[operations::ONE],
    headers: &["Ledger-Position", "Prefer", "If-None-Match"],
    body: None,
    answers: &[
        Answer {
            status: 200,
            about: "The document.",
            headers: &[POSITION, "etag"],
            content: &[
                content(JSON, "operation-document"),
                content("text/event-stream", "text"),
            ],
        },
        Answer {
            status: 304,
            about: "It is what is known.",
            headers: &[POSITION, "etag"],
            content: &[],
        },
    ],
    refusals: &[NOTHING, GONE, BUSY, NOT_NOW, NOT_REACHED],
};

static LIST_OPERATIONS: Route = Route {
    method: "get",
    path: "/v1/operations",
    id: "listOperations",
    tag: "operations",
    summary: "The operations",
    about: "Every operation that has a document, the newest first. With \
        `Accept: text/event-stream` the states of all of them, as server-sent events \
        (`document`, `left`, `removed`, `reset`); `Last-Event-ID` goes on where a stream broke \
        off, and begins behind the `Ledger-Position` of a list.",
    query: &[&["format"], listing::EXTENSIONS, filters::FILTERS],
    headers: &["Ledger-Position", "Prefer"],
    body: None,
    answers: &[Answer {
        status: 200,
        about: "Identifiers, or documents without their bodies.",
        headers: &[POSITION, "link"],
        content: &[
            content(JSON, "operation-list"),
            content("text/event-stream", "text"),
        ],
    }],
    refusals: &[GONE, BUSY, NOT_REACHED],
};

static HISTORY: Route = Route {
    method: "get",
    path: "/v1/operations/{operation_id}/events",
    id: "getHistory",
    tag: "audit",
    summary: "The history of an operation",
    about: "Every event as it was received, in the order that decides: time, source, id. There \
        is one for an operation whose creation has not arrived, too.",
    query: &[audit::PAGED],
    headers: &["Ledger-Position", "Prefer"],
    body: None,
    answers: &[Answer {
        status: 200,
        about: "The history, or a page of it.",
        headers: &[POSITION, "link"],
        content: &[content(JSON, "history")],
    }],
    refusals: &[NOTHING, GONE, BUSY, NOT_NOW, NOT_REACHED],
};

static PUBLISH: Route = Route {
    method: "post",
    path: "/v1/events",
    id: "publishEvents",
    tag: "events",
    summary: "Publish events",
    about: "One CloudEvent, or a batch; in CloudEvents' binary mode as well (content type \
        application/json, attributes in `ce-` headers). All of a request is checked before any \
        of it is stored. Sending the same again is harmless.",
    query: &[],
    headers: &[],
    body: Some(&[
        content("application/cloudevents+json", "event"),
        content("application/cloudevents-batch+json", "events"),
    ]),
    answers: &[Answer {
        status: 202,
        about: "All of them are durable.",
        headers: &[POSITION],
        content: &[content(JSON, "accepted")],
    }],
    refusals: &[
        (408, "The body did not arrive in time."),
        (413, "The body or an event is too large."),
        (415, "The content type is none that events come in."),
        BUSY,
        (
            503,
            "The log takes nothing, or did not confirm: part may be stored.",
        ),
        (504, "The log did not answer in time."),
    ],
};

static DEAD_LETTERS: Route = Route {
    method: "get",
    path: "/v1/dead-letters",
    id: "listDeadLetters",
    tag: "audit",
    summary: "Records that are no events",
    about: "Whole, with the reason, by position.",
    query: &[audit::PAGED],
    headers: &["Ledger-Position", "Prefer"],
    body: None,
    answers: &[Answer {
        status: 200,
        about: "All of them, or a page.",
        headers: &[POSITION, "link"],
        content: &[content(JSON, "dead-letters")],
    }],
    refusals: &[GONE, BUSY, NOT_NOW, NOT_REACHED],
};

static NOTIFICATIONS: Route = Route {
    method: "get",
    path: "/v1/notifications",
    id: "listNotifications",
    tag: "notifications",
    summary: "Who is told how operations ended",
    about: "Those that are due first, then those that were delivered. A page may be short, even \
        empty, with a next link.",
    query: &[notifications::LIST],
    headers: &["Ledger-Position", "Prefer"],
    body: None,
    answers: &[Answer {
        status: 200,
        about: "All of them, or a page.",
        headers: &[POSITION, "link"],
        content: &[content(JSON, "notifications")],
    }],
    refusals: &[GONE, BUSY, NOT_NOW, NOT_REACHED],
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
        headers: &[],
        body: Some(REASONS),
        answers: NOTED,
        refusals,
    }
}

const REASONS: &[Content] = &[content(JSON, "reasons")];
const NOTED: &[Answer] = &[Answer {
    status: 202,
    about: "It is recorded.",
    headers: &[],
    content: &[content(JSON, "noted")],
}];
const ALL_OF_THEM: &[(u16, &str)] = &[TOO_LATE, TOO_LARGE, NO_JSON, BUSY, NONE_SENT, NO_ANSWER];
const ONE_OF_THEM: &[(u16, &str)] = &[
    NOTHING, TOO_LATE, TOO_LARGE, NO_JSON, BUSY, NONE_SENT, NO_ANSWER,
];
const TOO_LATE: (u16, &str) = (408, "The body did not arrive in time.");
const TOO_LARGE: (u16, &str) = (413, "The body is too large.");
const NO_JSON: (u16, &str) = (415, "The body must be application/json.");
const NONE_SENT: (u16, &str) = (
    503,
    "No notification is sent, or the control log takes nothing.",
);
const NO_ANSWER: (u16, &str) = (504, "The control log did not answer in time.");

static RETRY: Route = said(
    "/v1/notifications/{operation_id}/retry",
    "retryNotification",
    "Try again to tell of one operation",
    ONE_OF_THEM,
);

static RELEASE: Route = said(
    "/v1/notifications/{operation_id}/release",
    "releaseNotification",
    "Tell of one operation that is held",
    ONE_OF_THEM,
);

static RETRY_ALL: Route = said(
    "/v1/notifications/retry",
    "retryNotifications",
    "Try again all that were given up",
    ALL_OF_THEM,
);

static RELEASE_ALL: Route = said(
    "/v1/notifications/release",
    "releaseNotifications",
    "Tell of all that are held",
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
    "Is it alive",
    &[ok("It is.", &[content(JSON, "liveness")])],
);

static READYZ: Route = operators(
    "/readyz",
    "isReady",
    "Can it be relied on",
    &[
        ok("It can.", &[content(JSON, "readiness")]),
        Answer {
            status: 503,
            about: "It cannot, with every reason.",
            headers: &[],
            content: &[content(JSON, "readiness")],
        },
    ],
);

static METRICS: Route = operators(
    "/metrics",
    "getMetrics",
    "What is measured",
    &[ok(
        "In the text format of Prometheus.",
        &[content("text/plain", "text")],
    )],
);

static VERSION: Route = operators(
    "/version",
    "getVersion",
    "What it is",
    &[ok("Its versions.", &[content(JSON, "version")])],
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
            content: &[content(JSON, "projector")],
        }],
    )
};

static OPENAPI: Route = operators(
    "/openapi.json",
    "getOpenApi",
    "This document",
    &[ok("OpenAPI 3.1.", &[content(JSON, "object")])],
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
