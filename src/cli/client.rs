//! Talking to a running ledger over HTTP. Turns whatever can go wrong on the way
//! into a [`Failure`]; no command looks at a status code itself.

use crate::cli::failure::Failure;
use crate::cli::text::shorten;
use crate::client::http::{CONNECT_TIMEOUT, Http, POSITION, base_url, retry_after, said};
use crate::wire::position::Token;
use bytes::Bytes;
use reqwest::header::LINK;
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use std::time::Duration;

/// Where to find the ledger. Part of the arguments of every command that asks it.
#[derive(Debug, Clone, clap::Args)]
pub struct Connection {
    /// Address of the ledger
    // An address may hold a password, which --help must not show.
    #[arg(long, value_name = "URL", env = "OPLEDGER_URL", hide_env_values = true)]
    #[arg(default_value = "http://127.0.0.1:8470", value_parser = base_url)]
    url: Url,
}

impl Connection {
    /// The library's client, for what it does.
    pub fn client(&self) -> Result<crate::client::Client, Failure> {
        Ok(crate::client::Client::new(self.url.as_str())?)
    }
}

impl From<crate::client::Error> for Failure {
    fn from(error: crate::client::Error) -> Failure {
        use crate::client::Error as E;
        let why = error.to_string();
        match error {
            E::Address(_) => Failure::Usage(why),
            E::Unreachable(why) => Failure::Unreachable {
                url: "the ledger".into(),
                why,
            },
            E::Unavailable { retry_after, .. } => Failure::Unavailable { why, retry_after },
            E::BrokenOff(why) => Failure::BrokenOff {
                url: "the ledger".into(),
                why,
            },
            E::TimedOut => Failure::Unavailable {
                why,
                retry_after: None,
            },
            E::NotFound(_) => Failure::NotFound(why),
            E::Refused { .. } | E::Gone(_) => Failure::Refused(why),
            E::Unexpected(_) => Failure::Unexpected(why),
        }
    }
}

pub const PREFER: &str = "prefer";

/// An error body is a few hundred bytes; more than this is not one.
const ERROR_BODY_MAX: usize = 64 << 10;

pub struct LedgerClient {
    http: Http,
    patience: Duration,
}

impl LedgerClient {
    /// `patience` bounds the silence, not the length, of an answer.
    pub fn new(connection: &Connection, patience: Duration) -> Result<LedgerClient, Failure> {
        let http = Http::new(connection.url.clone(), "opledger", patience)?;
        Ok(LedgerClient { http, patience })
    }

    /// The address, for people and files: without a password in it.
    pub fn shown_url(&self) -> String {
        let mut url = self.http.base.clone();
        // Both only fail for addresses that have no host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.as_str().trim_end_matches('/').to_owned()
    }

    /// Each segment is percent-encoded, whatever it holds.
    pub fn url(&self, segments: &[&str]) -> Url {
        self.http.url(segments, &[])
    }

    pub fn get(&self, url: Url) -> RequestBuilder {
        self.http.get(url)
    }

    pub fn post(&self, url: Url) -> RequestBuilder {
        self.http.post(url)
    }

    /// The answer, if it is a success.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let response = request.send().await.map_err(|error| self.unsent(&error))?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(self.refusal(response).await)
        }
    }

    /// The next piece of the body.
    pub async fn piece(&self, response: &mut Response) -> Result<Option<Bytes>, Failure> {
        response.chunk().await.map_err(|error| {
            if error.is_timeout() {
                self.broken_off(&self.silence())
            } else {
                self.broken_off(&said(&error).to_lowercase())
            }
        })
    }

    /// The whole body, for answers that are known to be small enough.
    pub async fn body(&self, mut response: Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece(&mut response).await? {
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    pub fn broken_off(&self, why: &str) -> Failure {
        Failure::BrokenOff {
            url: self.shown_url(),
            why: why.to_owned(),
        }
    }

    fn unsent(&self, error: &reqwest::Error) -> Failure {
        let url = self.shown_url();
        if error.is_connect() {
            let why = if error.is_timeout() {
                format!("no connection within {} s", CONNECT_TIMEOUT.as_secs())
            } else {
                said(error).to_lowercase()
            };
            return Failure::Unreachable { url, why };
        }
        if error.is_builder() {
            return Failure::Usage(format!("cannot ask {url}: {}", said(error).to_lowercase()));
        }
        Failure::Unavailable {
            why: if error.is_timeout() {
                format!("{url} does not answer: {}", self.silence())
            } else {
                format!("no answer of {url}: {}", said(error).to_lowercase())
            },
            retry_after: None,
        }
    }

    fn silence(&self) -> String {
        format!("nothing came for {} s", self.patience.as_secs())
    }

    async fn refusal(&self, mut response: Response) -> Failure {
        let status = response.status();
        let retry_after = retry_after(&response);
        let mut body = Vec::new();
        // A body that breaks off is judged by what came: the status is known.
        while let Ok(Some(piece)) = response.chunk().await {
            body.extend_from_slice(&piece);
            if body.len() > ERROR_BODY_MAX {
                break;
            }
        }
        let error = serde_json::from_slice(&body).ok();
        judge(&self.shown_url(), status, error.as_ref(), retry_after)
    }
}

/// The body of every refusal of a ledger.
#[derive(Deserialize)]
struct ErrorResponse {
    error_code: String,
    error_message: String,
    data_consistency: String,
    /// Where `error_message` has to be one of the fixed texts.
    detail: Option<String>,
}

impl ErrorResponse {
    fn text(&self) -> String {
        let mut message = self.error_message.clone();
        if let Some(detail) = &self.detail {
            message = format!("{message} {detail}");
        }
        let message = shorten(message.trim_end_matches('.'), 2_000);
        let code = shorten(&self.error_code, 20);
        // Of `rolled back` nothing need be said: a refusal changes nothing.
        let consistency = match self.data_consistency.as_str() {
            "rolled back" => "",
            "unknown" => ", part of it may be stored",
            "updated" => ", the change stands",
            _ => ", part of it is stored",
        };
        format!("{message} (code {code}{consistency})")
    }
}

/// What a ledger says of a path that it does not have at all.
const NO_SUCH_ROUTE: &str = "no such route";

fn judge(
    url: &str,
    status: StatusCode,
    error: Option<&ErrorResponse>,
    retry_after: Option<Duration>,
) -> Failure {
    let Some(error) = error else {
        let why = format!("{url} answers {status} and does not say why");
        return match status.as_u16() {
            // What stands before a ledger that is being restarted says so, too.
            408 | 429 | 502 | 503 | 504 => Failure::Unavailable { why, retry_after },
            // What stands before a ledger may have a bound of its own.
            413 => Failure::TooLarge(why),
            401 | 403 | 407 => Failure::Refused(why),
            _ => Failure::Unexpected(format!("{why}: is it a ledger?")),
        };
    };
    let text = error.text();
    match status.as_u16() {
        404 if text.contains(NO_SUCH_ROUTE) => Failure::Unexpected(format!(
            "{url} is not the address of a ledger, which is like http://127.0.0.1:8470: {text}"
        )),
        404 => Failure::NotFound(text),
        408 | 429 | 502 | 503 | 504 => Failure::Unavailable {
            why: format!("the ledger cannot do it now: {text}"),
            retry_after,
        },
        // On its two oldest resources "not now" is a 500, known by its code.
        500 if error.error_code == "000001" => Failure::Unavailable {
            why: format!("the ledger cannot do it now: {text}"),
            retry_after,
        },
        413 => Failure::TooLarge(format!("the ledger refuses: {text}")),
        400..=499 => Failure::Refused(format!("the ledger refuses: {text}")),
        _ => Failure::Unexpected(format!("the ledger answers {status}: {text}")),
    }
}

/// What of the log the answer is made of, or holds.
pub fn position(response: &Response) -> Option<Token> {
    let token = response.headers().get(POSITION)?.to_str().ok()?;
    token.parse().ok()
}

/// Where the list goes on: of the address that was asked, with the query that the
/// ledger gives.
pub fn next_page(asked: &Url, response: &Response) -> Option<Url> {
    let links = response.headers().get_all(LINK).iter();
    let mut links = links.filter_map(|link| link.to_str().ok());
    let next = links.find(|link| link.contains("rel=\"next\"") || link.contains("rel=next"))?;
    let (target, _) = next.strip_prefix('<')?.split_once('>')?;
    let (_, query) = target.split_once('?')?;
    let mut url = asked.clone();
    url.set_query(Some(query));
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(url: &str) -> LedgerClient {
        let connection = Connection {
            url: base_url(url).unwrap(),
        };
        LedgerClient::new(&connection, Duration::from_secs(1)).unwrap()
    }

    #[test]
    fn paths_follow_the_base_and_are_encoded() {
        for (base, expected) in [
            ("http://h", "http://h/v1/operations/a%2Fb%3F%23%25"),
            ("http://h/", "http://h/v1/operations/a%2Fb%3F%23%25"),
            ("http://h/x/", "http://h/x/v1/operations/a%2Fb%3F%23%25"),
        ] {
            let url = ledger(base).url(&["v1", "operations", "a/b?#%"]);
            assert_eq!(url.as_str(), expected);
        }
    }

    #[test]
    fn passwords_in_an_address_are_not_shown() {
        assert_eq!(
            ledger("http://me:secret@h:1/x/").shown_url(),
            "http://h:1/x"
        );
    }

    #[test]
    fn statuses_and_codes_decide_the_exit_status() {
        for (status, code, expected) in [
            (400, "010002", 4),
            (401, "010002", 4),
            (404, "030001", 3),
            (409, "030002", 4),
            (410, "010003", 4),
            (429, "000001", 5),
            (500, "000001", 5),
            (500, "020002", 1),
            (503, "000001", 5),
            (504, "000001", 5),
        ] {
            let error = ErrorResponse {
                error_code: code.into(),
                error_message: "Text.".into(),
                data_consistency: "rolled back".into(),
                detail: None,
            };
            let status = StatusCode::from_u16(status).unwrap();
            let failure = judge("http://h", status, Some(&error), None);
            assert_eq!(failure.exit_status(), expected, "{status} {code}");
            assert!(failure.to_string().contains(&format!("Text (code {code})")));
        }
        let no_route = ErrorResponse {
            error_code: "030001".into(),
            error_message: "Target resource not found. no such route.".into(),
            data_consistency: "rolled back".into(),
            detail: None,
        };
        let failure = judge(
            "http://h/v1",
            StatusCode::from_u16(404).unwrap(),
            Some(&no_route),
            None,
        );
        assert_eq!(failure.exit_status(), 1);
        assert!(failure.to_string().starts_with("http://h/v1 is not"));
        for (status, expected) in [(404, 1), (200, 1), (301, 1), (502, 5), (413, 4)] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(
                judge("http://h", status, None, None).exit_status(),
                expected
            );
        }
    }
}
