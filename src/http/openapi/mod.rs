//! The API reference as OpenAPI 3.0, the version that client generators support best. It is
//! built from the table of routes (`routes`), plain schemas (`schemas`) and the sample
//! operations of `demo/`. The table takes the names of query parameters from the handlers,
//! and a test compares its routes with the router's.

mod examples;
mod parameters;
mod routes;
mod schemas;

use super::error::Refusal;
use super::stream;
use axum::response::Response;
use parameters::parameter;
use routes::{MediaContent, Route, RouteResponse};
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

static DOCUMENT: LazyLock<Vec<u8>> =
    LazyLock::new(|| with_examples(document().to_string()).into_bytes());

pub async fn get() -> Result<Response, Refusal> {
    Ok(stream::json(DOCUMENT.as_slice()))
}

/// A placeholder for an example until the document is text: a JSON tree would sort its members.
fn placeholder(schema: &str) -> String {
    format!("example of {schema}")
}

fn with_examples(mut document: String) -> String {
    let contents = routes::ALL.iter().flat_map(|route| {
        let answers = route.answers.iter().flat_map(|answer| answer.content);
        answers.chain(route.body.into_iter().flatten())
    });
    for content in contents {
        if let Some(example) = examples::of(content.schema) {
            let placeholder = Value::from(placeholder(content.schema)).to_string();
            document = document.replace(&placeholder, &example);
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
        "openapi": "3.0.3",
        "info": {
            "title": "opledger",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [],
        "tags": [
            {"name": "operations", "description": "One document for each operation, and the lists of them."},
            {"name": "events", "description": "What workers publish."},
            {"name": "audit", "description": "What was received, unchanged."},
            {"name": "notifications", "description": "Webhook deliveries: receivers are notified when operations end."},
            {"name": "operators", "description": "Health, metrics and version."},
        ],
        "paths": paths,
        "components": {"schemas": schemas::components()},
    })
}

const ABOUT: &str = "An event-sourced operation ledger: lifecycle events in, one exact document \
    for each operation out. Every response of 400 and above has an `Error` as its body. An unknown \
    query parameter is an error (400). `Ledger-Position` names a state of the ledger. A response \
    has the position that it was read at. A request that sends it back gets a state that is at \
    least as new.";

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = path_names(route.path).map(path_parameter).collect();
    let query = route.query.iter().copied().flatten();
    parameters.extend(query.map(|name| parameter(name, "query")));
    let headers = route.headers.iter();
    parameters.extend(headers.map(|name| parameter(name, "header")));
    let mut answers = Map::new();
    for (status, about) in ALWAYS.iter().chain(route.refusals) {
        answers.insert(status.to_string(), refusal(*status, about));
    }
    for answer in route.answers {
        answers.insert(answer.status.to_string(), response(answer));
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
        "schema": schemas::reference("OperationId"),
        "example": examples::OPERATION,
    })
}

fn response(answer: &RouteResponse) -> Value {
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

fn media(content: &MediaContent) -> (String, Value) {
    let mut media = json!({"schema": schemas::reference(content.schema)});
    if examples::of(content.schema).is_some() {
        media["example"] = json!(placeholder(content.schema));
    }
    (content.media.to_owned(), media)
}

/// Error statuses that any request may get.
const ALWAYS: &[(u16, &str)] = &[
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

fn refusal(status: u16, about: &str) -> Value {
    let mut headers = json!({"x-request-id": header("x-request-id")});
    if matches!(status, 429 | 503 | 504) {
        headers["retry-after"] = header("retry-after");
    }
    if status == 415 {
        for name in ["accept", "accept-encoding"] {
            headers[name] = header(name);
        }
    }
    json!({
        "description": about,
        "headers": headers,
        "content": {"application/json": {"schema": schemas::reference("Error")}},
    })
}

fn header(name: &str) -> Value {
    let (about, schema) = match name {
        "ledger-position" => (
            "The state that this was read from. Absent while the store is new and the log was not reached yet.",
            json!({"type": "string", "pattern": "^[0-9a-z]{8};([0-9]+:[0-9]+(,[0-9]+:[0-9]+)*)?$"}),
        ),
        "etag" => (
            "Identifies this response, for `If-None-Match`.",
            json!({"type": "string", "pattern": "^(W/)?\"[0-9a-f]+\"$"}),
        ),
        "vary" => (
            "`Accept`: the response depends on it.",
            json!({"type": "string"}),
        ),
        "preference-applied" => (
            "`wait=S`, if the request asked to wait: the limit in seconds that was applied.",
            json!({"type": "string", "pattern": "^wait=[0-9]+$"}),
        ),
        "link" => (
            "`<…>; rel=\"next\"` while there is a further page.",
            json!({"type": "string", "pattern": "^<.*>; rel=\"next\"$"}),
        ),
        "accept" => (
            "The supported content types, if that of the body is not one of them.",
            json!({"type": "string"}),
        ),
        "accept-encoding" => (
            "The supported content encodings, if that of the body is not one of them.",
            json!({"type": "string"}),
        ),
        "retry-after" => ("Seconds.", json!({"type": "string", "pattern": "^[0-9]+$"})),
        _ => (
            "The request's own id, or a new one if it had none.",
            json!({"type": "string"}),
        ),
    };
    json!({"description": about, "schema": schema})
}
