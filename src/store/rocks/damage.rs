//! Damage of the store: which errors of RocksDB mean it, which families have it, and where a scan
//! continues after it.
//!
//! RocksDB checks each block that it reads. An iterator ends at a damaged block, and does not say
//! where the block ends. That is found by seeking.

use super::{Error, Result};
use crate::store::{Direction, Family};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

/// The binding returns only texts. These are RocksDB's own words for the cases that matter.
pub fn error(error: rocksdb::Error) -> Error {
    let text = error.to_string();
    let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
    if says(&["No space left on device"]) {
        return Error::NoSpace(text);
    }
    if says(&["lock hold by", "While lock file"]) {
        return Error::InUse(text);
    }
    if says(&["Column families not opened"]) {
        return Error::OtherFormat(text);
    }
    match error.kind() {
        rocksdb::ErrorKind::Corruption => Error::Corrupt(text),
        // A missing file does not come back.
        _ if says(&[
            "No such file or directory",
            "Is a directory",
            "Not a directory",
        ]) =>
        {
            Error::Corrupt(text)
        }
        _ => Error::Io(text),
    }
}

/// The error of a read. Data that the device cannot read counts as damaged.
fn read_error(failed: rocksdb::Error) -> Error {
    match error(failed) {
        Error::Io(text) if text.contains("Input/output error") => Error::Corrupt(text),
        other => other,
    }
}

/// Without the file that names the manifest, RocksDB would create an empty database and remove
/// the files of the old one.
pub fn check_current(folder: &Path) -> Result<()> {
    let entries = match folder.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return Err(Error::Corrupt(format!("{} is no folder", folder.display())));
        }
        Err(error) => return Err(Error::Io(format!("{}: {error}", folder.display()))),
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    let names: Vec<_> = names.collect();
    // An interrupted first start leaves this one.
    let first = OsStr::new("MANIFEST-000001");
    let is_of_one = |name: &&std::ffi::OsString| {
        let extension = Path::new(name).extension().and_then(OsStr::to_str);
        let is_manifest = name.to_str().is_some_and(|n| n.starts_with("MANIFEST-"));
        matches!(extension, Some("sst" | "blob" | "log")) || (is_manifest && **name != first)
    };
    if names.iter().any(|name| name == "CURRENT") {
        return Ok(());
    }
    match names.iter().find(is_of_one) {
        None => Ok(()),
        Some(name) => Err(Error::Corrupt(format!(
            "{} has {} and no CURRENT",
            folder.display(),
            Path::new(name).display()
        ))),
    }
}

/// The families in which something could not be read since the start.
#[derive(Default)]
pub struct DamagedFamilies(Mutex<BTreeSet<Family>>);

impl DamagedFamilies {
    /// The error of a read, noted if it means damage.
    pub fn note(&self, family: Family, failed: rocksdb::Error) -> Error {
        let error = read_error(failed);
        self.note_error(family, &error);
        error
    }

    pub fn note_error(&self, family: Family, error: &Error) {
        if matches!(error, Error::Corrupt(_)) && self.lock().insert(family) {
            tracing::error!(%error, rows = family.name(), "rows of the store cannot be read");
        }
    }

    pub fn families(&self) -> Vec<Family> {
        self.lock().iter().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Family>> {
        self.0
            .lock()
            .expect("nothing panics while it holds the families")
    }
}

/// The result of a seek.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeekResult {
    Key(Vec<u8>),
    /// No key from there on.
    End,
    Damaged,
}

/// Bytes of a key that are searched together, as one number.
const DIGITS: usize = 16;
/// Rounds of the search, each over the next bytes. Later bytes are ignored.
const ROUNDS: usize = 4;

/// The first key of `rest` from which rows can be read again; `None` if there is none. `seek`
/// finds the first key at or after its argument, or backward at or before it.
///
/// The search doubles its distance from the start of the damage until a row is readable, and then
/// bisects between the last unreadable place and the first readable one.
pub fn readable_again(
    rest: &Range<Vec<u8>>,
    direction: Direction,
    mut seek: impl FnMut(&[u8]) -> Result<SeekResult>,
) -> Result<Option<Vec<u8>>> {
    let mut range = rest.clone();
    let mut found = None;
    for _ in 0..ROUNDS {
        let Some((unreadable, end, key)) = nearest(&range, direction, &mut seek)? else {
            break;
        };
        found = key;
        // Between two consecutive numbers, more digits decide.
        range = match direction {
            Direction::Forward => range.start.max(unreadable)..end,
            Direction::Backward => end..range.end.min(unreadable),
        };
    }
    Ok(found)
}

type Nearest = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

/// Two keys that are neighbours as far as the digits go. Nothing can be read from the first one;
/// from the second one the key can.
fn nearest(
    range: &Range<Vec<u8>>,
    direction: Direction,
    seek: &mut impl FnMut(&[u8]) -> Result<SeekResult>,
) -> Result<Option<Nearest>> {
    let (start, end) = (&range.start, &range.end);
    let same = start.iter().zip(end).take_while(|(a, b)| a == b).count();
    let (prefix, digits) = (&end[..same], |key: &[u8]| number(&key[same..]));
    let (first, last) = (digits(start), digits(end));
    let key_at = |distance: u128| {
        let number = match direction {
            Direction::Forward => first + distance,
            Direction::Backward => last - distance,
        };
        [prefix, &number.to_be_bytes()[..]].concat()
    };
    let most = last.saturating_sub(first);
    let (mut bad, mut good) = (0, None);
    let mut distance = 1;
    while good.is_none() && bad < most {
        distance = distance.min(most);
        match seek(&key_at(distance))? {
            SeekResult::Damaged => bad = distance,
            SeekResult::Key(key) => good = Some((distance, Some(key))),
            SeekResult::End => good = Some((distance, None)),
        }
        distance = distance.saturating_mul(2);
    }
    let Some((mut good, mut key)) = good else {
        return Ok(None);
    };
    while good - bad > 1 {
        let middle = bad + (good - bad) / 2;
        match seek(&key_at(middle))? {
            SeekResult::Damaged => bad = middle,
            SeekResult::Key(found) => (good, key) = (middle, Some(found)),
            SeekResult::End => (good, key) = (middle, None),
        }
    }
    Ok(Some((key_at(bad), key_at(good), key)))
}

/// The first bytes of the key as a number, which sorts as keys do.
fn number(key: &[u8]) -> u128 {
    u128::from_be_bytes(crate::store::head::<DIGITS>(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ops::Bound;

    type Keys = BTreeSet<Vec<u8>>;

    /// Like an iterator of RocksDB over keys in damaged blocks: it ends at the first one.
    fn seek(keys: &Keys, damaged: &Keys, at: &[u8], direction: Direction) -> SeekResult {
        let found = match direction {
            Direction::Forward => keys.range(at.to_vec()..).next(),
            Direction::Backward => keys.range(..=at.to_vec()).next_back(),
        };
        match found {
            None => SeekResult::End,
            Some(key) if damaged.contains(key) => SeekResult::Damaged,
            Some(key) => SeekResult::Key(key.clone()),
        }
    }

    fn check(keys: &Keys, damaged: &Keys, direction: Direction) {
        let whole = vec![]..vec![0xFF];
        let mut seeks = 0;
        let found = readable_again(&whole, direction, |at| {
            seeks += 1;
            Ok(seek(keys, damaged, at, direction))
        });
        let is_readable = |key: &&Vec<u8>| !damaged.contains(*key);
        let expected = match direction {
            Direction::Forward => keys.iter().find(is_readable),
            Direction::Backward => keys.iter().rev().find(is_readable),
        };
        assert_eq!(found.unwrap().as_ref(), expected, "{damaged:?}");
        assert!(seeks <= ROUNDS * 2 * 8 * (DIGITS + 1), "{seeks}");
    }

    proptest! {
        #[test]
        fn rows_directly_after_a_damaged_range_are_read(
            keys in prop::collection::btree_set("[ab0]{1,3}(operation-with-a-long-id)?[ab]{0,20}", 1..40),
            count in 0usize..40,
        ) {
            let keys: Keys = keys.into_iter().map(String::into_bytes).collect();
            let first = keys.iter().take(count).cloned().collect();
            check(&keys, &first, Direction::Forward);
            let last = keys.iter().rev().take(count).cloned().collect();
            check(&keys, &last, Direction::Backward);
        }
    }

    #[test]
    fn of_several_damaged_ranges_none_is_reported_as_readable() {
        let keys: Keys = (0..2000u32)
            .map(|n| format!("key-{n:05}").into_bytes())
            .collect();
        for direction in [Direction::Forward, Direction::Backward] {
            let damaged: Keys = keys.iter().filter(|key| key[7] % 2 == 0).cloned().collect();
            let ends = [keys.first(), keys.last()].map(|key| key.unwrap().clone());
            let damaged: Keys = damaged.into_iter().chain(ends).collect();
            let whole = vec![]..vec![0xFF];
            let found = readable_again(&whole, direction, |at| {
                Ok(seek(&keys, &damaged, at, direction))
            });
            let found = found.unwrap().unwrap();
            let rest: (Bound<&[u8]>, _) = (Bound::Included(&found), Bound::Unbounded);
            assert!(keys.range::<[u8], _>(rest).next().is_some());
            assert!(!damaged.contains(&found));
        }
    }
}
