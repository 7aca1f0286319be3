//! Decodes the escapes of a JSON string, 64 bytes at a time. JSON inside of JSON has one every few
//! bytes, and nearly all of them are a backslash to remove: one mask says which bytes stay, and
//! they are moved together a word at a time.

use super::ends::{BLOCK, Marks, bits};
#[cfg(target_arch = "x86_64")]
use std::arch::is_x86_feature_detected;
use std::mem::MaybeUninit;
use wide::u8x16;

type Block = [u8; BLOCK];
/// Space for a decoded block.
type Room = [MaybeUninit<u8>; BLOCK];

/// The string whose first byte is at `at`, and the place after its closing quote. `None` if it
/// is not a valid string, or has surrogates.
pub fn whole(json: &str, at: usize) -> Option<(String, usize)> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("popcnt")
    {
        // Safety: the processor can.
        return unsafe { whole_by_words(json, at) };
    }
    whole_with(json, at, by_bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
fn whole_by_words(json: &str, at: usize) -> Option<(String, usize)> {
    whole_with(json, at, |block, piece, room| by_words(block, piece, room))
}

/// `copy` writes the decoded bytes of a piece of a block, and returns their number.
#[inline(always)]
fn whole_with(
    json: &str,
    at: usize,
    copy: impl Fn(&Block, &Piece, &mut Room) -> usize,
) -> Option<(String, usize)> {
    let bytes = json.as_bytes();
    let mut out = Vec::new();
    let mut at = at;
    loop {
        let rest = bytes.get(at..)?;
        let mut padded = [0; BLOCK];
        let block = match rest.first_chunk() {
            Some(block) => block,
            None => {
                padded[..rest.len()].copy_from_slice(rest);
                &padded
            }
        };
        let piece = Piece::of(block)?;
        if out.capacity() - out.len() < BLOCK {
            // No escape is shorter than its character. Most strings are short; a long one
            // usually has most of the rest.
            out.reserve(match out.is_empty() {
                true => 2 * BLOCK,
                false => rest.len() + BLOCK,
            });
        }
        let room = out.spare_capacity_mut().first_chunk_mut();
        let room = room.expect("there is room for a block");
        let length = copy(block, &piece, room);
        for place in places(piece.letters) {
            let before = (piece.kept & below(place)).count_ones() as usize;
            room[before].write(ESCAPES[usize::from(block[place])]);
        }
        // Safety: this many were written.
        unsafe { out.set_len(out.len() + length) };
        at += piece.length;
        match piece.behind {
            Behind::More => {}
            Behind::Quote => {
                debug_assert!(std::str::from_utf8(&out).is_ok());
                // Safety: a text without some of its ASCII characters, and characters.
                return Some((unsafe { String::from_utf8_unchecked(out) }, at + 1));
            }
            Behind::Number => {
                let digits = bytes.get(at + 2..at + 6)?;
                let character = char::from_u32(hexadecimal(digits)?)?;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                at += 6;
            }
        }
    }
}

/// The beginning of a block that is decoded at once.
struct Piece {
    /// In bytes. Ends between two escapes.
    length: usize,
    /// A bit for each byte of the block that stays.
    kept: u64,
    /// A bit for each `n` of an escaped newline.
    newlines: u64,
    /// A bit for each other letter of an escape.
    letters: u64,
    behind: Behind,
}

enum Behind {
    More,
    Quote,
    /// A backslash, a `u`.
    Number,
}

impl Piece {
    #[inline(always)]
    fn of(block: &Block) -> Option<Piece> {
        let marks = Marks::of(block);
        let starts = starts(marks.backslash);
        let escaped = starts << 1;
        let quotes = marks.quote & !escaped;
        let (mut length, mut behind) = match quotes {
            // The last may have its letter in the next block.
            0 => (BLOCK - (starts >> (BLOCK - 1)) as usize, Behind::More),
            _ => (quotes.trailing_zeros() as usize, Behind::Quote),
        };
        let newlines = escaped & bits(block, |lane| lane.simd_eq(u8x16::splat(b'n')));
        let letters = escaped & !(marks.quote | marks.backslash | newlines) & below(length);
        for place in places(letters) {
            if ESCAPES[usize::from(block[place])] == 0 {
                if block[place] != b'u' {
                    return None;
                }
                (length, behind) = (place - 1, Behind::Number);
                break;
            }
        }
        let is_text = marks.control & below(length) == 0;
        is_text.then_some(Piece {
            length,
            kept: !starts & below(length),
            newlines,
            letters: letters & below(length),
            behind,
        })
    }
}

/// Of the bits that are set.
#[inline(always)]
fn places(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = bits.trailing_zeros() as usize;
        bits &= bits.wrapping_sub(1);
        (place < BLOCK).then_some(place)
    })
}

/// Backslashes that begin an escape: of several in a row each second one is escaped.
#[inline(always)]
fn starts(backslash: u64) -> u64 {
    if backslash & (backslash << 1) == 0 {
        return backslash;
    }
    let (mut starts, mut left) = (0, backslash);
    while left != 0 {
        let first = left & left.wrapping_neg();
        starts |= first;
        left &= !(first | first << 1);
    }
    starts
}

/// Bits of the first bytes.
#[inline(always)]
fn below(length: usize) -> u64 {
    u64::MAX.checked_shr((BLOCK - length) as u32).unwrap_or(0)
}

/// From an `n` to a newline.
const TO_NEWLINE: u8 = b'n' ^ b'\n';

fn by_bytes(block: &Block, piece: &Piece, room: &mut Room) -> usize {
    let mut length = 0;
    for (place, byte) in block.iter().enumerate() {
        let is_set = |bits: u64| bits >> place & 1 == 1;
        // Written over if it does not stay.
        room[length].write(byte ^ (TO_NEWLINE * u8::from(is_set(piece.newlines))));
        length += usize::from(is_set(piece.kept));
    }
    length
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "bmi2,popcnt")]
#[inline]
fn by_words(block: &Block, piece: &Piece, room: &mut Room) -> usize {
    use std::arch::x86_64::{_pdep_u64, _pext_u64};
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut length = 0;
    for place in (0..BLOCK).step_by(8) {
        let ones = |bits: u64| _pdep_u64(bits >> place, ONES);
        let newlines = ones(piece.newlines).wrapping_mul(u64::from(TO_NEWLINE));
        let kept = ones(piece.kept).wrapping_mul(0xFF);
        let (start, end) = (block.as_ptr(), room.as_mut_ptr());
        // Safety: this many bytes are there, and no more were written than read.
        unsafe {
            let word = start.add(place).cast::<u64>().read_unaligned();
            let word = _pext_u64(word ^ newlines, kept);
            end.add(length).cast::<u64>().write_unaligned(word);
        }
        length += (kept.count_ones() / 8) as usize;
    }
    length
}

/// The byte for a letter after a backslash; 0 if there is none, or if more follows.
const ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    let pairs = *b"\"\"\\\\//b\x08f\x0cn\nr\rt\t";
    let mut at = 0;
    while at < pairs.len() {
        table[pairs[at] as usize] = pairs[at + 1];
        at += 2;
    }
    table
};

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |code, digit| {
        Some(code * 16 + char::from(*digit).to_digit(16)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_string_is_read_as_serde_reads_it(
            before in "[a\\\\\"é]{0,3}",
            pieces in prop::collection::vec(prop_oneof![
                12 => Just("\\\""), 4 => Just("\\\\"), 2 => Just("\\/"), 2 => Just("\\n"),
                1 => Just("\\t"), 1 => Just("\\b"), 1 => Just("\\f"), 1 => Just("\\r"),
                2 => Just("\\u00e4"), 1 => Just("\\u20AC"), 12 => Just("abc"), 4 => Just("é"),
                4 => Just("😀"), 8 => Just("x"),
                1 => Just("0123456789012345678901234567890123456789012345678901234567890123456789"),
            ], 0..120),
        ) {
            let quoted = format!("\"{}\"", pieces.concat());
            let expected: String = serde_json::from_str(&quoted).unwrap();
            let json = format!("{before}{}\"{before}", pieces.concat());
            let end = json.len() - before.len();
            let expected = Some((expected, end));
            prop_assert_eq!(&whole_with(&json, before.len(), by_bytes), &expected);
            prop_assert_eq!(whole(&json, before.len()), expected);
        }

        #[test]
        fn malformed_strings_are_refused_as_serde_refuses_them(text in "[a\\\\\"u0\x1f\nd8é]{0,90}") {
            let json = format!("\"{text}");
            let mut all = serde_json::Deserializer::from_str(&json).into_iter::<String>();
            let expected = all.next().and_then(Result::ok);
            let expected = expected.map(|text| (text, all.byte_offset()));
            let found = whole(&json, 1);
            prop_assert_eq!(&found, &whole_with(&json, 1, by_bytes));
            // Surrogates are left to the careful decoder.
            if found.is_some() || !text.contains("\\ud8") {
                prop_assert_eq!(found, expected);
            }
        }
    }
}
