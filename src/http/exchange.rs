//! How many requests of a connection have begun and have ended. The service counts them for the
//! socket, because hyper gives neither of them the state of the connection.

use hyper::body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

#[derive(Default)]
pub struct Exchange {
    begun: AtomicU64,
    answered: AtomicU64,
}

impl Exchange {
    /// A request's head has been read. The request ends when the result is dropped.
    pub fn begin(self: &Arc<Exchange>) -> Answering {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Answering(self.clone())
    }

    /// Requests of this connection so far.
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether a response is not sent to its end yet.
    pub fn is_answering(&self) -> bool {
        self.begun() != self.answered.load(Ordering::Relaxed)
    }
}

pub struct Answering(Arc<Exchange>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// The body of a response, which ends when hyper has taken the last byte.
pub struct ResponseBody<B> {
    pub body: B,
    pub _answering: Answering,
}

impl<B: Body + Unpin> Body for ResponseBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
