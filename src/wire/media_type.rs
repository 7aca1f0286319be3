//! Media types, as in `content-type` and `datacontenttype`.

/// Compares a content type without its parameters.
pub fn is_media_type(content_type: &str, wanted: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or("").trim();
    essence.eq_ignore_ascii_case(wanted)
}

/// No parameter names a charset other than UTF-8, which JSON is in without one.
pub fn is_utf8(content_type: &str) -> bool {
    let mut is_quoted = false;
    let mut parts = content_type.split(|c| {
        is_quoted ^= c == '"';
        c == ';' && !is_quoted
    });
    parts.next();
    parts.all(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = value.trim().trim_matches('"');
        !name.trim().eq_ignore_ascii_case("charset")
            || value.eq_ignore_ascii_case("utf-8")
            || value.eq_ignore_ascii_case("utf8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_charset_than_utf_8_counts() {
        for content_type in [
            "",
            "application/json",
            "application/json;",
            "application/json; charset=utf-8",
            "application/json;profile=\"a;charset=utf-16\";Charset = \"UTF-8\"",
            "application/json; charset=UTF8",
            "application/json; x=charset",
        ] {
            assert!(is_utf8(content_type), "{content_type}");
        }
        for content_type in [
            "application/json; charset=utf-16",
            "application/json;charset=\"latin1\"",
            "application/json; charset=utf-8; charset=utf-16",
            "application/json; charset",
            "application/json; charset=",
        ] {
            assert!(!is_utf8(content_type), "{content_type}");
        }
    }
}
