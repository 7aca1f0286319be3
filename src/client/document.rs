//! The operation document, as a value.

use super::Error;
use serde::Deserialize;

/// Times have the ledger's format. A single document has bodies, a document of a list has none.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Document {
    pub operation_id: String,
    pub occurred_time: String,
    pub last_update_time: String,
    pub status: Status,
    pub sub_status: Option<String>,
    pub request: Request,
    pub response: Option<Response>,
    pub target_clusters: Vec<TargetCluster>,
    pub rollbacks: Option<Rollbacks>,
    /// The unchanged JSON.
    #[serde(skip)]
    pub json: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Unexecuted,
    Executing,
    Completed,
    Failed,
    Canceled,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Unexecuted => "unexecuted",
            Status::Executing => "executing",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Canceled => "canceled",
        }
    }

    pub fn has_ended(self) -> bool {
        matches!(self, Status::Completed | Status::Failed | Status::Canceled)
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Request {
    pub uri: String,
    pub method: String,
    pub body: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Response {
    pub status_code: Option<u16>,
    pub body: Option<String>,
}

/// A request to a cluster.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct TargetCluster {
    pub cluster_id: String,
    pub request: Request,
    pub response: Option<Response>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Rollbacks {
    /// `completed`, `failed` or `none`.
    pub result: String,
    pub occurred_time: String,
    pub target_clusters: Vec<TargetCluster>,
}

impl Document {
    pub(super) fn read(json: &[u8]) -> Result<Document, Error> {
        let what = |error| Error::Unexpected(format!("not an operation document: {error}"));
        let mut document: Document = serde_json::from_slice(json).map_err(what)?;
        document.json = String::from_utf8_lossy(json).into_owned();
        Ok(document)
    }
}
