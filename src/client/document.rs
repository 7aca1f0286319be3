//! The operation document, as a value.

use super::Error;
use crate::domain::Status;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

/// Times have the ledger's format. A single document has bodies, a document of a list has none.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Document {
    pub operation_id: String,
    pub occurred_time: String,
    pub last_update_time: String,
    #[serde(deserialize_with = "status")]
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

fn status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Status, D::Error> {
    let text = String::deserialize(deserializer)?;
    Status::parse(&text).ok_or_else(|| D::Error::custom(format!("no status: {text}")))
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
    pub(crate) fn read(json: &[u8]) -> Result<Document, Error> {
        let what = |error| Error::Unexpected(format!("not an operation document: {error}"));
        let mut document: Document = serde_json::from_slice(json).map_err(what)?;
        document.json = String::from_utf8_lossy(json).into_owned();
        Ok(document)
    }
}
