//! The problems of a configuration, and the source of each setting.
//!
//! Problems are collected, never returned one by one: a user who corrects a file wants to see all
//! of them. No text made here may contain a secret.

use std::fmt;
use std::path::PathBuf;

/// Shown in the place of a secret.
pub(super) const MASK: &str = "********";

/// Whether the value of this key (or variable) must not be shown.
pub(super) fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    [
        "password",
        "secret",
        "token",
        "passphrase",
        "key.pem",
        "jaas",
    ]
    .iter()
    .any(|word| key.contains(word))
}

/// The source of a setting, in ascending precedence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SettingSource {
    Default,
    /// Line 0 is the file as a whole.
    File {
        path: PathBuf,
        line: usize,
    },
    /// The whole name, of the `_FILE` form too.
    Variable(String),
    Flag(&'static str),
}

impl fmt::Display for SettingSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingSource::Default => f.write_str("default"),
            SettingSource::File { path, line: 0 } => write!(f, "{}", path.display()),
            SettingSource::File { path, line } => write!(f, "{} line {line}", path.display()),
            SettingSource::Variable(name) => write!(f, "variable {name}"),
            SettingSource::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub source: SettingSource,
    /// Nothing if the problem is the file's as a whole.
    pub key: Option<String>,
    /// As it was given, masked if it is a secret. Nothing if it has no part in the problem.
    pub value: Option<String>,
    /// A predicate to the key and its value.
    pub fault: String,
    /// The remedy, as an instruction.
    pub remedy: String,
}

impl Problem {
    /// A problem that does not depend on the value.
    pub(super) fn new(
        source: SettingSource,
        key: Option<&str>,
        fault: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Problem {
        Problem {
            source,
            key: key.map(str::to_owned),
            value: None,
            fault: fault.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{}: {key} ", self.source)?,
            None => write!(f, "{} ", self.source)?,
        }
        if let Some(value) = &self.value {
            write!(f, "= {value} ")?;
        }
        write!(f, "{}; {}", self.fault, self.remedy)
    }
}

/// All that is wrong, one problem a line, in the order of precedence and of lines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration has {}{}", count(.problems), list(.problems))]
pub struct Error {
    pub problems: Vec<Problem>,
}

fn count(problems: &[Problem]) -> String {
    match problems.len() {
        1 => "1 problem".into(),
        n => format!("{n} problems"),
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|p| format!("\n  {p}")).collect()
}
