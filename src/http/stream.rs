//! Responses that are written while the store is read: a blocking thread hands pieces to the
//! connection through a short channel. If a client stops reading, the socket's send timeout
//! closes the connection, which ends the thread as well.

use super::error::Refusal;
use super::pace::Turn;
use super::{App, Reads};
use crate::store;
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Pieces between the reading thread and the socket: enough to keep both busy, few enough to limit
/// memory.
const PIECES: usize = 4;
/// Maximum bytes of a piece.
const PIECE: usize = 128 << 10;

type BodyPiece = Result<Bytes, store::Error>;

/// Runs `produce` on a blocking thread and sends what it emits. An error before the first piece
/// becomes an error response; a later one closes the connection, so that a part is never
/// mistaken for the whole.
pub async fn answer<F>(app: &Arc<App>, produce: F) -> Result<Response, Refusal>
where
    F: FnOnce(&App, &mut crate::query::Emit) -> store::Result<()> + Send + 'static,
{
    let permit = app.streams.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Refusal::Busy("too many lists are being streamed."))?;
    if app.reads == Reads::AtOnce {
        let mut whole = Vec::new();
        produce(app, &mut |piece: &[u8]| {
            whole.extend_from_slice(piece);
            ControlFlow::Continue(())
        })?;
        return Ok(json(whole));
    }
    let (pieces, mut received) = mpsc::channel::<BodyPiece>(PIECES);
    let app = app.clone();
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let mut emit = |piece: &[u8]| {
            // One large event among small ones must not make the pieces large.
            for piece in piece.chunks(PIECE) {
                if pieces
                    .blocking_send(Ok(Bytes::copy_from_slice(piece)))
                    .is_err()
                {
                    // The client has disconnected.
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        };
        if let Err(error) = produce(&app, &mut emit) {
            // A client that has disconnected needs no error.
            let _ = pieces.blocking_send(Err(error));
        }
    });
    let first = received.recv().await.ok_or(Refusal::Panicked)?;
    let first = first?;
    let rest = futures_util::stream::unfold(received, |mut received| async {
        let piece = received.recv().await?;
        if let Err(error) = &piece {
            tracing::error!(%error, "closing a response after an error");
        }
        Some((piece, received))
    });
    let first = futures_util::stream::iter([Ok(first)]);
    let body = Body::from_stream(futures_util::StreamExt::chain(first, rest));
    Ok(json(body))
}

/// Runs a read that may wait for the disk on a separate thread.
pub async fn blocking<T: Send + 'static>(
    app: &Arc<App>,
    read: impl FnOnce(&App) -> store::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    apart(app, read).await?.map_err(Refusal::Store)
}

/// The same for a read that may itself return a refusal.
pub async fn apart<T: Send + 'static>(
    app: &Arc<App>,
    read: impl FnOnce(&App) -> T + Send + 'static,
) -> Result<T, Refusal> {
    if app.reads == Reads::AtOnce {
        return Ok(read(app));
    }
    let (done, result) = oneshot::channel();
    let app = app.clone();
    tokio::task::spawn_blocking(move || {
        // The client may have disconnected.
        let _ = done.send(read(&app));
    });
    result.await.map_err(|_| Refusal::Panicked)
}

/// The same, counted as work of a turn.
pub async fn counted<T: Send + 'static>(
    app: &Arc<App>,
    turn: &Turn<'_>,
    read: impl FnOnce(&App) -> store::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    let work = turn.work();
    blocking(app, move |app| work.count(|| read(app))).await
}

pub fn json(body: impl Into<Body>) -> Response {
    ([(CONTENT_TYPE, "application/json")], body.into()).into_response()
}
