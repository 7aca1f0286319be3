//! The body of an error response: six-digit codes with fixed texts, of which these are the ones
//! that the ledger sends.

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

/// The effect of the failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// The request changed nothing.
    RolledBack,
    /// Part of it may be stored.
    Unknown,
}

#[derive(Serialize)]
struct ErrorJson<'a> {
    error_code: &'a str,
    error_message: &'a str,
    data_consistency: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

/// The body. `detail` names the mistake and its place; it follows the fixed text.
pub fn render(code: Code, detail: Option<&str>, consistency: Consistency) -> Vec<u8> {
    match detail {
        Some(detail) => {
            let message = format!("{} {detail}", code.message());
            write(code, &message, consistency, None)
        }
        None => write(code, code.message(), consistency, None),
    }
}

/// The same for clients that compare the message: it is the fixed text alone, and
/// `detail` a member of its own, the last.
pub fn render_fixed(code: Code, detail: Option<&str>, consistency: Consistency) -> Vec<u8> {
    write(code, code.message(), consistency, detail)
}

fn write(code: Code, message: &str, consistency: Consistency, detail: Option<&str>) -> Vec<u8> {
    serde_json::to_vec(&ErrorJson {
        error_code: code.as_str(),
        error_message: message,
        data_consistency: match consistency {
            Consistency::RolledBack => "rolled back",
            Consistency::Unknown => "unknown",
        },
        detail,
    })
    .expect("strings always serialise")
}
