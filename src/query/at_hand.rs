//! Documents that were read lately, as they are sent. One is given out without a
//! look at the store for as long as the position is the same that it was read at;
//! after that the row is compared, and only a new one is decoded and rendered.

use super::document::bytes;
use super::operation::{at_hand, with_operation};
use super::progress::Applied;
use super::state;
use crate::store::{self, Cached, Db, Family, Result, keys};
use crate::wire::document::Bodies;
use crate::wire::snapshot_v1;
use crate::wire::time::TimeStyle;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// As it is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    pub bytes: Bytes,
    /// A digest of the bytes in quotes, as a strong entity tag.
    pub etag: Bytes,
}

impl Document {
    pub fn new(bytes: Vec<u8>) -> Document {
        let digest = blake3::hash(&bytes).to_hex();
        Document {
            bytes: bytes.into(),
            etag: format!("\"{}\"", &digest[..32]).into(),
        }
    }
}

/// What memory alone can say.
#[derive(Debug, PartialEq)]
pub enum Quick {
    Found(Document),
    /// There is no document.
    Missing,
    /// Ask [`Documents::read`], on a thread that may wait.
    NeedsDisk,
}

pub struct Documents {
    times: TimeStyle,
    kept: quick_cache::sync::Cache<Box<str>, Arc<Kept>, ByBytes>,
}

struct Kept {
    /// Under the operation's key. The document follows from it alone, or from what it
    /// names, which never changes.
    row: Vec<u8>,
    document: Document,
    /// The newest version of the store that is known to have this row.
    seen: AtomicU64,
}

#[derive(Clone)]
struct ByBytes;

impl quick_cache::Weighter<Box<str>, Arc<Kept>> for ByBytes {
    fn weight(&self, id: &Box<str>, kept: &Arc<Kept>) -> u64 {
        // What the cache, the counts and the tag need for an entry is about 300 bytes.
        (id.len() + kept.row.len() + kept.document.bytes.len() + 300) as u64
    }
}

impl Documents {
    /// Keeps up to `capacity` bytes.
    pub fn new(times: TimeStyle, capacity: u64) -> Documents {
        // An operation with its document takes some two kilobytes.
        let expected = (capacity / 2048) as usize;
        Documents {
            times,
            kept: quick_cache::sync::Cache::with_weighter(expected, capacity, ByBytes),
        }
    }

    /// At least as new as `applied`, which must have been taken before.
    pub fn get(&self, db: &dyn Db, applied: &Applied, operation_id: &str) -> Result<Quick> {
        let kept = self.kept.get(operation_id);
        if let Some(kept) = &kept
            && kept.seen.load(Ordering::Relaxed) >= applied.version
        {
            return Ok(Quick::Found(kept.document.clone()));
        }
        let key = keys::operation(operation_id);
        let row = match db.get_cached(Family::State, &key)? {
            Cached::Unknown => return Ok(Quick::NeedsDisk),
            Cached::Known(None) => return Ok(Quick::Missing),
            Cached::Known(Some(row)) => row,
        };
        if let Some(kept) = kept.filter(|kept| kept.row == row) {
            kept.seen.fetch_max(applied.version, Ordering::Relaxed);
            return Ok(Quick::Found(kept.document.clone()));
        }
        let Cached::Known(snapshot) = state::follow_cached(db, &key, &row)? else {
            return Ok(Quick::NeedsDisk);
        };
        let snapshot = snapshot.unwrap_or_default();
        let Some(op) = at_hand(&snapshot) else {
            return Ok(Quick::NeedsDisk);
        };
        Ok(match bytes(operation_id, &op, Bodies::Shown, &self.times) {
            None => Quick::Missing,
            Some(document) => {
                let document = Document::new(document);
                self.keep(operation_id, applied, row, &document);
                Quick::Found(document)
            }
        })
    }

    /// The same, with what only the disk can tell.
    pub fn read(
        &self,
        db: &dyn Db,
        applied: &Applied,
        operation_id: &str,
    ) -> Result<Option<Document>> {
        store::view(db, |view| {
            let key = keys::operation(operation_id);
            let Some(row) = state::row(view, &key)? else {
                return Ok(None);
            };
            let snapshot = state::follow(view, &key, row.clone())?;
            let document = with_operation(view, operation_id, &snapshot, Bodies::Shown, |op| {
                bytes(operation_id, op, Bodies::Shown, &self.times)
            })?;
            let document = document.map(Document::new);
            // Lanes in rows of their own change while this row stays.
            if let (Some(document), Ok((_, None))) = (&document, snapshot_v1::decode(&snapshot)) {
                self.keep(operation_id, applied, row, document);
            }
            Ok(document)
        })
    }

    fn keep(&self, operation_id: &str, applied: &Applied, row: Vec<u8>, document: &Document) {
        let kept = Kept {
            row,
            document: document.clone(),
            seen: AtomicU64::new(applied.version),
        };
        self.kept.insert(operation_id.into(), Arc::new(kept));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Operation;
    use crate::store::memory::Memory;
    use crate::store::{Batch, Durability};
    use crate::wire::cloudevent::decode_structured;

    /// Writes an operation with a request of this body.
    fn write(db: &Memory, body: &str) {
        let event = format!(
            r#"{{"specversion":"1.0","id":"1","source":"/s","subject":"op",
                "type":"opledger.operation.created.v1","time":"2026-01-01T00:00:00Z",
                "data":{{"request":{{"uri":"/u","method":"POST","body":"{body}"}}}}}}"#
        );
        let mut op = Operation::default();
        op.absorb(decode_structured(event.as_bytes()).unwrap());
        let mut batch = Batch::default();
        let row = snapshot_v1::append(&op, None, Vec::new());
        batch.put(Family::State, &keys::operation("op"), &row);
        db.write(&batch, Durability::Buffered).unwrap();
    }

    fn applied(version: u64) -> Applied {
        Applied {
            version,
            ..Applied::default()
        }
    }

    fn get(documents: &Documents, db: &Memory, version: u64) -> Bytes {
        match documents.get(db, &applied(version), "op").unwrap() {
            Quick::Found(document) => document.bytes,
            other => panic!("{other:?}"),
        }
    }

    fn shows(document: &Bytes, body: &str) -> bool {
        String::from_utf8_lossy(document).contains(&format!("\"body\":\"{body}\""))
    }

    #[test]
    fn what_was_applied_is_in_the_document() {
        let (db, documents) = (
            Memory::default(),
            Documents::new(TimeStyle::default(), 1 << 20),
        );
        for version in 0..100 {
            let body = version.to_string();
            write(&db, &body);
            assert!(shows(&get(&documents, &db, version), &body), "{body}");
            assert!(shows(&get(&documents, &db, version), &body), "{body}");
        }
        // One that looked at the position earlier gets no less than it asked for.
        assert!(shows(&get(&documents, &db, 3), "99"));
    }

    #[test]
    fn a_document_is_rendered_once_while_its_row_stays() {
        let (db, documents) = (
            Memory::default(),
            Documents::new(TimeStyle::default(), 1 << 20),
        );
        write(&db, "first");
        let first = get(&documents, &db, 0);
        assert_eq!(get(&documents, &db, 0).as_ptr(), first.as_ptr());
        assert_eq!(get(&documents, &db, 7).as_ptr(), first.as_ptr());
        // From the disk it is the same, and not older.
        write(&db, "second");
        let read = documents.read(&db, &applied(8), "op").unwrap().unwrap();
        assert!(shows(&read.bytes, "second"));
        assert_eq!(get(&documents, &db, 8).as_ptr(), read.bytes.as_ptr());
    }

    /// Each value changed by itself and each member left out by itself.
    fn variants(value: &serde_json::Value) -> Vec<serde_json::Value> {
        use serde_json::Value;
        let mut all = Vec::new();
        match value {
            Value::Object(members) => {
                for (name, inner) in members {
                    let mut fewer = members.clone();
                    fewer.remove(name);
                    all.push(Value::Object(fewer));
                    for inner in variants(inner) {
                        let mut other = members.clone();
                        other.insert(name.clone(), inner);
                        all.push(Value::Object(other));
                    }
                }
            }
            Value::Array(elements) => {
                for (at, inner) in elements.iter().enumerate() {
                    for inner in variants(inner) {
                        let mut other = elements.clone();
                        other[at] = inner;
                        all.push(Value::Array(other));
                    }
                }
            }
            // As long as before.
            Value::String(text) => {
                let shifted = text.bytes().map(|byte| char::from(byte ^ 1));
                all.push(Value::String(shifted.collect()));
            }
            other => all.push((other.as_u64().unwrap() + 1).into()),
        }
        all
    }

    #[test]
    fn the_tag_follows_from_every_field_of_a_document() {
        let events = include_str!("../../tests/scenarios/03-one-fails-rollback-ok.events.jsonl");
        let mut op = Operation::default();
        for line in events.lines() {
            op.absorb(decode_structured(line.as_bytes()).unwrap());
        }
        op.absorb(decode_structured(events.lines().next().unwrap().as_bytes()).unwrap());
        let document = bytes("op", &op, Bodies::Shown, &TimeStyle::default()).unwrap();
        let mut document: serde_json::Value = serde_json::from_slice(&document).unwrap();
        // Only while an operation executes.
        document["sub_status"] = "half".into();
        let all = variants(&document);
        let names = [
            "status",
            "response",
            "rollbacks",
            "target_clusters",
            "request",
        ];
        assert!(
            names.iter().all(|name| document.get(name).is_some()),
            "{document}"
        );
        assert!(all.len() > 40, "{}", all.len());
        let tag = |value: &serde_json::Value| Document::new(value.to_string().into()).etag;
        let mut tags = std::collections::BTreeMap::from([(tag(&document), &document)]);
        for variant in &all {
            if let Some(same) = tags.insert(tag(variant), variant) {
                panic!("one tag for {same} and {variant}");
            }
        }
    }

    #[test]
    fn without_room_nothing_is_kept() {
        let (db, documents) = (Memory::default(), Documents::new(TimeStyle::default(), 0));
        write(&db, "first");
        assert!(shows(&get(&documents, &db, 0), "first"));
        assert_eq!(documents.kept.len(), 0);
    }
}
