//! Streams of states that resume where a connection broke off.

use super::http::Http;
use super::sse::SseSplitter;
use super::{Document, Error};
use futures_util::Stream;
use reqwest::header::ACCEPT;
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;

#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The present state of the operation. States in between may have been skipped.
    Document(Box<Document>),
    /// This one no longer matches the filter.
    Left(String),
    /// There is no such operation any more.
    Removed(String),
    /// The ledger does not remember every change since the position. List again: the next items are
    /// changes after this position.
    Reset,
}

pub struct Watch {
    http: Http,
    url: Url,
    /// The stream ends with its operation.
    is_one: bool,
    position: Option<String>,
    open: Option<(Response, SseSplitter)>,
    has_ended: bool,
}

#[derive(Deserialize)]
struct Named {
    operation_id: String,
}

impl Watch {
    pub(super) fn new(http: Http, url: Url, is_one: bool) -> Watch {
        Watch {
            http,
            url,
            is_one,
            position: None,
            open: None,
            has_ended: false,
        }
    }

    /// Starts after this position: everything that has changed since then comes once, in its
    /// current state.
    pub fn from_position(mut self, position: &str) -> Watch {
        self.position = Some(position.to_owned());
        self
    }

    /// The position of the last change. A program that keeps it can continue there later.
    pub fn position(&self) -> Option<&str> {
        self.position.as_deref()
    }

    /// The next change; `None` when a single operation has ended. Can be dropped and
    /// called again without a loss.
    pub async fn next(&mut self) -> Result<Option<Change>, Error> {
        while !self.has_ended {
            if let Some((response, splitter)) = &mut self.open {
                while let Some(block) = splitter.next() {
                    if let Some(id) = block.id {
                        self.position = Some(id);
                    }
                    let Some(data) = block.data else { continue };
                    let change = change(&block.kind, &data)?;
                    if let Some(change) = change {
                        self.has_ended = self.is_one && is_last(&change);
                        return Ok(Some(change));
                    }
                }
                match response.chunk().await {
                    Ok(Some(piece)) => splitter.push(&piece),
                    // The ledger stops, or the connection broke off.
                    Ok(None) | Err(_) => self.open = None,
                }
                continue;
            }
            match self.http.retrying(|| self.connect()).await {
                Ok(response) if response.status() == StatusCode::NO_CONTENT => {
                    self.has_ended = true;
                }
                Ok(response) => self.open = Some((response, SseSplitter::default())),
                Err(Error::Gone(_)) if self.position.is_some() => {
                    self.position = None;
                    return Ok(Some(Change::Reset));
                }
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

    async fn connect(&self) -> Result<Response, Error> {
        let mut request = self.http.get(self.url.clone());
        request = request.header(ACCEPT, "text/event-stream");
        if let Some(position) = &self.position {
            request = request.header("last-event-id", position);
        }
        self.http.send(request).await
    }
}

fn is_last(change: &Change) -> bool {
    match change {
        Change::Document(document) => document.status.has_ended(),
        Change::Removed(_) => true,
        Change::Left(_) | Change::Reset => false,
    }
}

/// `None` for kinds that this client does not know.
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
