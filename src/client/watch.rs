//! Streams of states: taken up where they broke off, for as long as somebody asks.

use super::http::Http;
use super::sse::SseSplitter;
use super::{Document, Error};
use futures_util::Stream;
use reqwest::header::ACCEPT;
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// How the operation stands now. States in between may have been skipped.
    Document(Box<Document>),
    /// This one no longer matches the filter.
    Left(String),
    /// There is no such operation any more.
    Removed(String),
    /// Too long away: not all that changed is remembered. List again; what comes next is
    /// behind this.
    Reset,
}

pub struct Watch {
    http: Http,
    url: Url,
    /// It ends with its operation.
    is_one: bool,
    position: Option<String>,
    open: Option<(Response, SseSplitter)>,
    has_ended: bool,
    /// Since when nothing has worked, and how often it was tried.
    failing: Option<(Instant, u32)>,
}

#[derive(Deserialize)]
struct Named {
    operation_id: String,
}

impl Watch {
    pub(super) fn one(http: Http, url: Url) -> Watch {
        Watch {
            http,
            url,
            is_one: true,
            position: None,
            open: None,
            has_ended: false,
            failing: None,
        }
    }

    pub(super) fn all(http: Http, url: Url) -> Watch {
        Watch {
            is_one: false,
            ..Watch::one(http, url)
        }
    }

    /// Begins behind this position: what has changed since comes once, as it is now.
    pub fn from_position(mut self, position: &str) -> Watch {
        self.position = Some(position.to_owned());
        self
    }

    /// Behind what was received so far. Kept by a program, it can go on there later.
    pub fn position(&self) -> Option<&str> {
        self.position.as_deref()
    }

    /// The next change; `None` when a single operation has ended. Can be dropped and
    /// called again without a loss.
    pub async fn next(&mut self) -> Result<Option<Change>, Error> {
        while !self.has_ended {
            if let Some((answer, splitter)) = &mut self.open {
                while let Some(block) = splitter.next() {
                    if let Some(id) = block.id {
                        self.position = Some(id);
                    }
                    self.failing = None;
                    let Some(data) = block.data else { continue };
                    let change = change(&block.kind, &data)?;
                    if let Some(change) = change {
                        self.has_ended = self.is_one && is_last(&change);
                        return Ok(Some(change));
                    }
                }
                match answer.chunk().await {
                    Ok(Some(piece)) => splitter.push(&piece),
                    // The end of a ledger that stops, or of a connection.
                    Ok(None) | Err(_) => self.open = None,
                }
                continue;
            }
            match self.connect().await {
                Ok(true) => {}
                Ok(false) => self.has_ended = true,
                Err(Error::Gone(_)) if self.position.is_some() => {
                    self.position = None;
                    return Ok(Some(Change::Reset));
                }
                Err(error) if error.is_transient() => self.pause(error).await?,
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    pub fn into_stream(self) -> impl Stream<Item = Result<Change, Error>> {
        futures_util::stream::try_unfold(self, |mut watch| async {
            Ok(watch.next().await?.map(|change| (change, watch)))
        })
    }

    /// False where nothing will come any more.
    async fn connect(&mut self) -> Result<bool, Error> {
        let mut request = self.http.get(self.url.clone());
        request = request.header(ACCEPT, "text/event-stream");
        if let Some(position) = &self.position {
            request = request.header("last-event-id", position);
        }
        let answer = self.http.send(request).await?;
        if answer.status() == StatusCode::NO_CONTENT {
            return Ok(false);
        }
        self.open = Some((answer, SseSplitter::default()));
        Ok(true)
    }

    async fn pause(&mut self, error: Error) -> Result<(), Error> {
        let (since, tries) = self.failing.unwrap_or((Instant::now(), 0));
        if since.elapsed() > self.http.retry_for {
            return Err(error);
        }
        self.failing = Some((since, tries + 1));
        let pause = Duration::from_millis(100 << tries.min(6));
        tokio::time::sleep(pause.mul_f64(0.75 + fraction() / 2.0)).await;
        Ok(())
    }
}

/// Somewhere between 0 and 1: many watchers of one ledger are not to come back at once.
fn fraction() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_u128() as u32) / f64::from(u32::MAX)
}

fn is_last(change: &Change) -> bool {
    match change {
        Change::Document(document) => document.status.has_ended(),
        Change::Removed(_) => true,
        Change::Left(_) | Change::Reset => false,
    }
}

/// Kinds that a later ledger may add are passed over.
fn change(kind: &str, data: &str) -> Result<Option<Change>, Error> {
    let named = || {
        let named: Result<Named, _> = serde_json::from_str(data);
        let what = |error| Error::Unexpected(format!("a {kind} without an operation: {error}"));
        named.map(|named| named.operation_id).map_err(what)
    };
    Ok(match kind {
        "document" => Some(Change::Document(Box::new(Document::read(data.as_bytes())?))),
        "left" => Some(Change::Left(named()?)),
        "removed" => Some(Change::Removed(named()?)),
        "reset" => Some(Change::Reset),
        _ => None,
    })
}
