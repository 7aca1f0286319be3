//! The form of the response to a read: JSON, or a stream of server-sent events.

use axum::http::header::{ACCEPT, VARY};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;

/// Whether the request prefers a stream (RFC 9110, 12.5.1). Of equal preferences the first one
/// wins. A request that accepts neither form gets JSON.
pub fn wants_stream(headers: &HeaderMap) -> bool {
    let ranges = || {
        let lines = headers.get_all(ACCEPT).iter();
        let texts = lines.filter_map(|line| line.to_str().ok());
        texts.flat_map(|line| line.split(',')).map(range)
    };
    let stream = preference(ranges(), "text", "event-stream");
    let json = preference(ranges(), "application", "json");
    stream.quality > 0.0
        && (stream.quality > json.quality
            || stream.quality == json.quality && stream.place < json.place)
}

/// Adds `Vary: Accept` to a response.
pub fn vary(mut response: Response) -> Response {
    response.headers_mut().append(VARY, VARIES);
    response
}

/// The value of `Vary`.
pub const VARIES: HeaderValue = HeaderValue::from_static("Accept");

/// A type, a subtype and its quality, 0 to 1.
fn range(text: &str) -> (&str, &str, f32) {
    let mut parts = text.split(';').map(str::trim);
    let (kind, sub) = parts
        .next()
        .unwrap_or("")
        .split_once('/')
        .unwrap_or(("", ""));
    let quality = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    // A malformed weight is ignored.
    let quality = quality.and_then(|text| text.parse::<f32>().ok());
    let quality = quality.filter(|quality| (0.0..=1.0).contains(quality));
    (kind, sub, quality.unwrap_or(1.0))
}

#[derive(Clone, Copy, Default)]
struct Preference {
    quality: f32,
    /// The number of the range in the header.
    place: usize,
}

/// The quality that the most specific matching range gives to the type.
fn preference<'r>(
    ranges: impl Iterator<Item = (&'r str, &'r str, f32)>,
    kind: &str,
    sub: &str,
) -> Preference {
    let mut best = (0, Preference::default());
    for (place, (its_kind, its_sub, quality)) in ranges.enumerate() {
        let is_kind = its_kind.eq_ignore_ascii_case(kind);
        let precision = match (its_kind, its_sub) {
            (_, its_sub) if is_kind && its_sub.eq_ignore_ascii_case(sub) => 3,
            (_, "*") if is_kind => 2,
            ("*", "*") => 1,
            _ => continue,
        };
        if precision > best.0 {
            best = (precision, Preference { quality, place });
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_stream(lines: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(ACCEPT, HeaderValue::from_str(line).unwrap());
        }
        wants_stream(&headers)
    }

    #[test]
    fn the_form_that_the_client_likes_best_is_chosen() {
        for lines in [
            &["text/event-stream"][..],
            &["Text/Event-Stream; charset=utf-8"],
            &["text/*"],
            &["text/event-stream, application/json"],
            &["text/event-stream, */*"],
            &["text/html, text/event-stream;q=0.9, */*;q=0.8"],
            &["application/json;q=0.5, text/event-stream"],
            &["application/json;q=0", "text/event-stream;q=0.1"],
            &["application/json;q=0, */*"],
            &["text/event-stream;q=0.001"],
        ] {
            assert!(is_stream(lines), "{lines:?}");
        }
        for lines in [
            &[][..],
            &[""],
            &["*/*"],
            &["application/json"],
            &["application/json, text/event-stream"],
            &["application/json", "text/event-stream"],
            &["application/json, text/event-stream;q=0"],
            &["text/event-stream;q=0"],
            &["text/event-stream; Q=0.000, */*"],
            &["text/event-stream;q=0.8, application/json;q=0.9"],
            &["text/event-stream;q=0.8, */*;q=0.9"],
            &["*/*, text/event-stream"],
            &["text/html, application/xhtml+xml, */*;q=0.8"],
            // The more specific range counts, whichever comes first.
            &["text/*, text/event-stream;q=0"],
            &["image/png"],
            &["event-stream, text"],
        ] {
            assert!(!is_stream(lines), "{lines:?}");
        }
    }
}
