//! A client of an event stream in the simulation: does what a client has to do, and checks what it
//! gets.

use super::streams::Truth;
use crate::support::in_process::{Get, call, json_of};
use axum::body::Body;
use http_body_util::BodyExt;
use opledger::wire::position::{LastOffsets, Token};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// After this time without data, a client assumes that no more comes. It passes at once.
const PATIENCE: Duration = Duration::from_secs(1);

fn covers(held: &LastOffsets, wanted: &LastOffsets) -> bool {
    wanted.iter().all(|(p, o)| held.get(p) >= Some(o))
}

/// Does what a client has to do, and checks what it gets.
pub struct StreamClient {
    pub path: String,
    statuses: Vec<String>,
    /// The operation of a stream of one operation.
    only: Option<String>,
    /// Only operations with a request to this cluster, or a rollback of one.
    cluster: Option<String>,
    pub held: BTreeMap<String, Value>,
    /// The id of the last block. The next connection sends it as `Last-Event-ID`.
    pub last_id: String,
    connection: Option<Body>,
    buffer: Vec<u8>,
    pub is_over: bool,
    /// All blocks that it was ever sent, each with the time since the start.
    pub sent: Vec<String>,
    began: Instant,
}

impl StreamClient {
    pub fn of_all(statuses: &[&str]) -> StreamClient {
        let pairs = statuses.iter().map(|status| format!("status={status}"));
        let path = format!("/v1/operations?{}", pairs.collect::<Vec<_>>().join("&"));
        StreamClient::new(path, statuses, None)
    }

    pub fn of_cluster(id: &str) -> StreamClient {
        let client = StreamClient::new(format!("/v1/operations?cluster_id={id}"), &[], None);
        StreamClient {
            cluster: Some(id.to_owned()),
            ..client
        }
    }

    pub fn of_one(id: String) -> StreamClient {
        StreamClient::new(format!("/v1/operations/{id}"), &[], Some(id))
    }

    pub fn new(path: String, statuses: &[&str], only: Option<String>) -> StreamClient {
        StreamClient {
            path,
            statuses: statuses.iter().map(|s| s.to_string()).collect(),
            only,
            cluster: None,
            held: BTreeMap::new(),
            last_id: String::new(),
            connection: None,
            buffer: Vec::new(),
            is_over: false,
            sent: Vec::new(),
            began: Instant::now(),
        }
    }

    pub fn wants(&self, id: &str, document: &Value) -> bool {
        let status = document["status"].as_str().unwrap();
        let lists = [
            &document["target_clusters"],
            &document["rollbacks"]["target_clusters"],
        ];
        let lanes = lists.into_iter().filter_map(Value::as_array).flatten();
        let mut clusters = lanes.map(|lane| lane["cluster_id"].as_str().unwrap());
        let cluster = self.cluster.as_deref();
        self.only.as_deref().is_none_or(|only| only == id)
            && (self.statuses.is_empty() || self.statuses.iter().any(|s| s == status))
            && cluster.is_none_or(|cluster| clusters.any(|id| id == cluster))
    }

    pub async fn connect(&mut self, get: &Get) {
        if self.connection.is_some() || self.is_over {
            return;
        }
        if self.last_id.is_empty() {
            // It starts again, with a full listing.
            self.held.clear();
        }
        let last_id = self.last_id.clone();
        let headers = [("accept", "text/event-stream"), ("last-event-id", &last_id)];
        let response = call(get, &self.path, &headers).await;
        match response.status().as_u16() {
            200 => self.connection = Some(response.into_body()),
            204 => self.is_over = true,
            // The store lost its last writes, or knows no log yet: retry later.
            504 | 503 => {}
            status => panic!("{status}: {:?}", json_of(response).await),
        }
    }

    pub fn disconnect(&mut self) {
        self.connection = None;
        self.buffer.clear();
    }

    /// Reads up to `most` blocks, until no more come.
    pub async fn read(&mut self, get: &Get, truth: &Truth, most: usize) {
        let mut blocks = 0;
        while blocks < most {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let block = String::from_utf8(block).unwrap();
                self.sent
                    .push(format!("{:?}: {block}", self.began.elapsed()));
                self.take(get, &block).await;
                if block.lines().any(|line| line.starts_with("id: ")) {
                    truth.check(self);
                }
                blocks += 1;
                continue;
            }
            let Some(connection) = &mut self.connection else {
                return;
            };
            match tokio::time::timeout(PATIENCE, connection.frame()).await {
                Ok(Some(Ok(frame))) => self.buffer.extend_from_slice(frame.data_ref().unwrap()),
                Ok(Some(Err(_)) | None) => self.disconnect(),
                Err(_) => return,
            }
        }
    }

    pub async fn take(&mut self, get: &Get, block: &str) {
        let field = |name: &str| {
            let mut lines = block.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        if let Some(id) = field("id") {
            let after: Token = id.parse().unwrap();
            if !self.last_id.is_empty() {
                let before: Token = self.last_id.parse().unwrap();
                let has_gone_on = covers(&after.positions, &before.positions);
                assert!(has_gone_on, "{before} then {after}");
            }
            self.last_id = id.to_owned();
        }
        let Some(kind) = field("event") else { return };
        let data: Value = serde_json::from_str(field("data").unwrap()).unwrap();
        let id = data["operation_id"].as_str().unwrap_or_default().to_owned();
        match kind {
            "document" => {
                assert!(self.wants(&id, &data), "{}: {data}", self.path);
                let ended =
                    ["completed", "failed", "canceled"].contains(&data["status"].as_str().unwrap());
                self.is_over = self.only.is_some() && ended;
                self.held.insert(id, data);
            }
            "left" | "removed" => drop(self.held.remove(&id)),
            "reset" => self.list_again(get).await,
            "waiting" | "position" => {}
            other => panic!("{other}"),
        }
    }

    pub async fn list_again(&mut self, get: &Get) {
        self.held.clear();
        let last_id = self.last_id.clone();
        let position = [("ledger-position", &*last_id)];
        let list = json_of(call(get, &self.path, &position).await).await;
        for id in list["operation_ids"].as_array().unwrap() {
            let id = id.as_str().unwrap();
            let document =
                json_of(call(get, &format!("/v1/operations/{id}"), &position).await).await;
            if self.wants(id, &document) {
                self.held.insert(id.to_owned(), document);
            }
        }
    }
}
