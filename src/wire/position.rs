//! The token for reading one's own writes: `<log>;3:1042,5:7`.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::str::FromStr;

/// The number of a partition; the first is 0.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Partition(pub u32);

impl Partition {
    /// From the first on, without an end.
    pub fn all() -> impl Iterator<Item = Partition> {
        (0..).map(Partition)
    }

    /// Its place in a list of all partitions.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The offset of a record in its partition, or of the next one.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct Offset(pub u64);

impl Offset {
    pub const ZERO: Offset = Offset(0);
    /// No record has this offset: none could follow it.
    pub const MAX: Offset = Offset(u64::MAX);

    /// The offset after this one.
    pub fn next(self) -> Offset {
        self.plus(1)
    }

    /// The offset before this one; `None` before 0.
    pub fn previous(self) -> Option<Offset> {
        self.0.checked_sub(1).map(Offset)
    }

    pub fn plus(self, count: u64) -> Offset {
        Offset(self.0.saturating_add(count))
    }

    /// How many offsets there are from `first` to before this one.
    pub fn since(self, first: Offset) -> u64 {
        self.0.saturating_sub(first.0)
    }

    /// This one and those after it, without an end.
    pub fn and_after(self) -> impl Iterator<Item = Offset> {
        (self.0..).map(Offset)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The position of a record in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub partition: Partition,
    pub offset: Offset,
}

impl Position {
    /// Twelve bytes that sort as positions do.
    pub fn to_key(self) -> [u8; 12] {
        let mut key = [0; 12];
        key[..4].copy_from_slice(&self.partition.0.to_be_bytes());
        key[4..].copy_from_slice(&self.offset.0.to_be_bytes());
        key
    }

    pub fn of_key(key: &[u8]) -> Option<Position> {
        let (partition, offset) = key.split_first_chunk::<4>()?;
        Some(Position {
            partition: Partition(u32::from_be_bytes(*partition)),
            offset: Offset(u64::from_be_bytes(offset.try_into().ok()?)),
        })
    }
}

/// A partition and an offset as numbers.
impl From<(u32, u64)> for Position {
    fn from((partition, offset): (u32, u64)) -> Position {
        Position {
            partition: Partition(partition),
            offset: Offset(offset),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

impl FromStr for Position {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Position, BadToken> {
        let (partition, offset) = text.split_once(':').ok_or(BadToken)?;
        Ok(Position {
            partition: Partition(number(partition)?),
            offset: Offset(number(offset)?),
        })
    }
}

/// `u64::from_str` would let a plus sign pass.
fn number<N: FromStr>(digits: &str) -> Result<N, BadToken> {
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BadToken);
    }
    digits.parse().map_err(|_| BadToken)
}

/// Eight characters that identify a log, `[0-9a-z]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct LogId(pub [u8; 8]);

impl LogId {
    /// Of the lowest forty bits, in base 32.
    pub fn from_bits(bits: u64) -> LogId {
        let digit =
            |place: usize| b"0123456789abcdefghjkmnpqrstvwxyz"[(bits >> (5 * place)) as usize & 31];
        LogId(std::array::from_fn(digit))
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for LogId {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<LogId, BadToken> {
        let id: [u8; 8] = text.as_bytes().try_into().map_err(|_| BadToken)?;
        if id
            .iter()
            .all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
        {
            Ok(LogId(id))
        } else {
            Err(BadToken)
        }
    }
}

macro_rules! offsets_by_partition {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
        #[derive(serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(BTreeMap<Partition, Offset>);

        impl $name {
            /// Of two offsets of a partition, keeps the later one.
            pub fn raise(&mut self, partition: Partition, offset: Offset) {
                let kept = self.0.entry(partition).or_insert(offset);
                *kept = offset.max(*kept);
            }

            /// What both have reached: the earlier offset of each partition that both name.
            pub fn lower(&self, other: &$name) -> $name {
                let lower = |(p, one): (&Partition, &Offset)| Some((*p, *one.min(other.get(p)?)));
                self.iter().filter_map(lower).collect()
            }
        }

        impl Deref for $name {
            type Target = BTreeMap<Partition, Offset>;

            fn deref(&self) -> &BTreeMap<Partition, Offset> {
                &self.0
            }
        }

        impl DerefMut for $name {
            fn deref_mut(&mut self) -> &mut BTreeMap<Partition, Offset> {
                &mut self.0
            }
        }

        impl IntoIterator for $name {
            type Item = (Partition, Offset);
            type IntoIter = std::collections::btree_map::IntoIter<Partition, Offset>;

            fn into_iter(self) -> Self::IntoIter {
                self.0.into_iter()
            }
        }

        impl FromIterator<(Partition, Offset)> for $name {
            fn from_iter<I: IntoIterator<Item = (Partition, Offset)>>(offsets: I) -> $name {
                $name(offsets.into_iter().collect())
            }
        }

        /// Partitions and offsets as numbers.
        impl<const N: usize> From<[(u32, u64); N]> for $name {
            fn from(offsets: [(u32, u64); N]) -> $name {
                let typed = |(partition, offset)| (Partition(partition), Offset(offset));
                offsets.into_iter().map(typed).collect()
            }
        }
    };
}

offsets_by_partition! {
    /// The last offset of each partition, inclusive. A partition that is not named
    /// has no records yet, or is not waited for.
    LastOffsets
}

offsets_by_partition! {
    /// The next offset of each partition: where to continue reading, or where the log ends. All
    /// records before it are done. In a partition that is not named, none are.
    NextOffsets
}

impl LastOffsets {
    /// Where to continue reading after these.
    pub fn next(&self) -> NextOffsets {
        self.iter().map(|(p, last)| (*p, last.next())).collect()
    }

    /// Whether the offset of this position is one of these, or before it.
    pub fn holds(&self, at: Position) -> bool {
        self.get(&at.partition) >= Some(&at.offset)
    }
}

impl NextOffsets {
    /// The last offsets before these. A partition that is at 0 has none.
    pub fn last(&self) -> LastOffsets {
        let last = |(p, next): (&Partition, &Offset)| Some((*p, next.previous()?));
        self.iter().filter_map(last).collect()
    }

    /// Whether the offset of this position is done.
    pub fn has_passed(&self, at: Position) -> bool {
        self.get(&at.partition) > Some(&at.offset)
    }

    /// Whether all up to these is done, and they too.
    pub fn have_passed(&self, last: &LastOffsets) -> bool {
        let mut each = last.iter();
        each.all(|(&partition, &offset)| self.has_passed(Position { partition, offset }))
    }

    /// Whether all before these ends is done.
    pub fn have_reached(&self, ends: &NextOffsets) -> bool {
        let mut each = ends.iter();
        each.all(|(partition, end)| *end == Offset::ZERO || self.get(partition) >= Some(end))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub log: LogId,
    pub positions: LastOffsets,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a position is <log>;<partition>:<offset>,…")]
pub struct BadToken;

impl Token {
    /// The later offsets of both; `None` if they are of different logs.
    pub fn join(mut self, other: &Token) -> Option<Token> {
        for (&partition, &offset) in other.positions.iter() {
            self.positions.raise(partition, offset);
        }
        (self.log == other.log).then_some(self)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{};", self.log)?;
        for (i, (partition, offset)) in self.positions.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{partition}:{offset}")?;
        }
        Ok(())
    }
}

impl FromStr for Token {
    type Err = BadToken;

    /// Also reads several tokens of one log, because proxies join several headers to one:
    /// `<log>;3:1042, <log>;5:7`.
    fn from_str(text: &str) -> Result<Token, BadToken> {
        let (log, rest) = text.split_once(';').ok_or(BadToken)?;
        let mut positions = LastOffsets::default();
        for part in rest.split(',').filter(|_| !rest.is_empty()) {
            let again = part.trim().strip_prefix(log.trim());
            let part = match again.and_then(|part| part.strip_prefix(';')) {
                Some("") => continue,
                Some(part) => part,
                None => part,
            };
            let at: Position = part.trim().parse()?;
            positions.raise(at.partition, at.offset);
        }
        Ok(Token {
            log: log.trim().parse()?,
            positions,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// nginx accepts 4 KiB for all headers of a response together.
    #[test]
    fn joined_tokens_have_the_later_offset_of_each_partition() {
        let token = |text: &str| text.parse::<Token>().unwrap();
        let joined = token("abcd1234;0:7,2:9").join(&token("abcd1234;0:3,1:4"));
        assert_eq!(joined, Some(token("abcd1234;0:7,1:4,2:9")));
        let of_another_log = token("abcd1235;0:3");
        assert_eq!(token("abcd1234;0:7").join(&of_another_log), None);
    }

    #[test]
    fn the_token_of_the_largest_embedded_log_fits_in_the_headers_that_proxies_take() {
        let offset = Offset(999_999_999_999);
        let token = Token {
            log: LogId(*b"abcd1234"),
            positions: (0..crate::config::MAX_PARTITIONS)
                .map(|partition| (Partition(partition), offset))
                .collect(),
        };
        let length = token.to_string().len();
        assert!(length < 2_500, "{length}");
    }

    #[test]
    fn offsets_count_to_both_ends_of_the_numbers_and_not_beyond() {
        assert_eq!(Offset::ZERO.previous(), None);
        assert_eq!(Offset(1).previous(), Some(Offset::ZERO));
        assert_eq!(Offset::ZERO.next(), Offset(1));
        assert_eq!(Offset::MAX.next(), Offset::MAX);
        assert_eq!(Offset::MAX.previous(), Some(Offset(u64::MAX - 1)));
        assert_eq!(Offset(7).since(Offset(5)), 2);
        assert_eq!(Offset(5).since(Offset(7)), 0);
        assert_eq!(Offset::MAX.since(Offset::ZERO), u64::MAX);
    }

    #[test]
    fn last_offsets_and_next_offsets_convert_at_both_ends_of_the_numbers() {
        let last = LastOffsets::from([(0, 0), (1, 7), (2, u64::MAX)]);
        let next = NextOffsets::from([(0, 1), (1, 8), (2, u64::MAX)]);
        assert_eq!(last.next(), next);
        let before = LastOffsets::from([(0, 0), (1, 7), (2, u64::MAX - 1)]);
        assert_eq!(next.last(), before);
        let nothing = NextOffsets::from([(0, 0)]);
        assert_eq!(nothing.last(), LastOffsets::default());
    }

    #[test]
    fn an_offset_counts_as_applied_once_the_next_one_is_due() {
        let next = NextOffsets::from([(0, 5), (1, 0)]);
        let is_passed = |partition, offset| next.has_passed(Position::from((partition, offset)));
        assert!(is_passed(0, 4) && !is_passed(0, 5) && !is_passed(0, u64::MAX));
        assert!(!is_passed(1, 0) && !is_passed(2, 0));
        assert!(next.have_passed(&next.last()));
        assert!(!next.have_passed(&LastOffsets::from([(0, 4), (2, 0)])));
    }

    #[test]
    fn an_empty_partition_is_read_to_its_end_before_it_counts() {
        let next = NextOffsets::from([(0, 5)]);
        assert!(next.have_reached(&NextOffsets::from([(0, 5), (1, 0)])));
        assert!(!next.have_reached(&NextOffsets::from([(0, 6)])));
        assert!(!next.have_reached(&NextOffsets::from([(0, 5), (1, 1)])));
    }

    #[test]
    fn json_and_postcard_of_offsets_are_those_of_a_map() {
        let next = NextOffsets::from([(0, 5), (10, u64::MAX)]);
        let json = r#"{"0":5,"10":18446744073709551615}"#;
        assert_eq!(serde_json::to_string(&next).unwrap(), json);
        assert_eq!(serde_json::from_str::<NextOffsets>(json).unwrap(), next);
        let map = BTreeMap::from([(0_u32, 5_u64), (10, u64::MAX)]);
        let bytes = postcard::to_allocvec(&map).unwrap();
        assert_eq!(postcard::to_allocvec(&next).unwrap(), bytes);
        assert_eq!(postcard::from_bytes::<NextOffsets>(&bytes).unwrap(), next);
    }

    #[test]
    fn tokens_survive_the_round_trip_and_junk_does_not() {
        for good in ["abcd1234;", "abcd1234;3:1042", "abcd1234;3:1042,5:7"] {
            assert_eq!(good.parse::<Token>().unwrap().to_string(), good);
        }
        for (joined, all) in [
            ("abcd1234;3:1042, abcd1234;5:7", "abcd1234;3:1042,5:7"),
            ("abcd1234;3:9,5:7,abcd1234;3:1", "abcd1234;3:9,5:7"),
            ("abcd1234;3:9, abcd1234;", "abcd1234;3:9"),
        ] {
            assert_eq!(joined.parse::<Token>().unwrap().to_string(), all);
        }
        for bad in [
            "",
            "abcd1234",
            "abcd123;1:2",
            "ABCD1234;1:2",
            "abcd1234;1",
            "abcd1234;1:+2",
            "abcd1234;1:2,",
            "abcd1234;,abcd1234;1:2",
            "abcd1234;1:2, zzzz1234;1:2",
            "abcd1234;-1:2",
            "abcd1234;1:99999999999999999999",
        ] {
            assert_eq!(bad.parse::<Token>(), Err(BadToken), "{bad}");
        }
    }
}
