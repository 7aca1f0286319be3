//! A client of the ledger, for programs in Rust. The command line is built on it, too.
//!
//! ```no_run
//! # async fn example() -> Result<(), opledger::client::Error> {
//! use opledger::client::{Client, Event};
//! use serde_json::json;
//!
//! let client = Client::new("http://127.0.0.1:8470")?;
//! let publisher = client.publisher();
//! let request = json!({"request": {"uri": "/v1/slices/A", "method": "PUT"}});
//! publisher.publish(Event::new("/workers/a", "slice-7", "operation.created", request)).await?;
//! let document = client.wait("slice-7", None).await?;
//! println!("{}", document.status.as_str());
//! # Ok(())
//! # }
//! ```
//!
//! Transient errors are retried for `retry_for`.

mod document;
mod error;
mod event;
pub(crate) mod http;
mod list;
mod publisher;
mod sse;
mod watch;

pub use crate::domain::Status;
pub use document::{Document, Request, Response, Rollbacks, TargetCluster};
pub use error::{Error, Transient};
pub use event::Event;
pub use list::{Filter, List};
pub use publisher::{Publisher, Receipt};
pub use watch::{Change, Watch};

use http::Http;
use reqwest::StatusCode;
use reqwest::header::{ETAG, HeaderValue, IF_NONE_MATCH};
use std::time::{Duration, Instant};

/// A client of one ledger. Cheap to clone: clones share their connections.
#[derive(Clone)]
pub struct Client {
    http: Http,
}

/// The longest wait that a request asks for. The ledger limits it by a setting.
const WAIT: Duration = Duration::from_secs(30);

impl Client {
    /// `address` is like `http://127.0.0.1:8470`.
    pub fn new(address: &str) -> Result<Client, Error> {
        let base = http::base_url(address).map_err(Error::Address)?;
        let http = Http::new(base, "opledger-client", Duration::from_secs(60))?;
        Ok(Client { http })
    }

    /// How long to retry transient errors. The default is a minute.
    pub fn retry_for(mut self, retry_for: Duration) -> Client {
        self.http.retry_for = retry_for;
        self
    }

    /// The document, if there is one.
    pub async fn get(&self, operation_id: &str) -> Result<Option<Document>, Error> {
        self.get_at(operation_id, None).await
    }

    /// The document in a state that includes at least `position`, which a publish returns.
    pub async fn get_at(
        &self,
        operation_id: &str,
        position: Option<&str>,
    ) -> Result<Option<Document>, Error> {
        let request = || async {
            let mut request = self.http.get(self.http.operation(operation_id)?);
            if let Some(position) = position {
                request = request.header(http::POSITION, position);
            }
            let response = self.http.send(request).await?;
            self.http.body(response).await
        };
        match self.http.retrying(request).await {
            Ok(body) => Document::read(&body).map(Some),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until the operation has ended, also if it does not exist yet. Without a limit it
    /// waits for ever.
    pub async fn wait(
        &self,
        operation_id: &str,
        limit: Option<Duration>,
    ) -> Result<Document, Error> {
        // A limit beyond the range of the clock counts as none.
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut known: Option<HeaderValue> = None;
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let wait = left.unwrap_or(WAIT).min(WAIT);
            let request = || async {
                let mut request = self.http.get(self.http.operation(operation_id)?);
                // Rounded up: with zero seconds it would send requests without a pause.
                let seconds = wait.as_millis().div_ceil(1000);
                request = request.header(http::PREFER, format!("wait={seconds}"));
                if let Some(known) = &known {
                    request = request.header(IF_NONE_MATCH, known);
                }
                let response = self.http.send(request).await?;
                let (status, etag) = (response.status(), response.headers().get(ETAG).cloned());
                Ok((status, etag, self.http.body(response).await?))
            };
            match self.http.retrying(request).await {
                Ok((StatusCode::NOT_MODIFIED, ..)) | Err(Error::NotFound(_)) => {}
                Ok((_, etag, body)) => {
                    let document = Document::read(&body)?;
                    if document.status.has_ended() {
                        return Ok(document);
                    }
                    known = etag;
                }
                Err(error) => return Err(error),
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(Error::TimedOut);
            }
        }
    }

    /// The operations that match. It requests a page when the one before is used up.
    pub fn list(&self, filter: Filter) -> List {
        List::new(self.http.clone(), filter)
    }

    /// The states of one operation until it has ended.
    pub fn watch(&self, operation_id: &str) -> Result<Watch, Error> {
        let url = self.http.operation(operation_id)?;
        Ok(Watch::new(self.http.clone(), url, true))
    }

    /// The states of all operations that match: first the current ones, then every change,
    /// without end.
    pub fn watch_all(&self, filter: &Filter) -> Watch {
        let url = self.http.url(&["v1", "operations"], &filter.query());
        Watch::new(self.http.clone(), url, false)
    }

    /// A publisher for many tasks, which sends waiting events together. Must be called within a
    /// runtime of tokio.
    pub fn publisher(&self) -> Publisher {
        Publisher::start(self.http.clone())
    }
}
