//! CRC-32C (Castagnoli; RFC 3720 B.4), the one checksum: of records on disk, and of names that spread over shards. Pure.

use crc_fast::{CrcAlgorithm, Digest};

/// The checksum of these parts, one behind the other.
pub fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector of RFC 3720 B.4 (32 bytes of zeros), and a text, cut everywhere.
    #[test]
    fn known_sums_whole_and_in_parts() {
        assert_eq!(crc32c(&[&[0; 32]]), 0x8a91_36aa);
        let text = b"123456789".repeat(100);
        let whole = crc32c(&[&text]);
        for cut in 0..=text.len() {
            let (head, tail) = text.split_at(cut);
            assert_eq!(crc32c(&[head, tail]), whole);
        }
        assert_eq!(crc32c(&[b"12345", b"", b"6789"]), 0xe306_9283);
    }
}
