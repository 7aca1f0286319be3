//! Where a running ledger is, and how the errors of its client become failures of a command.

use crate::cli::failure::Failure;
use crate::cli::text::shorten;
use crate::client::http::{Http, base_url};
use crate::client::{Client, Error};
use reqwest::Url;
use std::time::Duration;

/// Part of the arguments of every command that needs a running ledger.
#[derive(Debug, Clone, clap::Args)]
pub struct Connection {
    /// Address of the ledger
    // An address may contain a password, which --help must not show.
    #[arg(long, value_name = "URL", env = "OPLEDGER_URL", hide_env_values = true)]
    #[arg(default_value = "http://127.0.0.1:8470", value_parser = base_url)]
    url: Url,
}

impl Connection {
    pub fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(self.url.as_str())?)
    }

    /// For single requests. `read_timeout` limits the time without any byte.
    pub fn http(&self, read_timeout: Duration) -> Result<Http, Failure> {
        Ok(Http::new(self.url.clone(), "opledger", read_timeout)?)
    }
}

/// Characters of a server's text that a message shows.
const SHOWN_MAX: usize = 2_000;

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let shown = shorten(&error.to_string(), SHOWN_MAX);
        match error {
            Error::Address(_) => Failure::Usage(shown),
            Error::Unreachable { url, why } => Failure::Unreachable { url, why },
            Error::Unavailable { retry_after, .. } => Failure::Unavailable {
                why: shown,
                retry_after,
            },
            Error::BrokenOff { url, why } => Failure::BrokenOff { url, why },
            Error::TimedOut => Failure::unavailable(shown),
            Error::NotFound(_) => Failure::NotFound(shown),
            Error::TooLarge(_) => Failure::TooLarge(shown),
            Error::Refused { .. } | Error::Gone(_) => Failure::Refused(shown),
            Error::Unexpected(_) => Failure::Unexpected(shown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_client_decide_the_exit_status() {
        let (url, why) = (String::from("http://h"), String::from("why"));
        let code = String::from("010002");
        for (error, expected) in [
            (Error::Unexpected(why.clone()), 1),
            (Error::Address(why.clone()), 2),
            (Error::NotFound(why.clone()), 3),
            (
                Error::Refused {
                    code,
                    why: why.clone(),
                },
                4,
            ),
            (Error::TooLarge(why.clone()), 4),
            (Error::Gone(why.clone()), 4),
            (Error::TimedOut, 5),
            (
                Error::Unavailable {
                    why: why.clone(),
                    retry_after: None,
                },
                5,
            ),
            (
                Error::Unreachable {
                    url: url.clone(),
                    why: why.clone(),
                },
                5,
            ),
            (Error::BrokenOff { url, why }, 5),
        ] {
            let text = error.to_string();
            let failure = Failure::from(error);
            assert_eq!(
                (failure.exit_status(), failure.to_string()),
                (expected, text)
            );
        }
    }
}
