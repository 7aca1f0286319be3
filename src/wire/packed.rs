//! postcard, appended to a row: any value (postcard's own way to append takes one byte at
//! a time), or piece by piece, for the rows that are written most.

use postcard::ser_flavors::Flavor;
use serde::Serialize;

/// Any value of ours can be written: memory takes whatever postcard writes.
pub fn append<T: Serialize + ?Sized>(value: &T, row: Vec<u8>) -> Vec<u8> {
    postcard::serialize_with_flavor(value, PackedRow(row))
        .expect("memory takes whatever postcard writes")
}

struct PackedRow(Vec<u8>);

impl Flavor for PackedRow {
    type Output = Vec<u8>;

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Vec<u8>> {
        Ok(self.0)
    }
}

pub fn varint(mut number: u64, row: &mut Vec<u8>) {
    while number >= 0x80 {
        row.push(number as u8 | 0x80);
        number >>= 7;
    }
    row.push(number as u8);
}

/// A signed number.
pub fn zigzag(number: i64, row: &mut Vec<u8>) {
    varint(((number << 1) ^ (number >> 63)) as u64, row);
}

pub fn bytes(bytes: &[u8], row: &mut Vec<u8>) {
    varint(bytes.len() as u64, row);
    row.extend_from_slice(bytes);
}

pub fn text(text: &str, row: &mut Vec<u8>) {
    bytes(text.as_bytes(), row);
}

pub fn option<T>(value: Option<T>, row: &mut Vec<u8>, put: impl FnOnce(T, &mut Vec<u8>)) {
    row.push(value.is_some().into());
    if let Some(value) = value {
        put(value, row);
    }
}

/// The text that these bytes are.
pub fn as_text(bytes: &[u8]) -> Option<&str> {
    // Texts are short, and for short ones that is several times as quick.
    match bytes.is_ascii() {
        // Safety: ASCII is UTF-8.
        true => Some(unsafe { std::str::from_utf8_unchecked(bytes) }),
        false => std::str::from_utf8(bytes).ok(),
    }
}

/// Reads the same pieces; `None` for other bytes. Texts borrow from the row.
pub struct Rest<'r>(pub &'r [u8]);

impl<'r> Rest<'r> {
    pub fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    pub fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    pub fn zigzag(&mut self) -> Option<i64> {
        let number = self.varint()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    pub fn bytes(&mut self) -> Option<&'r [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub fn text(&mut self) -> Option<&'r str> {
        as_text(self.bytes()?)
    }

    pub fn option<T>(&mut self, take: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.flag()? {
            true => Some(Some(take(self)?)),
            false => Some(None),
        }
    }
}
