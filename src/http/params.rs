//! Query parameters. An unknown or repeated one is refused: a mistyped filter must not be ignored.

use super::App;
use super::error::Refusal;
use crate::config::UnknownQuery;
use axum::http::Uri;
use percent_encoding::percent_decode;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Parameters that may be given several times.
const REPEATABLE: &[&str] = &["status"];

#[derive(Debug, Default)]
pub struct Params<'u>(BTreeMap<&'static str, Vec<Cow<'u, str>>>);

impl<'u> Params<'u> {
    pub fn parse(app: &App, uri: &'u Uri, known: &[&'static str]) -> Result<Params<'u>, Refusal> {
        let mut params = Params::default();
        let pairs = uri.query().unwrap_or("").split('&');
        for pair in pairs.filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name);
            match known.iter().find(|known| name.as_deref() == Some(**known)) {
                Some(name) => {
                    let what = "must be UTF-8.";
                    let value = decode(value).ok_or(Refusal::Parameter { name, what })?;
                    let given = params.0.entry(name).or_default();
                    given.push(value);
                    if given.len() > 1 && !REPEATABLE.contains(name) {
                        let what = "given more than once.";
                        return Err(Refusal::Parameter { name, what });
                    }
                }
                None if app.config.server.unknown_query == UnknownQuery::Ignore => {}
                None => {
                    let name = name.unwrap_or_else(|| "a name that is not UTF-8".into());
                    return Err(Refusal::UnknownParameter(name.chars().take(100).collect()));
                }
            }
        }
        Ok(params)
    }

    /// The value of a parameter that occurs at most once.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All values of a parameter that may be repeated.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.get(name).into_iter().flatten().map(|value| &**value)
    }
}

/// As forms are encoded, but strictly: `None` if it is not UTF-8, since a value with
/// replacement characters would be another one.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    match text.contains('+') {
        false => percent_decode(text.as_bytes()).decode_utf8().ok(),
        true => {
            let text = text.replace('+', " ");
            let decoded = percent_decode(text.as_bytes()).decode_utf8().ok()?;
            Some(Cow::Owned(decoded.into_owned()))
        }
    }
}
