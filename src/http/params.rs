//! Query parameters, strictly: an unknown or repeated one is refused, so that a
//! mistyped filter does not quietly do nothing.

use super::App;
use super::error::Refusal;
use crate::config::UnknownQuery;
use axum::http::Uri;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Parameters that may be given several times.
const REPEATABLE: &[&str] = &["status"];

#[derive(Debug, Default)]
pub struct Params<'u>(BTreeMap<&'static str, Vec<Cow<'u, str>>>);

impl<'u> Params<'u> {
    pub fn parse(app: &App, uri: &'u Uri, known: &[&'static str]) -> Result<Params<'u>, Refusal> {
        let mut params = Params::default();
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or("").as_bytes()) {
            match known.iter().find(|known| **known == name) {
                Some(name) => {
                    let given = params.0.entry(name).or_default();
                    given.push(value);
                    if given.len() > 1 && !REPEATABLE.contains(name) {
                        let what = "given more than once.";
                        return Err(Refusal::Parameter { name, what });
                    }
                }
                None if app.config.server.unknown_query == UnknownQuery::Ignore => {}
                None => return Err(Refusal::UnknownParameter),
            }
        }
        Ok(params)
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All values of one that may be repeated.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.get(name).into_iter().flatten().map(|value| &**value)
    }
}
