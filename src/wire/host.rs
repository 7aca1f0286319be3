//! Names of hosts, as the header `Host` and the settings have them.

use std::net::Ipv6Addr;

/// As two spellings of one host are compared: in lower case, without the dot of the root,
/// an IPv6 address without brackets and as short as can be.
pub fn normal(host: &str) -> String {
    let host = host.strip_suffix('.').unwrap_or(host);
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    match bare.unwrap_or(host).parse::<Ipv6Addr>() {
        Ok(address) => address.to_string(),
        Err(_) => host.to_ascii_lowercase(),
    }
}

/// `None` if it is neither a name nor an address, with or without a port.
pub fn without_port(text: &str) -> Option<&str> {
    let end = match text.starts_with('[') {
        true => text.find(']')? + 1,
        false => text.find(':').unwrap_or(text.len()),
    };
    let (host, port) = text.split_at(end);
    let port = port.strip_prefix(':').unwrap_or(port);
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let is_host = match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']')?.parse::<Ipv6Addr>().is_ok(),
        // RFC 3986: the characters of a registered name.
        None => host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&b)),
    };
    // A target without a host has an empty text.
    (is_host && (!host.is_empty() || text.is_empty())).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_hosts_are_refused() {
        for bad in [
            "a b",
            "user@host",
            "[::1",
            "::1",
            "host:80a",
            ":80",
            "a/b",
            "[x]",
            "host:1:2",
        ] {
            assert_eq!(without_port(bad), None, "{bad}");
        }
        assert_eq!(without_port("a:1"), Some("a"));
        assert_eq!(without_port("[::1]:1"), Some("[::1]"));
    }
}
