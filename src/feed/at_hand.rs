//! Documents that were read lately, as they are sent. One is given out without a
//! look at the store for as long as the position is the same that it was read at;
//! after that the row is compared, and only a new one is decoded and rendered. A large one
//! is in memory once, whoever is sent it, and also where it is too large to be kept.

use super::progress::Applied;
use super::unsent::{self, Large, NoRoom, Unsent};
use crate::domain::{Operation, document};
use crate::rows::operation::{at_hand, with_operation};
use crate::rows::state;
use crate::store::{self, Cached, Db, View};
use crate::wire::document::{Bodies, render};
use crate::wire::snapshot;
use crate::wire::time::TimeStyle;
use bytes::Bytes;
use hashbrown::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// As it is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    pub bytes: Bytes,
    /// A digest of the bytes in quotes, as a strong entity tag.
    pub etag: Bytes,
    /// Of its operation.
    pub has_ended: bool,
}

/// Why a document is not given out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

type Result<T> = std::result::Result<T, Error>;

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
    unsent: Arc<Unsent>,
    kept: quick_cache::sync::Cache<Box<str>, Arc<Kept>, ByBytes>,
    /// Large ones that somebody is sent, by operation.
    large: Mutex<HashMap<Box<str>, Sent>>,
}

struct Kept {
    /// Under the operation's key. The document follows from it alone, or from what it
    /// names, which never changes.
    row: Vec<u8>,
    document: Document,
    /// The newest version of the store that is known to have this row.
    seen: AtomicU64,
}

struct Sent {
    /// `None` where the document does not follow from it alone.
    row: Option<Vec<u8>>,
    etag: Bytes,
    has_ended: bool,
    bytes: Weak<Large>,
}

impl Sent {
    fn document(&self) -> Option<Document> {
        Some(Document {
            bytes: Large::bytes(self.bytes.upgrade()?),
            etag: self.etag.clone(),
            has_ended: self.has_ended,
        })
    }
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
    pub fn new(times: TimeStyle, capacity: u64, unsent: Arc<Unsent>) -> Documents {
        // An operation with its document takes some two kilobytes.
        let expected = (capacity / 2048) as usize;
        Documents {
            times,
            unsent,
            kept: quick_cache::sync::Cache::with_weighter(expected, capacity, ByBytes),
            large: Mutex::default(),
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
        let row = match state::snapshot_cached(db, operation_id)? {
            Cached::Unknown => return Ok(Quick::NeedsDisk),
            Cached::Known(None) => return Ok(Quick::Missing),
            Cached::Known(Some(row)) => row,
        };
        if let Some(kept) = kept.filter(|kept| kept.row == row) {
            kept.seen.fetch_max(applied.version, Ordering::Relaxed);
            return Ok(Quick::Found(kept.document.clone()));
        }
        let Some(op) = at_hand(&row) else {
            return Ok(Quick::NeedsDisk);
        };
        let Some(rendered) = self.render(operation_id, &op) else {
            return Ok(Quick::Missing);
        };
        let document = self.share(operation_id, rendered, Some(&row))?;
        self.keep(operation_id, applied, row, &document);
        Ok(Quick::Found(document))
    }

    /// The same, with what only the disk can tell.
    pub fn read(
        &self,
        db: &dyn Db,
        applied: &Applied,
        operation_id: &str,
    ) -> Result<Option<Document>> {
        let mut found = Ok(None);
        store::view(db, |view| {
            found = self.read_in(view, applied, operation_id);
            Ok(())
        })?;
        found
    }

    /// The same in a view of the store that is no older than `applied`.
    pub fn read_in(
        &self,
        view: &dyn View,
        applied: &Applied,
        operation_id: &str,
    ) -> Result<Option<Document>> {
        let Some(row) = state::snapshot(view, operation_id)? else {
            return Ok(None);
        };
        if let Some(sent) = self.large().get(operation_id)
            && sent.row.as_ref() == Some(&row)
            && let Some(document) = sent.document()
        {
            return Ok(Some(document));
        }
        let rendered = with_operation(view, operation_id, &row, Bodies::Shown, |op| {
            self.render(operation_id, op)
        })?;
        let Some(rendered) = rendered else {
            return Ok(None);
        };
        // Lanes in rows of their own change while this row stays.
        let is_all = matches!(snapshot::decode(&row), Ok((_, None)));
        let document = self.share(operation_id, rendered, is_all.then_some(&row))?;
        if is_all {
            self.keep(operation_id, applied, row, &document);
        }
        Ok(Some(document))
    }

    /// The document of an operation that has been read already.
    pub fn rendered(&self, operation_id: &str, op: &Operation) -> Result<Option<Document>> {
        let rendered = self.render(operation_id, op);
        let document = rendered.map(|rendered| self.share(operation_id, rendered, None));
        document.transpose()
    }

    fn render(&self, operation_id: &str, op: &Operation) -> Option<Rendered> {
        let document = document(operation_id, op)?;
        let mut bytes = Vec::with_capacity(1024);
        render(&document, Bodies::Shown, &self.times, &mut bytes);
        Some(Rendered {
            bytes,
            has_ended: document.status.has_ended(),
        })
    }

    /// As it is given out: a large one shares the memory of its equal.
    fn share(
        &self,
        operation_id: &str,
        rendered: Rendered,
        row: Option<&Vec<u8>>,
    ) -> Result<Document> {
        let Rendered { bytes, has_ended } = rendered;
        let etag = etag(&bytes);
        if bytes.len() <= unsent::SMALL {
            return Ok(Document {
                bytes: bytes.into(),
                etag,
                has_ended,
            });
        }
        let mut large = self.large();
        if let Some(sent) = large.get(operation_id)
            && sent.etag == etag
            && let Some(document) = sent.document()
        {
            return Ok(document);
        }
        let bytes = self.unsent.hold_large(bytes)?;
        large.retain(|_, sent| sent.bytes.strong_count() > 0);
        let sent = Sent {
            row: row.cloned(),
            etag: etag.clone(),
            has_ended,
            bytes: Arc::downgrade(&bytes),
        };
        large.insert(operation_id.into(), sent);
        Ok(Document {
            bytes: Large::bytes(bytes),
            etag,
            has_ended,
        })
    }

    fn large(&self) -> MutexGuard<'_, HashMap<Box<str>, Sent>> {
        self.large
            .lock()
            .expect("nothing panics while it holds the large ones")
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

/// A digest of the bytes in quotes, as a strong entity tag.
fn etag(bytes: &[u8]) -> Bytes {
    let digest = blake3::hash(bytes).to_hex();
    format!("\"{}\"", &digest[..32]).into()
}

struct Rendered {
    bytes: Vec<u8>,
    has_ended: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Operation;
    use crate::store::memory::Memory;
    use crate::store::{Batch, Durability, Family, keys};
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
        let row = snapshot::append(&op, None, Vec::new());
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
    fn applied_events_are_in_the_document() {
        let (db, documents) = (
            Memory::default(),
            Documents::new(TimeStyle::default(), 1 << 20, Unsent::new(1 << 30)),
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
            Documents::new(TimeStyle::default(), 1 << 20, Unsent::new(1 << 30)),
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
        let documents = Documents::new(TimeStyle::default(), 0, Unsent::new(1 << 30));
        let document = documents.rendered("op", &op).unwrap().unwrap().bytes;
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
        let tag = |value: &serde_json::Value| etag(value.to_string().as_bytes());
        let mut tags = std::collections::BTreeMap::from([(tag(&document), &document)]);
        for variant in &all {
            if let Some(same) = tags.insert(tag(variant), variant) {
                panic!("one tag for {same} and {variant}");
            }
        }
    }

    #[test]
    fn a_large_document_is_in_memory_once_for_all_its_readers() {
        let (db, unsent) = (Memory::default(), Unsent::new(2 << 20));
        let documents = Documents::new(TimeStyle::default(), 0, unsent.clone());
        write(&db, &"x".repeat(1 << 20));
        let first = documents.read(&db, &applied(0), "op").unwrap().unwrap();
        let second = documents.read(&db, &applied(1), "op").unwrap().unwrap();
        assert_eq!(first.bytes.as_ptr(), second.bytes.as_ptr());
        let held = unsent.held();
        assert_eq!(held, first.bytes.len() as u64);
        // What it is after a change is another one, and there is no room for a third.
        write(&db, &"y".repeat((1 << 20) - 1000));
        let third = documents.read(&db, &applied(2), "op").unwrap().unwrap();
        assert_eq!(unsent.held(), held + third.bytes.len() as u64);
        write(&db, &"z".repeat(1 << 20));
        let refused = documents.read(&db, &applied(3), "op");
        assert!(matches!(refused, Err(Error::NoRoom(_))), "{refused:?}");
        drop((first, second, third));
        assert_eq!(unsent.held(), 0);
        assert!(documents.read(&db, &applied(3), "op").unwrap().is_some());
    }

    #[test]
    fn without_capacity_nothing_is_cached() {
        let (db, documents) = (
            Memory::default(),
            Documents::new(TimeStyle::default(), 0, Unsent::new(1 << 30)),
        );
        write(&db, "first");
        assert!(shows(&get(&documents, &db, 0), "first"));
        assert_eq!(documents.kept.len(), 0);
    }
}
