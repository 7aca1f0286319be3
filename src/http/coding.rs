//! Compressed bodies of requests. A few bytes may become many, so the limits apply to the
//! decompressed body.

use super::error::Refusal;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_ENCODING;
use flate2::bufread::MultiGzDecoder;
use std::io::Read;
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Gzip,
    Zstd,
}

/// For `Accept-Encoding` (RFC 9110, 15.5.16).
pub const ACCEPTED: &str = "gzip, zstd";

/// A zstd decoder's window, which it keeps in memory: at most 8 MiB, as RFC 8878 advises.
const ZSTD_WINDOW_LOG: u32 = 23;

/// Bytes that are decoded at once.
const PIECE: usize = 16 << 10;

impl Coding {
    /// `None` if the body is as it is.
    pub fn of(headers: &HeaderMap) -> Result<Option<Coding>, Refusal> {
        let mut found = None;
        for value in headers.get_all(CONTENT_ENCODING) {
            let value = value.to_str().map_err(|_| Refusal::Coding)?;
            for coding in value.split(',').map(str::trim) {
                let coding = match coding.to_ascii_lowercase().as_str() {
                    "" | "identity" => continue,
                    "gzip" | "x-gzip" => Coding::Gzip,
                    "zstd" => Coding::Zstd,
                    _ => return Err(Refusal::Coding),
                };
                // Nested encodings are not supported.
                if found.replace(coding).is_some() {
                    return Err(Refusal::Coding);
                }
            }
        }
        Ok(found)
    }

    /// `take` is given piece after piece.
    pub fn decode(
        self,
        encoded: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut piece = [0; PIECE];
        match self {
            Coding::Gzip => {
                let mut decoder = MultiGzDecoder::new(encoded);
                loop {
                    match decoder.read(&mut piece) {
                        Ok(0) => return Ok(()),
                        Ok(n) => take(&piece[..n])?,
                        Err(_) => return Err(Refusal::Undecodable),
                    }
                }
            }
            Coding::Zstd => {
                let mut decoder = DCtx::try_create().ok_or(Refusal::Undecodable)?;
                let bound = DParameter::WindowLogMax(ZSTD_WINDOW_LOG);
                let bounded = decoder.set_parameter(bound);
                bounded.map_err(|_| Refusal::Undecodable)?;
                let mut input = InBuffer::around(encoded);
                loop {
                    let mut output = OutBuffer::around(&mut piece[..]);
                    let left = decoder.decompress_stream(&mut output, &mut input);
                    let left = left.map_err(|_| Refusal::Undecodable)?;
                    let decoded = output.as_slice();
                    take(decoded)?;
                    if input.pos() < encoded.len() {
                        continue;
                    }
                    match left {
                        0 => return Ok(()),
                        // There may be more where the piece was filled.
                        _ if decoded.len() == PIECE => {}
                        _ => return Err(Refusal::Undecodable),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).expect("memory takes any text");
        encoder.finish().expect("memory takes any text")
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        let mut out = vec![0; zstd_safe::compress_bound(text.len())];
        let len = zstd_safe::compress(&mut out[..], text, 3).expect("there is room");
        out.truncate(len);
        out
    }

    fn decoded(coding: Coding, encoded: &[u8]) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        let outcome = coding.decode(encoded, |piece| {
            all.extend_from_slice(piece);
            Ok(())
        });
        outcome.ok().map(|()| all)
    }

    #[test]
    fn an_encoded_body_is_decoded_unchanged_and_a_part_of_it_is_refused() {
        for len in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 1_000_000] {
            let text: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            for (coding, encode) in [
                (Coding::Gzip, gzip as fn(&[u8]) -> Vec<u8>),
                (Coding::Zstd, zstd),
            ] {
                let encoded = encode(&text);
                assert_eq!(
                    decoded(coding, &encoded).as_ref(),
                    Some(&text),
                    "{coding:?} {len}"
                );
                // Several one after the other are one.
                let twice = [&encoded[..], &encoded[..]].concat();
                let expected = [&text[..], &text[..]].concat();
                assert_eq!(decoded(coding, &twice), Some(expected), "{coding:?} {len}");
                for cut in [0, 1, encoded.len() / 2, encoded.len() - 1] {
                    assert_eq!(decoded(coding, &encoded[..cut]), None, "{coding:?} {len}");
                }
                let more = [&encoded[..], b"more"].concat();
                assert_eq!(decoded(coding, &more), None, "{coding:?} {len}");
            }
        }
    }

    #[test]
    fn decoding_stops_when_the_caller_refuses_more() {
        let bomb = vec![0; 50 << 20];
        for (coding, encoded) in [(Coding::Gzip, gzip(&bomb)), (Coding::Zstd, zstd(&bomb))] {
            assert!(encoded.len() < 100 << 10);
            let mut taken = 0;
            let outcome = coding.decode(&encoded, |piece| {
                taken += piece.len();
                match taken > 1 << 20 {
                    true => Err(Refusal::BodyTooLarge { limit: 1 << 20 }),
                    false => Ok(()),
                }
            });
            assert!(matches!(outcome, Err(Refusal::BodyTooLarge { .. })));
            assert!(taken <= (1 << 20) + PIECE);
        }
    }
}
