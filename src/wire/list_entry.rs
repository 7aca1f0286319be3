//! The value of a list entry by status: what lists can be filtered by without reading the
//! operation. The row: its byte, method, result of the rollback, whether the URI is truncated, the
//! URI after its length (one byte), then each cluster after its length (two bytes), or one length
//! of 0xFFFF if the clusters do not fit.

use super::stored::LIST_ENTRY;
use crate::domain::{Method, RollbackResult, Traits};

/// Bytes of a URI that are kept: most are shorter.
const URI: usize = 128;
/// Bytes of cluster ids that are kept.
const CLUSTERS: usize = 512;
const TOO_MANY: u16 = 0xFFFF;
/// The place of a rollback result that is not known here.
const UNKNOWN: u8 = 9;

/// `traits` is `None` for an operation whose lanes are not all loaded.
pub fn encode(method: Method, uri: &str, traits: Option<&Traits>) -> Vec<u8> {
    let kept = &uri[..uri.floor_char_boundary(URI)];
    let clusters = traits.map(|traits| &traits.clusters);
    let clusters = clusters.filter(|ids| ids.iter().map(|id| id.len()).sum::<usize>() <= CLUSTERS);
    let length = clusters.map_or(2, |ids| ids.iter().map(|id| 2 + id.len()).sum());
    // Exactly, since it is kept as it is.
    let mut row = Vec::with_capacity(5 + kept.len() + length);
    row.push(LIST_ENTRY);
    let method = Method::ALL.iter().position(|m| *m == method);
    row.push(method.expect("all of them") as u8);
    row.push(match traits {
        Some(traits) => result(traits.rollbacks),
        None => UNKNOWN,
    });
    row.push(u8::from(kept.len() < uri.len()));
    row.push(kept.len() as u8);
    row.extend_from_slice(kept.as_bytes());
    match clusters {
        Some(clusters) => {
            for id in clusters {
                row.extend_from_slice(&(id.len() as u16).to_be_bytes());
                row.extend_from_slice(id.as_bytes());
            }
        }
        None => row.extend_from_slice(&TOO_MANY.to_be_bytes()),
    }
    row
}

fn result(result: Option<RollbackResult>) -> u8 {
    match result {
        None => 0,
        Some(RollbackResult::Completed) => 1,
        Some(RollbackResult::Failed) => 2,
        Some(RollbackResult::None) => 3,
    }
}

/// The content of a row. `None`: read the operation.
#[derive(Debug, Clone, Copy)]
pub struct ListEntry<'r> {
    method: u8,
    result: u8,
    is_cut: bool,
    uri: &'r [u8],
    clusters: &'r [u8],
}

/// `None` for a row that is damaged, or of an unknown encoding.
pub fn decode(row: &[u8]) -> Option<ListEntry<'_>> {
    let (head, rest) = row.split_first_chunk::<5>()?;
    let [LIST_ENTRY, method, result, is_cut, length] = *head else {
        return None;
    };
    let (uri, clusters) = rest.split_at_checked(length.into())?;
    Some(ListEntry {
        method,
        result,
        is_cut: is_cut != 0,
        uri,
        clusters,
    })
}

impl ListEntry<'_> {
    pub fn has_method(&self, method: Method) -> bool {
        Method::ALL.get(usize::from(self.method)) == Some(&method)
    }

    pub fn has_rollbacks(&self, wanted: RollbackResult) -> Option<bool> {
        (self.result != UNKNOWN).then_some(self.result == result(Some(wanted)))
    }

    /// `None` if it is not known here.
    pub fn rollbacks(&self) -> Option<Option<RollbackResult>> {
        use RollbackResult::{Completed, Failed};
        let results = [
            None,
            Some(Completed),
            Some(Failed),
            Some(RollbackResult::None),
        ];
        results.get(usize::from(self.result)).copied()
    }

    /// `None` if they are not known here.
    pub fn clusters(&self) -> Option<Vec<&[u8]>> {
        self.each_cluster().collect()
    }

    /// Ends with `None` where clusters did not fit: their length is more than there is.
    fn each_cluster(&self) -> impl Iterator<Item = Option<&[u8]>> {
        let mut rest = self.clusters;
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk::<2>()?;
            let cluster = after.split_at_checked(u16::from_be_bytes(*length).into());
            rest = cluster.map_or(&[], |(_, after)| after);
            Some(cluster.map(|(id, _)| id))
        })
    }

    pub fn has_uri(&self, prefix: &str) -> Option<bool> {
        let prefix = prefix.as_bytes();
        if self.is_cut && prefix.len() > self.uri.len() && prefix.starts_with(self.uri) {
            return None;
        }
        Some(self.uri.starts_with(prefix))
    }

    pub fn has_cluster(&self, wanted: &str) -> Option<bool> {
        let mut each = self.each_cluster();
        let decided = each.find(|id| id.is_none_or(|id| id == wanted.as_bytes()));
        decided.map_or(Some(false), |id| id.map(|_| true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traits(clusters: Vec<&str>, rollbacks: Option<RollbackResult>) -> Traits<'_> {
        Traits {
            clusters,
            rollbacks,
        }
    }

    #[test]
    fn a_list_entry_has_what_was_encoded() {
        let known = traits(vec!["1", "cluster-2"], Some(RollbackResult::Failed));
        let row = encode(Method::Put, "/v1/slices", Some(&known));
        let row = decode(&row).unwrap();
        assert!(row.has_method(Method::Put) && !row.has_method(Method::Post));
        assert_eq!(row.has_rollbacks(RollbackResult::Failed), Some(true));
        assert_eq!(row.has_rollbacks(RollbackResult::None), Some(false));
        assert_eq!(row.has_uri("/v1/"), Some(true));
        assert_eq!(row.has_uri("/v1/slices/2"), Some(false));
        assert_eq!(row.has_cluster("cluster-2"), Some(true));
        assert_eq!(row.has_cluster("cluster"), Some(false));
        assert_eq!(row.clusters(), Some(vec![&b"1"[..], b"cluster-2"]));
        assert_eq!(row.rollbacks(), Some(Some(RollbackResult::Failed)));
    }

    #[test]
    fn values_without_room_are_left_to_the_document() {
        let long = format!("/{}", "é".repeat(100));
        let many: Vec<String> = (0..300).map(|n| format!("c{n}")).collect();
        let many = traits(many.iter().map(String::as_str).collect(), None);
        let row = encode(Method::Post, &long, Some(&many));
        let row = decode(&row).unwrap();
        assert_eq!(row.has_uri("/é"), Some(true));
        assert_eq!(row.has_uri("/f"), Some(false));
        assert_eq!(row.has_uri(&long), None);
        assert_eq!(row.has_cluster("c1"), None);
        assert_eq!(row.clusters(), None);
        assert_eq!(row.rollbacks(), Some(None));
        assert_eq!(row.has_rollbacks(RollbackResult::None), Some(false));
        let apart = encode(Method::Post, "/", None);
        let apart = decode(&apart).unwrap();
        assert_eq!(apart.has_rollbacks(RollbackResult::None), None);
        assert_eq!(apart.has_cluster("c1"), None);
        assert_eq!((apart.rollbacks(), apart.clusters()), (None, None));
        for bad in [&[][..], &[2, 0, 0, 0, 0], &[LIST_ENTRY, 0, 0, 0, 7]] {
            assert!(decode(bad).is_none());
        }
    }
}
