//! The API reference as OpenAPI 3.0, the version that client generators support best. It is
//! built from the table of routes (`routes`), descriptions of parameters (`parameters.json`),
//! plain schemas (`schemas`) and the sample operations of `demo/`. The table takes the names of
//! query parameters from the handlers, and a test compares its routes with the router's.

mod examples;
mod routes;
mod schemas;

use super::error::Refusal;
use super::stream;
use axum::response::Response;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

static DOCUMENT: LazyLock<Vec<u8>> =
    LazyLock::new(|| examples::put_into(document().to_string()).into_bytes());

pub async fn get() -> Result<Response, Refusal> {
    Ok(stream::json(DOCUMENT.as_slice()))
}

const ABOUT: &str = "An event-sourced operation ledger: lifecycle events in, one exact document \
    for each operation out. Every response of 400 and above has an `Error` as its body. An unknown \
    query parameter is an error (400). `Ledger-Position` names a state of the ledger. A response \
    has the position that it was read at. A request that sends it back gets a state that is at \
    least as new.";

fn document() -> Value {
    let mut paths = Map::new();
    for route in routes::all() {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method] = route.reference;
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
