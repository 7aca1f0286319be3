//! The changes of one batch to the list entries of its operations, with an index that finds the
//! operations that a filter may select: a stream that selects few of them does not read the
//! others. The first reader builds the index, for all readers.

use crate::domain::{RollbackResult, Status};
use crate::rows::entry::{EntryChange, Moved};
use crate::rows::filter::Filter;
use crate::wire::list_entry;
use hashbrown::HashMap;
use std::sync::OnceLock;
use xxhash_rust::xxh3::xxh3_64;

/// The changes of a batch to the entries of its operations, in the order of their ids.
pub struct ChangedEntries {
    entries: Vec<EntryChange>,
    index: OnceLock<Index>,
}

impl ChangedEntries {
    pub fn new(entries: Vec<EntryChange>) -> ChangedEntries {
        ChangedEntries {
            entries,
            index: OnceLock::new(),
        }
    }

    /// Approximately, with their index.
    pub fn bytes(&self) -> usize {
        let rows: usize = self.entries.iter().map(EntryChange::bytes).sum();
        rows + self.entries.len() * (size_of::<Moved>() + size_of::<EntryChange>() + 64)
    }

    /// The keys of all of them; `None` if those of some are not known.
    pub fn keys(&self) -> Option<impl ExactSizeIterator<Item = Key>> {
        let index = self.index();
        index
            .unsure
            .is_empty()
            .then(|| index.places.keys().copied())
    }

    fn index(&self) -> &Index {
        self.index.get_or_init(|| Index::of(&self.entries))
    }

    /// The first from `from` on that the filter may be about.
    pub fn next(&self, filter: &Filter, mut from: usize) -> Option<usize> {
        let index = self.index();
        loop {
            let place = index.next(filter, from)?;
            if index.moved.get(place)?.concerns(filter) {
                return Some(place);
            }
            from = place + 1;
        }
    }
}

#[derive(Default)]
struct Index {
    moved: Vec<Moved>,
    /// By property of an entry, the indexes of the operations with that property.
    places: HashMap<Key, Vec<u32>>,
    /// Operations whose entry does not have all clusters or rollbacks.
    unsure: Vec<u32>,
}

/// A property that operations can be found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    Status(Status),
    /// By its digest: two that share one are distinguished by the entry.
    Cluster(u64),
    Rollbacks(RollbackResult),
}

impl Key {
    /// Every operation that the filter may select has one of these keys, or is unsure. Without
    /// keys, the filter is compared with every operation.
    pub fn of(filter: &Filter) -> Vec<Key> {
        if let Some(id) = &filter.cluster_id {
            vec![Key::Cluster(xxh3_64(id.as_bytes()))]
        } else if let Some(result) = filter.rollback_result {
            vec![Key::Rollbacks(result)]
        } else {
            filter.statuses.iter().map(|s| Key::Status(*s)).collect()
        }
    }
}

impl Index {
    fn of(entries: &[EntryChange]) -> Index {
        let mut index = Index::default();
        let moved: Vec<Moved> = entries.iter().cloned().map(EntryChange::moved).collect();
        for (place, moved) in moved.iter().enumerate() {
            index.add(place as u32, moved);
        }
        index.moved = moved;
        index
    }

    fn add(&mut self, place: u32, moved: &Moved) {
        for entry in moved.entries() {
            self.put(Key::Status(entry.listed.status), place);
            let Some(listed) = list_entry::decode(&entry.row) else {
                push(&mut self.unsure, place);
                continue;
            };
            match listed.rollbacks() {
                Some(Some(result)) => self.put(Key::Rollbacks(result), place),
                Some(None) => {}
                None => push(&mut self.unsure, place),
            }
            match listed.clusters() {
                Some(clusters) => {
                    for id in clusters {
                        self.put(Key::Cluster(xxh3_64(id)), place);
                    }
                }
                None => push(&mut self.unsure, place),
            }
        }
    }

    fn put(&mut self, key: Key, place: u32) {
        push(self.places.entry(key).or_default(), place);
    }

    /// The first place from `from` on where there may be one.
    fn next(&self, filter: &Filter, from: usize) -> Option<usize> {
        let keys = Key::of(filter);
        if keys.is_empty() {
            return Some(from);
        }
        let first = |places: &Vec<u32>| {
            let after = places.partition_point(|place| (*place as usize) < from);
            places.get(after).map(|place| *place as usize)
        };
        let found = keys.iter().filter_map(|key| self.places.get(key));
        found.chain([&self.unsure]).filter_map(first).min()
    }
}

/// Places come in their order, some of them twice.
fn push(places: &mut Vec<u32>, place: u32) {
    if places.last() != Some(&place) {
        places.push(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::effects::Listed;
    use crate::domain::{Method, Timestamp, Traits};
    use crate::rows::entry::Entry;

    fn entry(n: usize) -> Entry {
        let many: Vec<String> = (0..300).map(|n| format!("c-{n}")).collect();
        let clusters = match n % 5 {
            0 => vec![],
            1 => vec!["a"],
            2 => vec!["a", "b"],
            3 => vec!["b"],
            _ => many.iter().map(String::as_str).collect(),
        };
        let rollbacks = [
            None,
            Some(RollbackResult::Failed),
            Some(RollbackResult::None),
        ][n % 3];
        let traits = Traits {
            clusters,
            rollbacks,
        };
        let traits = (!n.is_multiple_of(7)).then_some(&traits);
        let uri = ["/v1/x", "/v2/y"][n % 2];
        Entry {
            listed: Listed {
                occurred_time: Timestamp::from_millis(n as i64 * 1000),
                status: Status::ALL[n % Status::ALL.len()],
            },
            row: list_entry::encode(Method::Put, uri, traits).into(),
        }
    }

    #[test]
    fn the_index_finds_exactly_the_changes_that_a_filter_may_concern() {
        let moved: Vec<Moved> = (0..200)
            .map(|n| Moved {
                was: (n % 4 == 0).then(|| entry(n * 3 + 1)),
                is: (n % 11 != 0).then(|| entry(n)),
            })
            .collect();
        let changes = moved.iter().cloned().map(EntryChange::Moved);
        let entries = ChangedEntries::new(changes.collect());
        let some = Filter::default;
        let filters = [
            some(),
            Filter {
                cluster_id: Some("a".into()),
                ..some()
            },
            Filter {
                cluster_id: Some("none".into()),
                ..some()
            },
            Filter {
                rollback_result: Some(RollbackResult::Failed),
                method: Some(Method::Put),
                ..some()
            },
            Filter {
                statuses: vec![Status::Executing, Status::Failed],
                uri_prefix: Some("/v1".into()),
                ..some()
            },
            Filter {
                occurred_from: Some(Timestamp::from_millis(100_000)),
                ..some()
            },
        ];
        for filter in filters {
            let mut found = Vec::new();
            while let Some(place) = entries.next(&filter, found.last().map_or(0, |last| last + 1)) {
                found.push(place);
            }
            let concerned = moved.iter().enumerate();
            let concerned = concerned.filter(|(_, moved)| moved.concerns(&filter));
            let expected: Vec<usize> = concerned.map(|(place, _)| place).collect();
            assert_eq!(found, expected, "{filter:?}");
        }
    }
}
