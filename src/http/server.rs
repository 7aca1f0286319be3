//! Accepts connections and serves them within limits: their number, the size of their headers,
//! the time they may take. Drains open requests when it stops.

use super::error::too_many_connections;
use super::exchange::Exchange;
use super::front::Front;
use super::socket::{ClientTimeouts, Socket, closing_response};
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

/// Bytes that the kernel buffers for a connection beyond those in flight.
const UNSENT: u32 = 64 << 10;

/// A silent client is probed after half a minute and closed after another half.
const PROBES: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(30))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);

/// Connections above the limit that get a response at the same time.
const TURNED_AWAY: usize = 16;

/// Serves until `stop` is ready, then lets requests finish within the configured grace period.
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
    // The socket watches how long a client may take, because hyper does not distinguish an idle
    // connection from a request that arrives slowly.
    let patience = Arc::new(ClientTimeouts::new(config));
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
                // Probably out of file descriptors; clients that leave free some.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Fails if the client has disconnected already.
        let Ok(reached) = stream.local_addr() else {
            continue;
        };
        let exchange = Arc::new(Exchange::default());
        let front = front.of_connection(reached.ip(), exchange.clone());
        let Ok(permit) = connections.clone().try_acquire_owned() else {
            // Their descriptors are not counted as connections, because they are few. Beyond
            // that number a connection is closed without a response.
            if let Ok(permit) = turned_away.clone().try_acquire_owned() {
                tokio::spawn(async move {
                    let _permit = permit;
                    turn_away(stream).await;
                });
            }
            continue;
        };
        // Responses are written whole; waiting to fill a packet only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        // The rest of a response waits here, where it is counted, and not in the kernel, which
        // would buffer megabytes for a client that does not read.
        let socket = SockRef::from(&stream);
        if let Err(error) = socket.set_tcp_notsent_lowat(UNSENT) {
            tracing::debug!(%error, "cannot limit the unsent bytes of a connection");
        }
        // Finds clients whose machine or network has failed.
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

/// Responds instead of letting the client wait.
async fn turn_away(mut stream: TcpStream) {
    let (status, body) = too_many_connections();
    // The client may have disconnected already.
    let _ = stream.write_all(&closing_response(status, &body)).await;
    let _ = stream.shutdown().await;
}
