//! The id of an operation.

use std::fmt;
use std::ops::Deref;

/// A separate type, so that no other text is mistaken for it: a source, or the id of an event or a
/// cluster. Made where an operation is named from outside, or read from an event or a key; costs
/// what a `&str` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId<'a>(pub &'a str);

/// The number of shards.
pub const SHARDS: u16 = 1024;

impl OperationId<'_> {
    /// A fixed hash, whatever the log's partitions: the hash by which Kafka's Java client chooses
    /// the partition of a key. In a topic whose number of partitions divides [`SHARDS`], all
    /// operations of a shard are in one partition if their id is the key.
    pub fn shard(self) -> u16 {
        ((murmur2(self.as_bytes()) & 0x7FFF_FFFF) % u32::from(SHARDS)) as u16
    }
}

/// `org.apache.kafka.common.utils.Utils.murmur2`.
fn murmur2(bytes: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_B28C;
    const M: u32 = 0x5BD1_E995;
    let (words, rest) = bytes.as_chunks::<4>();
    let mut hash = SEED ^ bytes.len() as u32;
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(M);
        word ^= word >> 24;
        hash = hash.wrapping_mul(M) ^ word.wrapping_mul(M);
    }
    if !rest.is_empty() {
        let mut word = [0; 4];
        word[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u32::from_le_bytes(word)).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

impl Deref for OperationId<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        self.0
    }
}

impl fmt::Display for OperationId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shard_of_an_id_never_changes() {
        // Stored keys depend on it.
        assert_eq!(OperationId("0001561626000500").shard(), 349);
        assert_eq!(OperationId("a").shard(), 636);
    }

    #[test]
    fn the_hash_of_a_shard_is_that_of_kafkas_java_client() {
        // From `UtilsTest.testMurmur2` of Kafka.
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }
}
