//! Why an input is not an event of ours: data, not a failure of the program.

use std::fmt;

/// A broken rule. HTTP responds with the code of the same name; for a record of the log it is
/// the reason of the dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Not JSON, or something required is missing or ill-typed.
    Format,
    /// A value that is not allowed.
    Value,
    /// A number or a length out of its range.
    Range,
    /// Larger than an event may be.
    Size,
    /// An event type that this version does not know. It may after an upgrade.
    UnknownType,
    /// The record's key is not the subject.
    KeyMismatch,
    /// A record without a value.
    Tombstone,
}

impl Rule {
    pub const ALL: [Rule; 7] = [
        Rule::Format,
        Rule::Value,
        Rule::Range,
        Rule::Size,
        Rule::UnknownType,
        Rule::KeyMismatch,
        Rule::Tombstone,
    ];

    /// The reason under which a dead letter is kept.
    pub fn reason(self) -> &'static str {
        match self {
            Rule::Format => "malformed",
            Rule::Value => "invalid_value",
            Rule::Range => "out_of_range",
            Rule::Size => "too_large",
            Rule::UnknownType => "unknown_type",
            Rule::KeyMismatch => "key_mismatch",
            Rule::Tombstone => "tombstone",
        }
    }
}

/// A broken rule and where. Never contains a value of the input: bodies may contain
/// passwords.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub rule: Rule,
    /// Path of the member from the event on, such as `data.cluster_id`.
    pub field: String,
    pub what: String,
}

impl Fault {
    pub fn new(rule: Rule, field: &str, what: impl Into<String>) -> Fault {
        Fault {
            rule,
            field: field.into(),
            what: what.into(),
        }
    }

    /// The same fault in the event at `index` of a batch.
    pub fn at(mut self, index: usize) -> Fault {
        self.field = match self.field.as_str() {
            "" => format!("[{index}]"),
            field => format!("[{index}].{field}"),
        };
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.field.as_str() {
            "" => write!(f, "{}", self.what),
            field => write!(f, "{field}: {}", self.what),
        }
    }
}

impl std::error::Error for Fault {}
