//! The interface as OpenAPI 3.1, made from the table of routes (`routes`), the
//! schemas of `schemas/` and the stories of `demo/`. The table takes the names of query
//! parameters from the handlers, which refuse all others; a test holds its routes
//! against the router's.

mod examples;
mod parameters;
mod routes;
mod schemas;

use super::error::Refusal;
use super::stream;
use axum::response::Response;
use parameters::parameter;
use routes::{Answer, Content, Route};
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

static DOCUMENT: LazyLock<Vec<u8>> =
    LazyLock::new(|| with_examples(document().to_string()).into_bytes());

pub async fn get() -> Result<Response, Refusal> {
    Ok(stream::json(DOCUMENT.as_slice()))
}

/// Stands for an example until the document is text: a tree would sort its members.
fn place_of(schema: &str) -> String {
    format!("example of {schema}")
}

fn with_examples(mut document: String) -> String {
    let contents = routes::ALL.iter().flat_map(|route| {
        let answers = route.answers.iter().flat_map(|answer| answer.content);
        answers.chain(route.body.into_iter().flatten())
    });
    for content in contents {
        if let Some(example) = examples::of(content.schema) {
            let place = Value::from(place_of(content.schema)).to_string();
            document = document.replace(&place, &example);
        }
    }
    document
}

fn document() -> Value {
    let mut paths = Map::new();
    for route in routes::ALL {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "opledger",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "An event-sourced operation ledger: lifecycle events in, one exact document per operation out.",
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "operations", "description": "One document for each operation, and the lists of them."},
            {"name": "events", "description": "What workers publish."},
            {"name": "audit", "description": "What was received, as it came."},
            {"name": "notifications", "description": "Receivers that are told how operations ended."},
            {"name": "operators", "description": "Is it alive, can it be relied on, how does it fare."},
        ],
        "paths": paths,
        "components": {"schemas": schemas::components()},
    })
}

const ABOUT: &str = "Every answer of 400 and above has the error sheet, whatever its cause. An \
    unknown query parameter is refused (400). `Ledger-Position` names a state of the ledger: an \
    answer carries the one that it was read from, a request that sends it back is answered from \
    a state that holds at least as much.";

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = path_names(route.path).map(path_parameter).collect();
    let query = route.query.iter().copied().flatten();
    parameters.extend(query.map(|name| parameter(name, "query")));
    let headers = route.headers.iter();
    parameters.extend(headers.map(|name| parameter(name, "header")));
    let mut answers = Map::new();
    for answer in route.answers {
        answers.insert(answer.status.to_string(), response(answer));
    }
    for (status, about) in ALWAYS.iter().chain(route.refusals) {
        answers.insert(status.to_string(), refusal(*status, about));
    }
    let mut operation = json!({
        "operationId": route.id,
        "tags": [route.tag],
        "summary": route.summary,
        "description": route.about,
        "parameters": parameters,
        "responses": answers,
    });
    if let Some(content) = route.body {
        let content: Map<String, Value> = content.iter().map(media).collect();
        operation["requestBody"] = json!({"required": true, "content": content});
    }
    operation
}

fn path_names(path: &str) -> impl Iterator<Item = &str> {
    let parts = path.split('/');
    parts.filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn path_parameter(name: &str) -> Value {
    json!({
        "name": name,
        "in": "path",
        "required": true,
        "description": "The operation's identifier.",
        "schema": {"type": "string", "format": "operation-id", "minLength": 1, "maxLength": 256},
        "example": examples::OPERATION,
    })
}

fn response(answer: &Answer) -> Value {
    let mut headers = Map::new();
    for name in ["x-request-id"].iter().chain(answer.headers) {
        headers.insert((*name).to_owned(), header(name));
    }
    let mut response = json!({"description": answer.about, "headers": headers});
    if !answer.content.is_empty() {
        let content: Map<String, Value> = answer.content.iter().map(media).collect();
        response["content"] = json!(content);
    }
    response
}

fn media(content: &Content) -> (String, Value) {
    let mut media = json!({"schema": schemas::reference(content.schema)});
    if examples::of(content.schema).is_some() {
        media["example"] = json!(place_of(content.schema));
    }
    (content.media.to_owned(), media)
}

/// What any request may be refused with.
const ALWAYS: &[(u16, &str)] = &[
    (
        400,
        "Something of the request cannot be read, or breaks a rule.",
    ),
    (
        500,
        "A fault of the ledger's own, or its store cannot be read.",
    ),
];

fn refusal(status: u16, about: &str) -> Value {
    let mut headers = json!({"x-request-id": header("x-request-id")});
    if matches!(status, 429 | 503 | 504) {
        headers["retry-after"] = header("retry-after");
    }
    json!({
        "description": about,
        "headers": headers,
        "content": {"application/json": {"schema": schemas::reference("error")}},
    })
}

fn header(name: &str) -> Value {
    let (about, schema) = match name {
        "ledger-position" => (
            "The state that this was read from. Absent from a store that is new, of a log that was not reached yet.",
            json!({"type": "string", "pattern": "^[0-9a-z]{8};([0-9]+:[0-9]+(,[0-9]+:[0-9]+)*)?$"}),
        ),
        "etag" => (
            "The hash of the bytes.",
            json!({"type": "string", "pattern": "^\"[0-9a-f]{32}\"$"}),
        ),
        "link" => (
            "`<…>; rel=\"next\"` while there is a further page.",
            json!({"type": "string", "pattern": "^<.*>; rel=\"next\"$"}),
        ),
        "retry-after" => ("Seconds.", json!({"type": "string", "pattern": "^[0-9]+$"})),
        _ => (
            "The request's own, or one that was given to it.",
            json!({"type": "string"}),
        ),
    };
    json!({"description": about, "schema": schema})
}
