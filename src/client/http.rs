//! Requests and responses: addresses, errors, retries.

use super::Error;
use super::error::Transient;
use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, LINK, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use std::net::IpAddr;
use std::time::{Duration, Instant};

pub const POSITION: &str = "ledger-position";
pub const PREFER: &str = "prefer";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes. The ledger's error responses have a few hundred.
const ERROR_BODY_MAX: usize = 64 << 10;

#[derive(Clone)]
pub struct Http {
    client: reqwest::Client,
    base: Url,
    read_timeout: Duration,
    pub retry_for: Duration,
}

/// Parses the address of a ledger.
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

impl Http {
    /// `agent` is the name of the program. `read_timeout` limits the time without any byte, not
    /// the whole time of a response.
    pub fn new(base: Url, agent: &str, read_timeout: Duration) -> Result<Http, Error> {
        let mut client = reqwest::Client::builder()
            .user_agent(format!("{agent}/{}", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(read_timeout)
            // A redirected POST would silently become a GET.
            .redirect(reqwest::redirect::Policy::none());
        if is_loopback(&base) {
            // To a proxy, loopback means the proxy's own machine.
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| {
            Error::Unexpected(format!("cannot set up HTTP: {}", innermost(&error)))
        })?;
        Ok(Http {
            client,
            base,
            read_timeout,
            retry_for: Duration::from_secs(60),
        })
    }

    /// The address for people and files: without a password.
    pub fn shown_url(&self) -> String {
        let mut url = self.base.clone();
        // Both only fail for addresses that have no host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.as_str().trim_end_matches('/').to_owned()
    }

    /// Percent-encodes each segment.
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

    pub fn operation(&self, operation_id: &str) -> Result<Url, Error> {
        if matches!(operation_id, "" | "." | "..") {
            // No path can contain them as a name.
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

    /// Returns the response if its status is a success or 304.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let response = request.send().await.map_err(|error| self.unsent(&error))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        Err(self.refusal(response).await)
    }

    /// Sends a JSON array of events. Returns their position and the response's body.
    pub async fn post_events(&self, events: Bytes) -> Result<(String, Vec<u8>), Error> {
        let request = self.post(self.url(&["v1", "events"], &[]));
        let request = request.header(CONTENT_TYPE, "application/cloudevents-batch+json");
        let response = self.send(request.body(events)).await?;
        let position = response.headers().get(POSITION);
        let position = position.and_then(|value| value.to_str().ok());
        let position = position.map(str::to_owned).ok_or_else(|| {
            let url = self.shown_url();
            Error::Unexpected(format!("{url} is not a ledger: no {POSITION}"))
        })?;
        Ok((position, self.body(response).await?))
    }

    /// The next piece of the body.
    pub async fn piece(&self, response: &mut Response) -> Result<Option<Bytes>, Error> {
        response.chunk().await.map_err(|error| {
            self.broken_off(match error.is_timeout() {
                true => self.silence(),
                false => innermost(&error),
            })
        })
    }

    /// The whole body.
    pub async fn body(&self, mut response: Response) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece(&mut response).await? {
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    pub fn broken_off(&self, why: impl Into<String>) -> Error {
        Error::BrokenOff {
            url: self.shown_url(),
            why: why.into(),
        }
    }

    fn unsent(&self, error: &reqwest::Error) -> Error {
        let (url, why) = (self.shown_url(), innermost(error));
        match (error.is_timeout(), error.is_connect()) {
            (true, true) => Error::Unreachable {
                url,
                why: format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()),
            },
            (false, true) => Error::Unreachable { url, why },
            // A retry would not change it.
            _ if error.is_builder() => Error::Address(format!("{url}: {why}")),
            (is_timeout, false) => Error::Unavailable {
                why: match is_timeout {
                    true => format!("{url} does not respond: {}", self.silence()),
                    false => format!("no response of {url}: {why}"),
                },
                retry_after: None,
            },
        }
    }

    fn silence(&self) -> String {
        format!("nothing came for {} s", self.read_timeout.as_secs())
    }

    async fn refusal(&self, mut response: Response) -> Error {
        let status = response.status();
        // Only the form in seconds: the ledger sends no dates.
        let retry_after = response.headers().get(RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let mut body = Vec::new();
        // If the body breaks off, the status and the received part decide.
        while let Ok(Some(piece)) = response.chunk().await
            && body.len() <= ERROR_BODY_MAX
        {
            body.extend_from_slice(&piece);
        }
        let error = serde_json::from_slice(&body).ok();
        let retry_after = retry_after.map(Duration::from_secs);
        error_of(&self.shown_url(), status, error, retry_after)
    }

    /// Retries for `retry_for` after the first error.
    pub async fn retrying<T, F: Future<Output = Result<T, Error>>>(
        &self,
        attempt: impl FnMut() -> F,
    ) -> Result<T, Error> {
        retrying(self.retry_for, attempt).await
    }
}

/// Retries transient errors for `retry_for` after the first one. The time of the attempts counts
/// as well as the pauses.
pub async fn retrying<T, E: Transient, F: Future<Output = Result<T, E>>>(
    retry_for: Duration,
    attempt: impl FnMut() -> F,
) -> Result<T, E> {
    let pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .with_total_delay(Some(retry_for))
        .without_max_times()
        // Many clients of one ledger must not reconnect at the same moment.
        .with_jitter();
    let mut failed = None;
    let may_succeed = |error: &E| {
        let since: &mut Instant = failed.get_or_insert_with(Instant::now);
        error.retry_after().is_some() && since.elapsed() < retry_for
    };
    let at_least = |error: &E, pause: Option<Duration>| {
        let least = error.retry_after().unwrap_or_default().min(retry_for);
        pause.map(|pause| pause.max(least))
    };
    let retry = attempt.retry(pauses).when(may_succeed);
    retry.adjust(at_least).await
}

/// The body of every error response of a ledger.
#[derive(Deserialize)]
struct ErrorBody {
    error_code: String,
    error_message: String,
    data_consistency: String,
    /// Where `error_message` has to be one of the fixed texts.
    detail: Option<String>,
}

impl ErrorBody {
    fn text(&self) -> String {
        let mut message = self.error_message.clone();
        if let Some(detail) = &self.detail {
            message = format!("{message} {detail}");
        }
        let message = message.trim_end_matches('.');
        // `rolled back` is left out: an error changes nothing.
        let consistency = match self.data_consistency.as_str() {
            "rolled back" => "",
            "unknown" => ", part of it may be stored",
            "updated" => ", the change stands",
            _ => ", part of it is stored",
        };
        format!("{message} (code {}{consistency})", self.error_code)
    }
}

/// The ledger's text for a path that it does not have at all.
const NO_SUCH_ROUTE: &str = "no such route";

fn error_of(
    url: &str,
    status: StatusCode,
    body: Option<ErrorBody>,
    retry_after: Option<Duration>,
) -> Error {
    let unavailable = |why| Error::Unavailable { why, retry_after };
    let Some(body) = body else {
        let why = format!("{url} responds with {status} and no reason");
        return match status.as_u16() {
            // A proxy in front of a ledger that restarts responds with these, too.
            408 | 429 | 502..=504 => unavailable(why),
            // A proxy may have its own limit.
            413 => Error::TooLarge(why),
            401 | 403 | 407 => Error::Refused {
                code: String::new(),
                why,
            },
            _ => Error::Unexpected(format!("{why}: is it a ledger?")),
        };
    };
    let why = body.text();
    match status.as_u16() {
        404 if why.contains(NO_SUCH_ROUTE) => Error::Unexpected(format!(
            "{url} is not the address of a ledger, which is like http://127.0.0.1:8470: {why}"
        )),
        404 => Error::NotFound(why),
        408 | 429 | 502..=504 => unavailable(format!("the ledger is not available: {why}")),
        // The two resources of the fabric-controller interface have 500 for it, with this code.
        500 if body.error_code == "000001" => {
            unavailable(format!("the ledger is not available: {why}"))
        }
        410 => Error::Gone(why),
        413 => Error::TooLarge(why),
        400..=499 => Error::Refused {
            code: body.error_code,
            why,
        },
        _ => Error::Unexpected(format!("the ledger responds with {status}: {why}")),
    }
}

/// The next page of a list: the requested address with the query of the response's `Link`.
pub fn next_page(requested: &Url, response: &Response) -> Option<Url> {
    let links = response.headers().get_all(LINK).iter();
    let mut links = links.filter_map(|link| link.to_str().ok());
    let next = links.find(|link| link.contains("rel=\"next\"") || link.contains("rel=next"))?;
    let (target, _) = next.strip_prefix('<')?.split_once('>')?;
    let (_, query) = target.split_once('?')?;
    let mut url = requested.clone();
    url.set_query(Some(query));
    Some(url)
}

/// Only the innermost error of an HTTP client names the cause.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(url: &str) -> Http {
        Http::new(base_url(url).unwrap(), "test", Duration::from_secs(1)).unwrap()
    }

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

    #[test]
    fn paths_follow_the_base_and_are_encoded() {
        for (base, expected) in [
            ("http://h", "http://h/v1/operations/a%2Fb%3F%23%25"),
            ("http://h/", "http://h/v1/operations/a%2Fb%3F%23%25"),
            ("http://h/x/", "http://h/x/v1/operations/a%2Fb%3F%23%25"),
        ] {
            let url = http(base).operation("a/b?#%").unwrap();
            assert_eq!(url.as_str(), expected);
        }
    }

    #[test]
    fn passwords_in_an_address_are_not_shown() {
        assert_eq!(http("http://me:secret@h:1/x/").shown_url(), "http://h:1/x");
    }

    #[test]
    fn status_and_code_decide_the_error() {
        fn kind(error: &Error) -> &'static str {
            match error {
                Error::NotFound(_) => "not found",
                Error::Refused { .. } => "refused",
                Error::TooLarge(_) => "too large",
                Error::Gone(_) => "gone",
                Error::Unavailable { .. } => "unavailable",
                _ => "unexpected",
            }
        }
        let body = |code: &str, detail: Option<&str>| ErrorBody {
            error_code: code.into(),
            error_message: "Text.".into(),
            data_consistency: "rolled back".into(),
            detail: detail.map(str::to_owned),
        };
        let of = |status, body| {
            let status = StatusCode::from_u16(status).unwrap();
            error_of("http://h/v1", status, body, None)
        };
        for (status, code, expected) in [
            (400, "010002", "refused"),
            (401, "010002", "refused"),
            (404, "030001", "not found"),
            (409, "030002", "refused"),
            (410, "010003", "gone"),
            (413, "010003", "too large"),
            (429, "000001", "unavailable"),
            (500, "000001", "unavailable"),
            (500, "020002", "unexpected"),
            (503, "000001", "unavailable"),
            (504, "000001", "unavailable"),
        ] {
            let error = of(status, Some(body(code, None)));
            assert_eq!(kind(&error), expected, "{status} {code}");
            assert!(error.to_string().contains(&format!("Text (code {code})")));
        }
        let error = of(404, Some(body("030001", Some("no such route."))));
        assert_eq!(kind(&error), "unexpected");
        assert!(error.to_string().starts_with("http://h/v1 is not"));
        for (status, expected) in [
            (404, "unexpected"),
            (200, "unexpected"),
            (301, "unexpected"),
            (403, "refused"),
            (413, "too large"),
            (502, "unavailable"),
        ] {
            assert_eq!(kind(&of(status, None)), expected, "{status}");
        }
    }

    #[test]
    fn retries_end_in_time_however_long_an_attempt_takes() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        let mut attempts = 0;
        let attempt = || {
            attempts += 1;
            async {
                // An attempt without a response.
                tokio::time::sleep(Duration::from_millis(800)).await;
                Err::<(), _>(Error::Unavailable {
                    why: "no response".into(),
                    retry_after: None,
                })
            }
        };
        let outcome = retrying(Duration::from_millis(700), attempt);
        assert!(runtime.unwrap().block_on(outcome).is_err());
        assert_eq!(attempts, 2, "the second one ends after the time");
    }
}
