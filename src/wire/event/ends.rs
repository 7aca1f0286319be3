//! Finds where JSON strings may end, 64 bytes at a time.

use wide::u8x16;

/// Where a string may end in the current block of 64 bytes: a bit for each byte that does not
/// stand for itself inside a JSON string (a quote, a backslash, a control character). A block
/// contains several strings, and most strings are in at most two blocks.
pub struct EndBits {
    block: usize,
    bits: u64,
}

pub const BLOCK: usize = 64;

impl EndBits {
    pub fn of(bytes: &[u8], block: usize) -> EndBits {
        let start = block * BLOCK;
        let bits = match bytes.get(start..start + BLOCK) {
            Some(whole) => ends(whole.try_into().expect("it is as long")),
            None => {
                // The NULs after the last bytes count as ends.
                let mut whole = [0; BLOCK];
                let rest = bytes.get(start..).unwrap_or_default();
                whole[..rest.len()].copy_from_slice(rest);
                ends(&whole)
            }
        };
        EndBits { block, bits }
    }

    /// The first end at or after `at`; at most the end of all bytes.
    #[inline]
    pub fn from(&mut self, bytes: &[u8], at: usize) -> usize {
        let block = at / BLOCK;
        if block != self.block {
            *self = EndBits::of(bytes, block);
        }
        let left = self.bits >> (at % BLOCK);
        if left != 0 {
            return at + left.trailing_zeros() as usize;
        }
        loop {
            *self = EndBits::of(bytes, self.block + 1);
            if self.bits != 0 {
                return self.block * BLOCK + self.bits.trailing_zeros() as usize;
            }
        }
    }
}

#[inline]
fn ends(bytes: &[u8; BLOCK]) -> u64 {
    bits(bytes, |lane| {
        lane.simd_eq(QUOTE) | lane.simd_eq(BACKSLASH) | is_control(lane)
    })
}

/// The same, each kind separately.
pub struct Marks {
    pub quote: u64,
    pub backslash: u64,
    pub control: u64,
}

impl Marks {
    #[inline(always)]
    pub fn of(bytes: &[u8; BLOCK]) -> Marks {
        Marks {
            quote: bits(bytes, |lane| lane.simd_eq(QUOTE)),
            backslash: bits(bytes, |lane| lane.simd_eq(BACKSLASH)),
            control: bits(bytes, is_control),
        }
    }
}

const QUOTE: u8x16 = u8x16::new([b'"'; 16]);
const BACKSLASH: u8x16 = u8x16::new([b'\\'; 16]);
const LAST_CONTROL: u8x16 = u8x16::new([0x1f; 16]);

#[inline]
fn is_control(lane: u8x16) -> u8x16 {
    lane.min(LAST_CONTROL).simd_eq(lane)
}

/// A bit for each byte that is one of those.
#[inline(always)]
pub fn bits(bytes: &[u8; BLOCK], is_one: impl Fn(u8x16) -> u8x16) -> u64 {
    let mut bits = 0;
    for (place, lane) in bytes.as_chunks::<16>().0.iter().enumerate() {
        let is_one = is_one(u8x16::from(*lane));
        bits |= u64::from(is_one.to_bitmask()) << (16 * place);
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_end_of_a_string_is_where_a_byte_by_byte_search_finds_it(
            bytes in prop::collection::vec(prop_oneof![
                80 => 0x20u8..=0xff,
                1 => prop::sample::select(b"\"\\\x00\x1f\x01".to_vec()),
            ], 0..300),
            starts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let is_end = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
            let mut ends = EndBits::of(&bytes, 0);
            for start in starts {
                let start = start.index(bytes.len() + 1);
                let length = bytes[start..].iter().position(is_end);
                let expected = length.map_or(bytes.len(), |length| start + length);
                prop_assert_eq!(ends.from(&bytes, start), expected);
            }
        }
    }
}
