//! Publishes from many tasks at once. While a request is in flight, the events of other tasks
//! wait, and the next request sends them together: a single publish waits for nobody, and a
//! thousand share a few requests.

use super::http::Http;
use super::{Error, Event};
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

/// Events that may wait besides those in flight; beyond it `publish` waits.
const WAITING: usize = 4096;
const BATCH_EVENTS: usize = 500;
const BATCH_BYTES: usize = 1 << 20;

/// The acknowledgement of an event: it is durable at this position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Partition and offset.
    pub position: String,
    /// `Ledger-Position`, for reads that must include the event.
    pub token: String,
}

struct QueuedEvent {
    event: Vec<u8>,
    outcome: oneshot::Sender<Result<Receipt, Error>>,
}

/// Cheap to clone. Waiting events are sent even if all clones are dropped, while the runtime
/// runs.
#[derive(Clone)]
pub struct Publisher {
    waiting: mpsc::Sender<QueuedEvent>,
}

#[derive(Deserialize)]
struct AcceptedPositions {
    positions: Vec<String>,
}

impl Publisher {
    pub(super) fn start(http: Http) -> Publisher {
        let (waiting, mut received) = mpsc::channel::<QueuedEvent>(WAITING);
        tokio::spawn(async move {
            let mut batch = Vec::new();
            while received.recv_many(&mut batch, BATCH_EVENTS).await > 0 {
                while !batch.is_empty() {
                    let rest = batch.split_off(fitting(&batch));
                    send(&http, std::mem::replace(&mut batch, rest)).await;
                }
            }
        });
        Publisher { waiting }
    }

    /// Returns when the event is durable. After a transient error, or if the call was dropped,
    /// it may be durable: publishing the same event again is harmless.
    pub async fn publish(&self, event: Event) -> Result<Receipt, Error> {
        let (outcome, result) = oneshot::channel();
        let event = event.bytes();
        let gone = || Error::Unexpected("the publisher's runtime has ended".into());
        let waiting = QueuedEvent { event, outcome };
        self.waiting.send(waiting).await.map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }
}

/// How many of the first events fit into one request: at least one.
fn fitting(batch: &[QueuedEvent]) -> usize {
    let mut bytes = 0;
    let fits = |waiting: &&QueuedEvent| {
        bytes += waiting.event.len();
        bytes <= BATCH_BYTES
    };
    batch.iter().take_while(fits).count().max(1)
}

async fn send(http: &Http, batch: Vec<QueuedEvent>) {
    match post(http, &batch).await {
        // One of them is invalid and nothing was stored, so each is sent alone.
        Err(Error::Refused { .. } | Error::TooLarge(_)) if batch.len() > 1 => {
            for waiting in batch {
                Box::pin(send(http, vec![waiting])).await;
            }
        }
        outcome => {
            for (n, waiting) in batch.into_iter().enumerate() {
                let receipt = outcome.as_ref().map(|receipts| receipts[n].clone());
                // The caller may have been dropped.
                let _ = waiting.outcome.send(receipt.map_err(Error::clone));
            }
        }
    }
}

async fn post(http: &Http, batch: &[QueuedEvent]) -> Result<Vec<Receipt>, Error> {
    let mut body = vec![b'['];
    for (n, waiting) in batch.iter().enumerate() {
        if n > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&waiting.event);
    }
    body.push(b']');
    let body = Bytes::from(body);
    let attempt = || http.post_events(body.clone());
    let (token, response) = http.retrying(attempt).await?;
    let accepted: AcceptedPositions = serde_json::from_slice(&response)
        .map_err(|error| Error::Unexpected(format!("not the response to a publish: {error}")))?;
    if accepted.positions.len() != batch.len() {
        return Err(Error::Unexpected("not as many positions as events".into()));
    }
    let receipts = accepted.positions.into_iter().map(|position| Receipt {
        position,
        token: token.clone(),
    });
    Ok(receipts.collect())
}
