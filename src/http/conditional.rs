//! `If-None-Match`.

use axum::http::HeaderMap;
use axum::http::header::IF_NONE_MATCH;

/// Weak comparison, as RFC 9110 asks for If-None-Match.
pub fn matches_etag(headers: &HeaderMap, etag: &str) -> bool {
    let etag = etag.trim_start_matches("W/");
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == etag || tag == "*")
}

/// The client has something already.
pub fn wants_a_change(headers: &HeaderMap) -> bool {
    headers.contains_key(IF_NONE_MATCH)
}
