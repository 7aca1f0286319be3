//! Requests and answers: addresses, the error response, trying again.

use super::Error;
use backon::{ExponentialBuilder, Retryable};
use reqwest::header::RETRY_AFTER;
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use std::net::IpAddr;
use std::time::{Duration, Instant};

pub const POSITION: &str = "ledger-position";
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct Http {
    client: reqwest::Client,
    pub base: Url,
    pub retry_for: Duration,
}

/// The address of a ledger.
pub fn base_url(text: &str) -> Result<Url, String> {
    let expected = "expected an address like http://127.0.0.1:8470";
    let url = Url::parse(text).map_err(|error| format!("{error}; {expected}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(expected.into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("{expected}, without query and fragment"));
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[derive(Deserialize)]
struct ErrorBody {
    error_code: String,
    error_message: String,
    /// Where the message is the fixed text of the code.
    detail: Option<String>,
}

impl Http {
    /// `agent` is the name of the program. `patience` bounds the silence, not the length, of an
    /// answer.
    pub fn new(base: Url, agent: &str, patience: Duration) -> Result<Http, Error> {
        let mut client = reqwest::Client::builder()
            .user_agent(format!("{agent}/{}", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(patience)
            // A redirected POST would silently become a GET.
            .redirect(reqwest::redirect::Policy::none());
        if is_loopback(&base) {
            // A proxy would look for the ledger on its own machine.
            client = client.no_proxy();
        }
        let client = client
            .build()
            .map_err(|error| Error::Unexpected(format!("cannot set up HTTP: {}", said(&error))))?;
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
    let retry_after = retry_after(&answer);
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

/// Only the form in seconds: the ledger sends no dates.
pub fn retry_after(answer: &Response) -> Option<Duration> {
    let seconds = answer.headers().get(RETRY_AFTER)?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_addresses_are_refused() {
        for bad in [
            "",
            "127.0.0.1:8470",
            "localhost:8470",
            "ftp://h",
            "http://h/?a=b",
        ] {
            assert!(base_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn loopback_is_recognised() {
        for (url, expected) in [
            ("http://127.0.0.2:1", true),
            ("http://[::1]:1", true),
            ("http://localhost", true),
            ("http://10.0.0.1", false),
            ("http://localhost.example", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }
}
