//! Requests and answers: addresses, the error response, trying again.

use super::Error;
use backon::{ExponentialBuilder, Retryable};
use reqwest::header::RETRY_AFTER;
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use std::time::{Duration, Instant};

pub const POSITION: &str = "ledger-position";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct Http {
    client: reqwest::Client,
    base: Url,
    pub retry_for: Duration,
}

#[derive(Deserialize)]
struct ErrorBody {
    error_code: String,
    error_message: String,
    /// Where the message is the fixed text of the code.
    detail: Option<String>,
}

impl Http {
    /// `patience` bounds the silence, not the length, of an answer.
    pub fn new(address: &str, patience: Duration) -> Result<Http, Error> {
        let base = Url::parse(address).map_err(|error| Error::Address(error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err(Error::Address("expected http://host:port".into()));
        }
        let client = reqwest::Client::builder()
            .user_agent(concat!("opledger-client/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(patience)
            // A redirected POST would silently become a GET.
            .redirect(reqwest::redirect::Policy::none());
        let client = match base.host_str() {
            // A proxy would look for the ledger on its own machine.
            Some("localhost" | "127.0.0.1" | "[::1]") => client.no_proxy(),
            _ => client,
        };
        let client = client
            .build()
            .map_err(|error| Error::Unexpected(said(&error)))?;
        Ok(Http {
            client,
            base,
            retry_for: Duration::from_secs(60),
        })
    }

    /// Each segment is percent-encoded, whatever it holds.
    pub fn url(&self, segments: &[&str], query: &[(&str, String)]) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("an address with a host has a path")
            .pop_if_empty()
            .extend(segments);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// What a `Link` names, on this ledger.
    pub fn linked(&self, target: &str) -> Result<Url, Error> {
        let wrong = |_| Error::Unexpected("a Link that cannot be read".into());
        self.base.join(target).map_err(wrong)
    }

    pub fn operation(&self, operation_id: &str) -> Result<Url, Error> {
        if matches!(operation_id, "" | "." | "..") {
            // No path can name them: it would ask for something else.
            return Err(Error::NotFound("not a valid operation id".into()));
        }
        Ok(self.url(&["v1", "operations", operation_id], &[]))
    }

    pub fn get(&self, url: Url) -> RequestBuilder {
        self.client.get(url)
    }

    pub fn post(&self, url: Url) -> RequestBuilder {
        self.client.post(url)
    }

    /// The answer, if it is a success or 304.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let answer = request.send().await.map_err(|error| match error {
            error if error.is_connect() => Error::Unreachable(said(&error)),
            // It would be no other a moment later.
            error if error.is_builder() => Error::Unexpected(said(&error)),
            error => Error::Unavailable {
                why: format!("no answer: {}", said(&error)),
                retry_after: None,
            },
        })?;
        let status = answer.status();
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(answer);
        }
        Err(refusal(answer).await)
    }

    pub async fn body(&self, answer: Response) -> Result<Vec<u8>, Error> {
        let body = answer.bytes().await;
        let body = body.map_err(|error| Error::BrokenOff(said(&error)))?;
        Ok(body.to_vec())
    }

    /// Tries again while that can help, for so long after the first failure.
    pub async fn retrying<T, F: Future<Output = Result<T, Error>>>(
        &self,
        attempt: impl FnMut() -> F,
    ) -> Result<T, Error> {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(5))
            .with_total_delay(Some(self.retry_for))
            .without_max_times()
            .with_jitter();
        let mut failed = None;
        let can_help = |error: &Error| {
            let since: &mut Instant = failed.get_or_insert_with(Instant::now);
            error.is_transient() && since.elapsed() < self.retry_for
        };
        let wish = |error: &Error, pause: Option<Duration>| match error {
            Error::Unavailable {
                retry_after: Some(wish),
                ..
            } => pause.map(|pause| pause.max((*wish).min(self.retry_for))),
            _ => pause,
        };
        attempt.retry(pauses).when(can_help).adjust(wish).await
    }
}

async fn refusal(answer: Response) -> Error {
    let status = answer.status();
    let retry_after = answer.headers().get(RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
    let retry_after = retry_after.map(Duration::from_secs);
    let body = answer.bytes().await.unwrap_or_default();
    let Ok(error) = serde_json::from_slice::<ErrorBody>(&body) else {
        let why = format!("it answers {status} and does not say why");
        return match status.as_u16() {
            // What stands before a ledger that is being restarted says so, too.
            408 | 429 | 502..=504 => Error::Unavailable { why, retry_after },
            _ => Error::Unexpected(why),
        };
    };
    let why = match error.detail {
        Some(detail) => format!("{} {detail}", error.error_message),
        None => error.error_message,
    };
    match status.as_u16() {
        404 => Error::NotFound(why),
        410 => Error::Gone(why),
        408 | 429 | 502..=504 => Error::Unavailable { why, retry_after },
        // On the list "not now" is a 500, known by its code.
        500 if error.error_code == "000001" => Error::Unavailable { why, retry_after },
        400..=499 => Error::Refused {
            code: error.error_code,
            why,
        },
        _ => Error::Unexpected(format!("{status}: {why}")),
    }
}

/// The layers of an HTTP client each say that there was an error; only the innermost
/// says which.
pub fn said(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
