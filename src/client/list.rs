//! The list of operations, page by page.

use super::http::{Http, next_page};
use super::{Document, Error, Status};
use futures_util::Stream;
use reqwest::Url;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::VecDeque;

/// Filters of a list or a stream. An empty field matches everything.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub statuses: Vec<Status>,
    /// RFC 3339.
    pub occurred_from: Option<String>,
    pub occurred_to: Option<String>,
    pub cluster_id: Option<String>,
    pub method: Option<String>,
    pub uri_prefix: Option<String>,
    pub rollback_result: Option<String>,
}

impl Filter {
    pub(crate) fn query(&self) -> Vec<(&'static str, String)> {
        let statuses = self.statuses.iter();
        let mut query: Vec<_> = statuses
            .map(|status| ("status", status.as_str().to_owned()))
            .collect();
        for (name, value) in [
            ("occurred_from", &self.occurred_from),
            ("occurred_to", &self.occurred_to),
            ("cluster_id", &self.cluster_id),
            ("method", &self.method),
            ("uri_prefix", &self.uri_prefix),
            ("rollback_result", &self.rollback_result),
        ] {
            query.extend(value.clone().map(|value| (name, value)));
        }
        query
    }
}

/// Documents without bodies, newest first. All pages are read at one read point.
pub struct List {
    http: Http,
    next: Option<Url>,
    page: VecDeque<Document>,
}

#[derive(Deserialize)]
struct ListPage<'a> {
    #[serde(borrow)]
    operations: Vec<&'a RawValue>,
}

impl List {
    pub(super) fn new(http: Http, filter: Filter) -> List {
        let mut query = filter.query();
        query.push(("format", "detail-list".to_owned()));
        query.push(("limit", "500".to_owned()));
        let next = Some(http.url(&["v1", "operations"], &query));
        List {
            http,
            next,
            page: VecDeque::new(),
        }
    }

    /// `None` at the end. After an error, the next call requests the same page again; after
    /// [`Error::Gone`] the read point has expired: start a new list.
    pub async fn next(&mut self) -> Result<Option<Document>, Error> {
        while self.page.is_empty() {
            let Some(url) = &self.next else {
                return Ok(None);
            };
            let request = || async {
                let response = self.http.send(self.http.get(url.clone())).await?;
                let next = next_page(url, &response);
                Ok((next, self.http.body(response).await?))
            };
            let (next, body) = self.http.retrying(request).await?;
            let what = |error| Error::Unexpected(format!("not a list: {error}"));
            let page: ListPage = serde_json::from_slice(&body).map_err(what)?;
            let documents = page.operations.iter();
            let documents = documents.map(|raw| Document::read(raw.get().as_bytes()));
            self.page = documents.collect::<Result<_, _>>()?;
            self.next = next;
        }
        Ok(self.page.pop_front())
    }

    pub fn into_stream(self) -> impl Stream<Item = Result<Document, Error>> {
        futures_util::stream::try_unfold(self, |mut list| async {
            Ok(list.next().await?.map(|document| (document, list)))
        })
    }
}
