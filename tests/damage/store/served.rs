//! What a ledger serves, and whether it is correct.

use super::{OPERATIONS, id};
use crate::support::server::{Answer, Server};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const DETAILS: &str = "/v1/operations?format=detail-list";
/// Lists, each with the name of its array.
const LISTS: [(&str, &str); 8] = [
    (DETAILS, "operations"),
    ("/v1/operations", "operation_ids"),
    ("/v1/operations?order=oldest", "operation_ids"),
    (
        "/v1/operations?format=detail-list&status=completed",
        "operations",
    ),
    (
        "/v1/operations?cluster_id=c-1&status=executing",
        "operation_ids",
    ),
    (
        "/v1/operations?uri_prefix=/v1/3&order=oldest",
        "operation_ids",
    ),
    ("/v1/dead-letters", "dead_letters"),
    ("/v1/notifications?limit=1000", "notifications"),
];

/// Everything that a client can read.
pub struct Served {
    lists: BTreeMap<&'static str, Vec<String>>,
    /// Page by page, in both orders.
    paged: Vec<Vec<String>>,
    /// Documents and histories.
    others: BTreeMap<String, (u16, Vec<u8>)>,
}

impl Served {
    pub fn by(server: &Server) -> Served {
        let sample = (0..OPERATIONS).filter(|n| n % 9 == 0 || *n < 60 || n % 50 == 1);
        let sample: Vec<String> = sample.chain([OPERATIONS + 5]).map(id).collect();
        let paths = sample.iter().flat_map(|id| {
            let document = format!("/v1/operations/{id}");
            let history = format!("{document}/events");
            [document, history]
        });
        let others = paths.map(|path| {
            let Answer { status, body, .. } = server.get(&path);
            let body = if status == 200 { body } else { Vec::new() };
            (path, (status, without_later_arrival(body)))
        });
        let others = others.collect();
        let lists = LISTS.map(|(path, name)| (path, list(server, path, name)));
        let pages = ["newest", "oldest"].map(|order| {
            let first = format!("/v1/operations?limit=100&order={order}");
            pages(server, first)
        });
        Served {
            lists: lists.into(),
            paged: pages.into(),
            others,
        }
    }

    fn is(&self, other: &Served) -> bool {
        self.others == other.others && self.lists == other.lists && self.paged == other.paged
    }
}

/// Removes the arrival times of events sent after the damage: they differ in every run.
fn without_later_arrival(body: Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8(body).unwrap();
    if !text.contains("\"e300\"") && !text.contains(&id(OPERATIONS + 5)) {
        return text.into();
    }
    let mut parts = text.split("\"arrived\":\"");
    let mut without = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        without.push_str(part.split_once('"').unwrap().1);
    }
    without.into()
}

fn entries(answer: &Answer, path: &str, name: &str) -> Vec<String> {
    let body = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.status, 200, "{path}: {body}");
    let body = answer.json();
    let entries = body[name].as_array().unwrap().iter();
    entries.map(Value::to_string).collect()
}

fn list(server: &Server, path: &str, name: &str) -> Vec<String> {
    entries(&server.get(path), path, name)
}

fn pages(server: &Server, mut path: String) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let answer = server.get(&path);
        all.extend(entries(&answer, &path, "operation_ids"));
        let Some(link) = answer.headers.get("link") else {
            return all;
        };
        let link = link.to_str().unwrap();
        path = link[1..link.find('>').unwrap()].to_owned();
    }
}

fn metric(server: &Server, name: &str) -> usize {
    let metrics = server.metrics();
    let mut lines = metrics.lines();
    let line = lines.find(|line| line.starts_with(name)).unwrap();
    line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as usize
}

/// The entries of `all` that `some` lacks. Fails if `some` has others or another order.
fn missing(all: &[String], some: &[String], what: &str) -> BTreeSet<String> {
    let mut left = some.iter().peekable();
    let mut missing = BTreeSet::new();
    for entry in all {
        match left.next_if(|next| *next == entry) {
            Some(_) => {}
            None => drop(missing.insert(entry.clone())),
        }
    }
    assert_eq!(left.next(), None, "{what}: wrong, or not where it was");
    missing
}

fn id_of(operation: &str) -> String {
    let document: Value = serde_json::from_str(operation).unwrap();
    document["operation_id"].as_str().unwrap().to_owned()
}

/// Compares the served content with the expected content. Nothing may be wrong, and the ledger must
/// report what is missing. Returns whether something is missing.
pub fn check_part(row: &str, server: &Server, expected: &Served) -> bool {
    let served = Served::by(server);
    let mut unreadable = BTreeSet::new();
    let mut is_other_missing = false;
    for (path, before) in &expected.others {
        let now = &served.others[path];
        match now.0 {
            500 if path.ends_with("/events") => is_other_missing = true,
            500 => drop(unreadable.insert(path.rsplit('/').next().unwrap().to_owned())),
            _ if now == before => {}
            _ => {
                let [now, before] = [now, before].map(|(status, body)| {
                    let text = String::from_utf8_lossy(body);
                    format!("{status} {:.1000}", text)
                });
                panic!("{row}: {path} is {now}\nand was {before}");
            }
        }
    }
    for (path, _) in LISTS {
        let missing = missing(&expected.lists[path], &served.lists[path], path);
        match path {
            DETAILS => unreadable.extend(missing.iter().map(|entry| id_of(entry))),
            _ if missing.is_empty() => {}
            "/v1/dead-letters" | "/v1/notifications?limit=1000" => is_other_missing = true,
            // The first list shows whether these operations are missing.
            _ => {}
        }
    }
    let all = &served.lists["/v1/operations"];
    for (before, now) in expected.paged.iter().zip(&served.paged) {
        missing(before, now, "pages");
        assert_eq!(
            now.len(),
            all.len(),
            "{row}: pages leave out more than the list"
        );
    }
    let counted = metric(server, "opledger_unreadable_operations");
    assert_eq!(
        counted,
        unreadable.len(),
        "{row}: counted, and {unreadable:?}"
    );
    let ready = server.get("/readyz");
    let text = String::from_utf8_lossy(&ready.body);
    let is_missing = is_other_missing || !unreadable.is_empty();
    if is_missing {
        assert_eq!(ready.status, 503, "{row}: {text}");
        assert!(text.contains("cannot be read"), "{row}: {text}");
        assert!(text.contains("opledger rebuild"), "{row}: {text}");
    }
    if !is_missing {
        assert!(
            served.is(expected),
            "{row}: something is missing and not reported"
        );
    }
    is_missing
}
