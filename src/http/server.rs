//! Accepts connections and serves them, within bounds: their number, the size of
//! their headers, the time they may take. Stops within a grace.

use super::error::too_many_connections;
use super::exchange::Exchange;
use super::front::Front;
use super::socket::{Patience, Socket, closing_answer};
use crate::config::Server;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use socket2::{SockRef, TcpKeepalive};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Bytes of a connection that the kernel takes beyond what is on its way to the client.
const UNSENT: u32 = 64 << 10;

/// A silent client is asked after half a minute, and gone another half later.
const PROBES: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(30))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);

/// Connections beyond the bound that are told so at once.
const TURNED_AWAY: usize = 16;

/// Serves until `stop` is ready, then lets requests finish for as long as the
/// configured grace.
pub async fn serve(
    listener: TcpListener,
    front: Front,
    config: &Server,
    stop: impl Future<Output = ()>,
) {
    let connections = Arc::new(Semaphore::new(config.max_connections));
    let turned_away = Arc::new(Semaphore::new(TURNED_AWAY));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    // How long a client may take is the socket's to watch: hyper does not tell the rest
    // between two requests from a request that is slow to come.
    let patience = Arc::new(Patience::new(config));
    http.header_read_timeout(None)
        .max_buf_size(config.max_headers as usize)
        .half_close(true);
    let mut stop = std::pin::pin!(stop);
    loop {
        // Cancelling an accept loses no connection.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: they come back as clients leave.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // It fails where the client has gone already.
        let Ok(reached) = stream.local_addr() else {
            continue;
        };
        let exchange = Arc::new(Exchange::default());
        let front = front.of_connection(reached.ip(), exchange.clone());
        let Ok(permit) = connections.clone().try_acquire_owned() else {
            // Their descriptors are not counted among those of the connections: there are
            // few of them, and whoever comes beyond is closed without a word.
            if let Ok(permit) = turned_away.clone().try_acquire_owned() {
                tokio::spawn(async move {
                    let _permit = permit;
                    turn_away(stream).await;
                });
            }
            continue;
        };
        // Answers are written whole; waiting to fill a packet only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        // What is left of an answer waits here, where it can still be another one, and not in
        // the kernel, which would hold megabytes for a client that does not read.
        let socket = SockRef::from(&stream);
        if let Err(error) = socket.set_tcp_notsent_lowat(UNSENT) {
            tracing::debug!(%error, "cannot limit the unsent bytes of a connection");
        }
        // A client whose machine or network is gone says nothing more.
        if let Err(error) = socket.set_tcp_keepalive(&PROBES) {
            tracing::debug!(%error, "cannot set TCP keepalive");
        }
        let socket = TokioIo::new(Socket::new(stream, exchange, patience.clone()));
        let connection = graceful.watch(http.serve_connection(socket, front));
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended with an error");
            }
        });
    }
    drop(listener);
    patience.stop();
    tokio::select! {
        () = graceful.shutdown() => {}
        () = tokio::time::sleep(config.shutdown_grace) => {
            tracing::warn!("closing connections whose requests still run");
        }
    }
}

/// Says so rather than let a client wait for nothing.
async fn turn_away(mut stream: TcpStream) {
    let (status, body) = too_many_connections();
    // A client that is gone already need not be told.
    let _ = stream.write_all(&closing_answer(status, &body)).await;
    let _ = stream.shutdown().await;
}
