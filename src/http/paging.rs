//! Pages of a list: `limit`, `cursor`, and the `Link` to the next.

use super::error::Refusal;
use super::params::Params;
use crate::wire::fault::{Fault, Rule};
use axum::http::header::LINK;
use axum::http::{HeaderValue, Uri};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

pub const BAD_CURSOR: Refusal = Refusal::Parameter {
    name: "cursor",
    what: "must come from a Link of this resource.",
};

pub fn limit(params: &Params) -> Result<Option<usize>, Refusal> {
    let Some(text) = params.get("limit") else {
        return Ok(None);
    };
    // The library would take a plus sign.
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Fault::new(Rule::Format, "limit", "must be a number.").into());
    }
    match text.parse() {
        Ok(limit @ 1..=1000) => Ok(Some(limit)),
        _ => Err(Fault::new(Rule::Range, "limit", "1 to 1000.").into()),
    }
}

/// The bytes of `link`.
pub fn cursor(params: &Params) -> Result<Option<Vec<u8>>, Refusal> {
    let cursor = params
        .get("cursor")
        .map(|text| URL_SAFE_NO_PAD.decode(text));
    cursor.transpose().map_err(|_| BAD_CURSOR)
}

/// `Link: <…>; rel="next"` with the same query and the cursor.
pub fn link(uri: &Uri, cursor: &[u8], response: &mut Response) {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in form_urlencoded::parse(uri.query().unwrap_or("").as_bytes()) {
        if name != "cursor" {
            query.append_pair(&name, &value);
        }
    }
    query.append_pair("cursor", &URL_SAFE_NO_PAD.encode(cursor));
    let link = format!("<{}?{}>; rel=\"next\"", uri.path(), query.finish());
    let link = HeaderValue::from_str(&link).expect("a URL is a header value");
    response.headers_mut().insert(LINK, link);
}
