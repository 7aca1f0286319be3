//! Bytes in LZ4 after their length as four bytes: the end of a block of the embedded log, and
//! of a long row of the history.

/// No more bytes are written or restored: a damaged length must not request more memory.
pub const LARGEST: usize = 1 << 30;

/// Appends `plain`. If it returns false, what it appended is invalid.
pub fn append(plain: &[u8], out: &mut Vec<u8>) -> bool {
    if plain.len() > LARGEST {
        return false;
    }
    let Ok(bound) = lz4::block::compress_bound(plain.len()) else {
        return false;
    };
    out.extend_from_slice(&(plain.len() as u32).to_be_bytes());
    let start = out.len();
    out.resize(start + bound, 0);
    let compressed = lz4::block::compress_to_buffer(plain, None, false, &mut out[start..]);
    if let Ok(len) = compressed {
        out.truncate(start + len);
    }
    compressed.is_ok()
}

/// As they were appended, not yet restored.
pub struct Compressed<'a> {
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Compressed<'a> {
    /// `None` if they are damaged.
    pub fn of(appended: &'a [u8]) -> Option<Compressed<'a>> {
        let (len, bytes) = appended.split_first_chunk()?;
        let len = u32::from_be_bytes(*len) as usize;
        (len <= LARGEST).then_some(Compressed { len, bytes })
    }

    /// `None` if they are damaged.
    pub fn restore(&self) -> Option<Vec<u8>> {
        let mut plain = vec![0; self.len];
        let len = Some(self.len as i32);
        let restored = lz4::block::decompress_to_buffer(self.bytes, len, &mut plain).ok()?;
        (restored == self.len).then_some(plain)
    }
}
