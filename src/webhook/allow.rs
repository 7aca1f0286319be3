//! Which addresses the ledger may call. A worker's event names the target, so without a limit
//! every publisher could have the ledger call any address of its network. The check is on the
//! address that the connection goes to, after the name was resolved. The name is not resolved
//! again between the check and the connection.

use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};

#[derive(Debug, Clone)]
pub struct Allowed(pub Vec<IpNet>);

impl Allowed {
    /// The address to connect to, if it is allowed. An IPv4-mapped IPv6 address is checked and
    /// called as its IPv4 address.
    fn permits(&self, address: IpAddr) -> Option<IpAddr> {
        let address = address.to_canonical();
        let allows = |network: &IpNet| network.contains(&address);
        self.0.iter().any(allows).then_some(address)
    }

    /// The addresses that may be called.
    pub fn filter(&self, found: &[IpAddr], port: u16) -> Result<Vec<SocketAddr>, String> {
        let permitted = found.iter().filter_map(|address| self.permits(*address));
        let permitted: Vec<_> = permitted
            .map(|address| SocketAddr::new(address, port))
            .collect();
        if !permitted.is_empty() {
            return Ok(permitted);
        }
        let found: Vec<_> = found.iter().take(8).map(IpAddr::to_string).collect();
        let found = found.join(", ");
        Err(format!(
            "{found} is in none of the networks of notifications.allow"
        ))
    }
}

/// The host of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    Address(IpAddr),
    Name(String),
}

impl Host {
    /// `None` for anything else, which could mean something else in a URL or a header.
    pub fn parse(text: &str) -> Option<Host> {
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        if let Some(bare) = bare {
            return Some(Host::Address(IpAddr::V6(bare.parse().ok()?)));
        }
        if let Ok(address) = text.parse() {
            return Some(Host::Address(address));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let is_name = (1..=253).contains(&text.len()) && text.bytes().all(allowed);
        is_name.then(|| Host::Name(text.to_ascii_lowercase()))
    }

    /// For the `Host` header.
    pub fn with_port(&self, port: u16) -> String {
        match self {
            Host::Address(address) => SocketAddr::new(*address, port).to_string(),
            Host::Name(name) => format!("{name}:{port}"),
        }
    }

    /// All current addresses of the host.
    pub async fn look_up(&self) -> Result<Vec<IpAddr>, String> {
        match self {
            Host::Address(address) => Ok(vec![*address]),
            Host::Name(name) => match tokio::net::lookup_host((name.as_str(), 0)).await {
                Ok(found) => {
                    let mut found: Vec<_> = found.map(|address| address.ip()).collect();
                    found.dedup();
                    match found.is_empty() {
                        true => Err("the name has no address".into()),
                        false => Ok(found),
                    }
                }
                Err(error) => Err(format!("cannot resolve the name: {error}")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(networks: &[&str]) -> Allowed {
        Allowed(
            networks
                .iter()
                .map(|network| network.parse().unwrap())
                .collect(),
        )
    }

    fn filtered(networks: &[&str], found: &[&str]) -> Option<Vec<String>> {
        let found: Vec<IpAddr> = found
            .iter()
            .map(|address| address.parse().unwrap())
            .collect();
        let permitted = allowed(networks).filter(&found, 80).ok()?;
        Some(permitted.iter().map(SocketAddr::to_string).collect())
    }

    #[test]
    fn only_addresses_of_the_networks_are_called() {
        assert_eq!(
            filtered(&[], &["127.0.0.1"]),
            None,
            "nothing is allowed by default"
        );
        let net = &["10.1.0.0/16", "fd00::/8"][..];
        assert_eq!(filtered(net, &["10.2.0.1", "fe80::1"]), None);
        // A name with allowed and other addresses: only the allowed ones are called.
        let both = ["10.2.0.1", "10.1.0.7", "fd00::1"];
        assert_eq!(
            filtered(net, &both).unwrap(),
            ["10.1.0.7:80", "[fd00::1]:80"]
        );
    }

    #[test]
    fn an_ipv4_mapped_address_is_checked_as_ipv4() {
        let net = &["::/0"][..];
        assert_eq!(filtered(net, &["::ffff:10.0.0.1"]), None, "it is of IPv4");
        let net = &["10.0.0.0/8"][..];
        assert_eq!(
            filtered(net, &["::ffff:10.0.0.1"]).unwrap(),
            ["10.0.0.1:80"]
        );
        assert_eq!(filtered(net, &["::ffff:127.0.0.1"]), None);
        assert_eq!(
            filtered(&["127.0.0.0/8"], &["0.0.0.0"]),
            None,
            "this machine by another name"
        );
    }

    #[test]
    fn a_target_is_an_address_or_a_name_and_nothing_else() {
        let host = |text: &str| Host::parse(text).map(|host| host.with_port(80));
        assert_eq!(host("10.0.0.1").unwrap(), "10.0.0.1:80");
        assert_eq!(host("::1").unwrap(), "[::1]:80");
        assert_eq!(host("[::1]").unwrap(), "[::1]:80");
        assert_eq!(host("Receiver-1.example").unwrap(), "receiver-1.example:80");
        // Other spellings of 127.0.0.1 are names: resolved, then checked.
        assert_eq!(Host::parse("0x7f.1"), Some(Host::Name("0x7f.1".into())));
        assert_eq!(
            Host::parse("2130706433"),
            Some(Host::Name("2130706433".into()))
        );
        for bad in [
            "",
            "a b",
            "a/b",
            "a:80",
            "u@h",
            "a\r\nX: y",
            "[10.0.0.1]",
            "[::1",
            "fe80::1%eth0",
            "é",
        ] {
            assert_eq!(Host::parse(bad), None, "{bad:?}");
        }
    }
}
