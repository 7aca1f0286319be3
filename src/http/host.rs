//! The names that a request may use for the ledger. A foreign web page can make its name
//! resolve to this machine (DNS rebinding), and the browser then lets the page read what the
//! ledger sends: only the name in `Host` shows it. So a ledger that listens on loopback accepts
//! only names of loopback and those of `server.hosts`. A ledger that serves a network has names
//! that only its operator knows, so it checks them only if `server.hosts` is set.

use super::error::Refusal;
use crate::config::Server;
use crate::wire::host::{normal, without_port};
use axum::http::header::HOST;
use axum::http::{HeaderMap, Request, Version};
use std::net::IpAddr;

pub struct Names {
    is_checked: bool,
    hosts: Vec<String>,
}

impl Names {
    pub fn new(server: &Server) -> Names {
        let is_loopback = server.listen.ip().to_canonical().is_loopback();
        Names {
            is_checked: is_loopback || !server.hosts.is_empty(),
            hosts: server.hosts.clone(),
        }
    }

    /// `reached` is the address of this machine that the connection came in at.
    pub fn check<B>(&self, request: &Request<B>, reached: IpAddr) -> Result<(), Refusal> {
        let header = the_header(request.headers(), request.version())?;
        // A name in the request line takes precedence (RFC 9112, 3.2.2).
        let host = match request.uri().authority() {
            Some(authority) => Some(name(authority.as_str())?),
            None => header,
        };
        // HTTP/1.0 requests need no `Host`: no browser uses that version.
        let Some(host) = host else {
            return Ok(());
        };
        match !self.is_checked || self.has(host, reached.to_canonical()) {
            true => Ok(()),
            false => Err(Refusal::Misdirected),
        }
    }

    fn has(&self, host: &str, reached: IpAddr) -> bool {
        let host = normal(host);
        if let Ok(address) = host.parse::<IpAddr>() {
            let address = address.to_canonical();
            if address.is_loopback() || address == reached {
                return true;
            }
        }
        // RFC 6761: these are names of loopback on every resolver.
        host == "localhost" || host.ends_with(".localhost") || self.hosts.contains(&host)
    }
}

fn name(host: &str) -> Result<&str, Refusal> {
    without_port(host).ok_or(Refusal::Host("not the name of a host."))
}

/// RFC 9112, 3.2: a request has one, and one only.
fn the_header(headers: &HeaderMap, version: Version) -> Result<Option<&str>, Refusal> {
    let mut all = headers.get_all(HOST).iter();
    match (all.next(), all.next()) {
        (Some(host), None) => {
            // Bytes that are not text are not a name.
            Ok(Some(name(host.to_str().unwrap_or("?"))?))
        }
        (None, _) if version == Version::HTTP_10 => Ok(None),
        (None, _) => Err(Refusal::Host("required.")),
        (Some(_), Some(_)) => Err(Refusal::Host("given more than once.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn names(listen: &str, hosts: &[&str]) -> Names {
        let mut server = Config::default().server;
        server.listen = listen.parse().expect("an address");
        server.hosts = hosts.iter().map(|host| normal(host)).collect();
        Names::new(&server)
    }

    /// Whether a request with this header is let in that came to `127.0.0.1` or `10.1.2.3`.
    fn lets_in(names: &Names, host: &str) -> bool {
        let request = Request::get("/").header(HOST, host).body(());
        let request = request.expect("a request");
        let reached = match names.hosts.is_empty() {
            true => [127, 0, 0, 1],
            false => [10, 1, 2, 3],
        };
        names.check(&request, reached.into()).is_ok()
    }

    #[test]
    fn a_ledger_on_loopback_accepts_only_host_names_of_loopback() {
        let names = names("127.0.0.1:8470", &[]);
        for good in [
            "localhost",
            "LocalHost.:1",
            "ledger.localhost:8470",
            "127.0.0.1",
            "127.0.0.1:",
            "127.8.9.10:80",
            "[::1]:8470",
            "[0:0::1]",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(lets_in(&names, good), "{good}");
        }
        for bad in [
            "rebound.example:8470",
            "localhost.example",
            "xlocalhost",
            "127.0.0.1.example",
            "10.1.2.3",
            "0.0.0.0:8470",
            "[fd00::1]",
            "",
            "..",
        ] {
            assert!(!lets_in(&names, bad), "{bad}");
        }
    }

    #[test]
    fn configured_host_names_match_in_every_spelling() {
        let hosts = ["ledger.example", "[FD00::0:1]", "Second.Example."];
        for listen in ["0.0.0.0:8470", "[::1]:8470"] {
            let names = names(listen, &hosts);
            for good in [
                "ledger.example",
                "LEDGER.example.:80",
                "[fd00:0::1]",
                "second.example",
                "10.1.2.3:8470",
                "localhost",
            ] {
                assert!(lets_in(&names, good), "{good}");
            }
            for bad in ["other.example", "10.1.2.4", "x.ledger.example"] {
                assert!(!lets_in(&names, bad), "{bad}");
            }
        }
        assert!(lets_in(&names("0.0.0.0:8470", &[]), "anything.example"));
    }
}
