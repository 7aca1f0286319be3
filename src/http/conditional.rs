//! `If-None-Match`.

use axum::http::HeaderMap;
use axum::http::header::IF_NONE_MATCH;

/// Weak comparison, as RFC 9110 requires for If-None-Match.
pub fn matches_etag(headers: &HeaderMap, etag: impl AsRef<[u8]>) -> bool {
    let etag = etag.as_ref();
    let etag = etag.strip_prefix(b"W/").unwrap_or(etag);
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag.as_bytes() == etag || tag == "*")
}

/// The client has a state already.
pub fn wants_a_change(headers: &HeaderMap) -> bool {
    headers.contains_key(IF_NONE_MATCH)
}
