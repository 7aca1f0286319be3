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
//! What may succeed a moment later is tried again, for as long as `retry_for`.

mod document;
mod error;
mod event;
pub(crate) mod http;
mod list;
mod publisher;
mod sse;
mod watch;

pub use document::{Document, Request, Response, Rollbacks, Status, TargetCluster};
pub use error::Error;
pub use event::Event;
pub use list::{Filter, List};
pub use publisher::{Publisher, Receipt};
pub use watch::{Change, Watch};

use http::Http;
use reqwest::StatusCode;
use reqwest::header::{ETAG, HeaderValue, IF_NONE_MATCH};
use std::time::{Duration, Instant};

/// Asks one ledger. Cheap to clone: clones share their connections.
#[derive(Clone)]
pub struct Client {
    http: Http,
}

/// The longest single wait that is asked for; the ledger's own bound is a setting.
const WAIT: Duration = Duration::from_secs(30);

impl Client {
    /// `address` as in `http://127.0.0.1:8470`.
    pub fn new(address: &str) -> Result<Client, Error> {
        let base = http::base_url(address).map_err(Error::Address)?;
        let http = Http::new(base, "opledger-client", Duration::from_secs(60))?;
        Ok(Client { http })
    }

    /// How long to try again what cannot be done at present; a minute, unless said here.
    pub fn retry_for(mut self, retry_for: Duration) -> Client {
        self.http.retry_for = retry_for;
        self
    }

    /// The document, if there is one.
    pub async fn get(&self, operation_id: &str) -> Result<Option<Document>, Error> {
        self.get_at(operation_id, None).await
    }

    /// The same from a state that holds at least `position`: what a publish was
    /// answered with.
    pub async fn get_at(
        &self,
        operation_id: &str,
        position: Option<&str>,
    ) -> Result<Option<Document>, Error> {
        let ask = || async {
            let mut request = self.http.get(self.http.operation(operation_id)?);
            if let Some(position) = position {
                request = request.header(http::POSITION, position);
            }
            let answer = self.http.send(request).await?;
            self.http.body(answer).await
        };
        match self.http.retrying(ask).await {
            Ok(body) => Document::read(&body).map(Some),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until the operation has ended, also for one that does not exist yet.
    /// Without a limit for as long as it takes.
    pub async fn wait(
        &self,
        operation_id: &str,
        limit: Option<Duration>,
    ) -> Result<Document, Error> {
        // One that no clock reaches is none.
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut known: Option<HeaderValue> = None;
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let wait = left.unwrap_or(WAIT).min(WAIT);
            let ask = || async {
                let mut request = self.http.get(self.http.operation(operation_id)?);
                // Rounded up: a wait of nothing would be asked again and again.
                let seconds = wait.as_millis().div_ceil(1000);
                request = request.header("prefer", format!("wait={seconds}"));
                if let Some(known) = &known {
                    request = request.header(IF_NONE_MATCH, known.clone());
                }
                self.http.send(request).await
            };
            match self.http.retrying(ask).await {
                Ok(answer) if answer.status() == StatusCode::NOT_MODIFIED => {}
                Ok(answer) => {
                    known = answer.headers().get(ETAG).cloned();
                    let body = self.http.body(answer).await;
                    match body {
                        Ok(body) => {
                            let document = Document::read(&body)?;
                            if document.status.has_ended() {
                                return Ok(document);
                            }
                        }
                        // Asked again as if it had not been answered.
                        Err(error) if error.is_transient() => known = None,
                        Err(error) => return Err(error),
                    }
                }
                Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(Error::TimedOut);
            }
        }
    }

    /// The operations that match, page by page as they are taken.
    pub fn list(&self, filter: Filter) -> List {
        List::new(self.http.clone(), filter)
    }

    /// The states of one operation until it has ended.
    pub fn watch(&self, operation_id: &str) -> Result<Watch, Error> {
        Ok(Watch::one(
            self.http.clone(),
            self.http.operation(operation_id)?,
        ))
    }

    /// The states of all operations that match: those that there are, then every
    /// change, without end.
    pub fn watch_all(&self, filter: &Filter) -> Watch {
        let url = self.http.url(&["v1", "operations"], &filter.query());
        Watch::all(self.http.clone(), url)
    }

    /// Takes events from many tasks and sends those that wait together. Must be
    /// called within a runtime of tokio.
    pub fn publisher(&self) -> Publisher {
        Publisher::start(self.http.clone())
    }
}
