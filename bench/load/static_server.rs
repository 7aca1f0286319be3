//! The limit for `get`: axum, configured as in the ledger, serves one constant. This is
//! the least work for a document over HTTP with these libraries.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use std::path::Path;
use tokio::net::TcpListener;

/// Serves the file's bytes as any operation's document, until it is killed.
pub async fn serve(file: &Path) -> anyhow::Result<()> {
    let document = Bytes::from(std::fs::read(file)?);
    let router = Router::new()
        .route("/v1/operations/{operation_id}", get(constant))
        .with_state(document);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("a constant is served at http://{}", listener.local_addr()?);
    let listener = listener.tap_io(|stream| {
        // Nagle's algorithm only delays responses that are written in one piece.
        let _ = stream.set_nodelay(true);
    });
    Ok(axum::serve(listener, router).await?)
}

async fn constant(State(document): State<Bytes>) -> Response {
    ([(CONTENT_TYPE, "application/json")], Body::from(document)).into_response()
}
