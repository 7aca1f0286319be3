//! `--position` and `--wait`: how recent the state must be that a command shows.

use crate::client::http::{POSITION, PREFER};
use crate::wire::position::Token;
use reqwest::RequestBuilder;
use std::time::Duration;

#[derive(Debug, Clone, Default, clap::Args)]
pub struct At {
    /// Show a state that includes at least this position of the log
    #[arg(long, value_name = "TOKEN")]
    position: Option<Token>,

    /// Seconds to wait for the position
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=86_400))]
    wait: Option<u64>,
}

impl At {
    /// How long the ledger may wait. A read timeout has to be longer.
    pub fn wait(&self) -> Duration {
        Duration::from_secs(self.wait.unwrap_or_default())
    }

    pub fn apply(&self, mut request: RequestBuilder) -> RequestBuilder {
        if let Some(position) = &self.position {
            request = request.header(POSITION, position.to_string());
        }
        if let Some(seconds) = self.wait {
            request = request.header(PREFER, format!("wait={seconds}"));
        }
        request
    }
}
