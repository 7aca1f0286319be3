//! The web page: the files of `ui/`, compiled into the binary. It requests nothing from other
//! servers, and its policy does not let the browser do so.

use super::conditional::matches_etag;
use super::error::Refusal;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use std::sync::LazyLock;

struct PageFile {
    name: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
    etag: String,
}

macro_rules! files {
    ($($name:literal: $content_type:expr,)+) => {
        [$(PageFile {
            name: $name,
            content_type: $content_type,
            bytes: include_bytes!(concat!("../../ui/", $name)),
            etag: format!(
                "\"{}\"",
                &blake3::hash(include_bytes!(concat!("../../ui/", $name))).to_hex()[..32]
            ),
        }),+]
    };
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

/// The first two are pages, with paths of their own.
static FILES: LazyLock<Vec<PageFile>> = LazyLock::new(|| {
    files! {
        "index.html": HTML,
        "docs.html": HTML,
        "style.css": STYLE,
        "icon.svg": PICTURE,
        "app.js": SCRIPT,
        "api.js": SCRIPT,
        "dom.js": SCRIPT,
        "format.js": SCRIPT,
        "list.js": SCRIPT,
        "operation.js": SCRIPT,
        "story.js": SCRIPT,
        "timeline.js": SCRIPT,
        "letters.js": SCRIPT,
        "projector.js": SCRIPT,
        "plot.js": SCRIPT,
        "docs.js": SCRIPT,
    }
    .into()
});

/// Scripts and styles come only from this server. No text of a document can become markup or
/// script.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

pub async fn page(headers: HeaderMap) -> Response {
    respond(&FILES[0], &headers)
}

/// `/openapi.json` for people.
pub async fn docs(headers: HeaderMap) -> Response {
    respond(&FILES[1], &headers)
}

pub async fn file(path: Result<Path<String>, PathRejection>, headers: HeaderMap) -> Response {
    let found = path.ok().and_then(|Path(name)| {
        let mut files = FILES.iter().skip(2);
        files.find(|file| file.name == name)
    });
    match found {
        Some(file) => respond(file, &headers),
        None => Refusal::NoSuchRoute.into_response(),
    }
}

fn respond(file: &PageFile, headers: &HeaderMap) -> Response {
    let mut response = if matches_etag(headers, file.etag.as_bytes()) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        file.bytes.into_response()
    };
    let etag = HeaderValue::from_str(&file.etag).expect("hex is a header value");
    let fixed = [
        (CONTENT_TYPE, file.content_type),
        // The browser revalidates each time, and rarely gets the file again. So a page never has
        // scripts of another version.
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    let all = response.headers_mut();
    all.insert(ETAG, etag);
    for (name, value) in fixed {
        all.insert(name, HeaderValue::from_static(value));
    }
    response
}
