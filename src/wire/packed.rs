//! postcard, appended to a row: any value (postcard's own way to append takes one byte at
//! a time), or piece by piece, for what is written most.

use postcard::ser_flavors::Flavor;
use serde::Serialize;

/// Any value of ours can be written: memory takes whatever postcard writes.
pub fn append<T: Serialize + ?Sized>(value: &T, row: Vec<u8>) -> Vec<u8> {
    postcard::serialize_with_flavor(value, Row(row)).expect("memory takes whatever postcard writes")
}

struct Row(Vec<u8>);

impl Flavor for Row {
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
