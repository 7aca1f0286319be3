//! The token for reading one's own writes: `<log>;3:1042,5:7`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Where a record lies in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub partition: u32,
    pub offset: u64,
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
            partition: number(partition)?,
            offset: number(offset)?,
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

/// The last offset of each partition, inclusive. A partition that is not named
/// holds nothing yet, or is not waited for.
pub type Positions = BTreeMap<u32, u64>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub log: LogId,
    pub positions: Positions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a position is <log>;<partition>:<offset>,…")]
pub struct BadToken;

impl Token {
    /// Holds what both name; `None` if they are of two logs.
    pub fn join(mut self, other: &Token) -> Option<Token> {
        for (partition, offset) in &other.positions {
            let held = self.positions.entry(*partition).or_insert(*offset);
            *held = (*held).max(*offset);
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

    /// Also of several tokens of one log, as those that stand between make one line of
    /// several lines of a header: `<log>;3:1042, <log>;5:7`.
    fn from_str(text: &str) -> Result<Token, BadToken> {
        let (log, rest) = text.split_once(';').ok_or(BadToken)?;
        let mut positions = Positions::new();
        for part in rest.split(',').filter(|_| !rest.is_empty()) {
            let again = part.trim().strip_prefix(log.trim());
            let part = match again.and_then(|part| part.strip_prefix(';')) {
                Some("") => continue,
                Some(part) => part,
                None => part,
            };
            let at: Position = part.trim().parse()?;
            let held = positions.entry(at.partition).or_insert(at.offset);
            *held = (*held).max(at.offset);
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

    /// nginx takes 4 KiB for all headers of an answer together.
    #[test]
    fn the_token_of_the_largest_embedded_log_fits_in_the_headers_that_proxies_take() {
        let offset = 999_999_999_999;
        let token = Token {
            log: LogId(*b"abcd1234"),
            positions: (0..crate::config::MAX_PARTITIONS)
                .map(|partition| (partition, offset))
                .collect(),
        };
        let length = token.to_string().len();
        assert!(length < 2_500, "{length}");
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
