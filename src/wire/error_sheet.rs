//! The error body of the interface ("error sheet"): six-digit codes with fixed
//! texts. Only the codes that the ledger itself answers with.

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    SystemStatus,
    ParameterFormat,
    ParameterValue,
    ParameterRange,
    StoreConnection,
    StoreOperation,
    NotFound,
    Undefined,
}

impl Code {
    pub fn as_str(self) -> &'static str {
        match self {
            Code::SystemStatus => "000001",
            Code::ParameterFormat => "010001",
            Code::ParameterValue => "010002",
            Code::ParameterRange => "010003",
            Code::StoreConnection => "020001",
            Code::StoreOperation => "020002",
            Code::NotFound => "030001",
            Code::Undefined => "990001",
        }
    }

    pub fn message(self) -> &'static str {
        match self {
            Code::SystemStatus => "System status error.",
            Code::ParameterFormat => "Parameter format error.",
            Code::ParameterValue => "Parameter value error.",
            Code::ParameterRange => "Parameter value out of range.",
            Code::StoreConnection => "Database connection error.",
            Code::StoreOperation => "Database operation error.",
            Code::NotFound => "Target resource not found.",
            Code::Undefined => "Undefined error.",
        }
    }
}

/// What is known of the state of things after the refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// The request changed nothing.
    RolledBack,
    /// Nobody can tell: part of it may be stored.
    Unknown,
}

#[derive(Serialize)]
struct Sheet<'a> {
    error_code: &'a str,
    error_message: &'a str,
    data_consistency: &'a str,
}

/// The body. `detail` says what is wrong and where; it follows the fixed text.
pub fn render(code: Code, detail: Option<&str>, consistency: Consistency) -> Vec<u8> {
    let message = match detail {
        Some(detail) => format!("{} {detail}", code.message()),
        None => code.message().to_owned(),
    };
    serde_json::to_vec(&Sheet {
        error_code: code.as_str(),
        error_message: &message,
        data_consistency: match consistency {
            Consistency::RolledBack => "rolled back",
            Consistency::Unknown => "unknown",
        },
    })
    .expect("strings always serialise")
}
