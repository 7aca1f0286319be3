//! What both adapters of the port have to do.

use super::memory::Memory;
use super::rocks::{MemoryBudget, Rocks};
use super::{Batch, Db, Direction, Durability, Family, view};
use std::ops::ControlFlow;

fn on_both(test: impl Fn(&dyn Db)) {
    test(&Memory::default());
    let folder = tempfile::tempdir().expect("a folder");
    let memory = MemoryBudget {
        block_cache: 1 << 20,
        write_buffers: 1 << 20,
    };
    test(&Rocks::open(folder.path(), Family::LEDGER, memory).expect("opens"));
}

fn write(db: &dyn Db, fill: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::default();
    fill(&mut batch);
    assert!(!batch.is_empty());
    db.write(&batch, Durability::Buffered).expect("writes");
}

fn keys(db: &dyn Db, family: Family) -> Vec<String> {
    let mut keys = Vec::new();
    view(db, |view| {
        view.scan(family, super::ALL, Direction::Forward, &mut |key, _| {
            keys.push(String::from_utf8_lossy(key).into_owned());
            ControlFlow::Continue(())
        })
    })
    .expect("readable");
    keys
}

/// The history, because RocksDB finds its rows by a prefix, and packs them.
#[test]
fn a_deleted_range_has_no_rows_but_those_that_the_batch_puts() {
    on_both(|db| {
        let all = ["..a\0one", "..b\0one", "..b\0two", "..c\0one", "..d\0one"];
        write(db, |batch| {
            for key in all {
                batch.put(Family::History, key.as_bytes(), b"row");
                batch.put(Family::State, key.as_bytes(), b"row");
            }
        });
        let held = db.hold().expect("held");
        write(db, |batch| {
            batch.put(Family::History, b"..b\0two", b"a new row");
            batch.delete_range(Family::History, b"..b"..b"..d");
            batch.delete(Family::History, b"..d\0one");
        });
        assert_eq!(keys(db, Family::History), ["..a\0one", "..b\0two"]);
        assert_eq!(keys(db, Family::State), all, "another family");
        let get = |key: &str| db.get(Family::History, key.as_bytes()).expect("readable");
        assert_eq!(get("..b\0two").as_deref(), Some(&b"a new row"[..]));
        assert_eq!(get("..b\0one"), None);
        let several = db.multi_get(Family::History, &[b"..a\0one", b"..c\0one"]);
        assert_eq!(several, [Ok(Some(b"row".to_vec())), Ok(None)]);
        let before = super::view_held(&*held, |view| view.get(Family::History, b"..c\0one"));
        assert_eq!(before, Ok(Some(b"row".to_vec())), "an earlier read point");
    });
}

#[test]
fn a_truncated_batch_deletes_no_range_that_was_added_since() {
    on_both(|db| {
        write(db, |batch| {
            batch.put(Family::State, b"one", b"row");
            let length = batch.length();
            batch.delete_range(Family::State, super::ALL);
            batch.put(Family::State, b"two", b"row");
            batch.truncate(length);
        });
        assert_eq!(keys(db, Family::State), ["one"]);
    });
}
