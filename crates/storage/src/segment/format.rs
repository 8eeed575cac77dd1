//! The bytes of a segment file. Little-endian, version 1:
//!
//! ```text
//! file header:  magic "PHSG" u32 | version u16 | class u16 | file id u64 | zero u32 | crc32c of the 20 bytes before u32
//! block header: magic "PHBK" u32 | version u16 | flags u16 | queue id u64 | first seq u64 | count u32 | length u32 |
//!               crc32c of the records u32 | crc32c of the 36 bytes before u32
//! block:        block header | `length` bytes of records, verbatim
//! file:         file header | block | block | ...
//! ```
//!
//! `count` is the number of records, `flags` is zero. A file is appended to only by the process that made it; what
//! follows its last whole block was never named by a checkpoint.

use std::path::Path;

use posthouse_model::ids::{QueueId, Seq};

use super::{Class, SegmentId};
use crate::corrupt::{bad_crc, corrupt};
use crate::error::StorageError;
use crate::fields::{crc_around, put, seal, u16_at, u32_at, u64_at};

pub(super) const VERSION: u16 = 1;
pub(super) const FILE_HEADER: usize = 24;
pub(crate) const BLOCK_HEADER: usize = 40;
const FILE_CRC_AT: usize = 20;
const BLOCK_CRC_AT: usize = 36;
const FILE_MAGIC: [u8; 4] = *b"PHSG";
const BLOCK_MAGIC: [u8; 4] = *b"PHBK";

pub(super) fn file_header(id: SegmentId, class: Class) -> [u8; FILE_HEADER] {
    let mut bytes = [0; FILE_HEADER];
    put(&mut bytes, 0, FILE_MAGIC);
    put(&mut bytes, 4, VERSION.to_le_bytes());
    put(&mut bytes, 6, (class as u16).to_le_bytes());
    put(&mut bytes, 8, id.0.to_le_bytes());
    seal(&mut bytes, FILE_CRC_AT);
    bytes
}

/// Checks a file header against what the file should be.
pub(super) fn check_file_header(
    bytes: &[u8],
    path: &Path,
    id: SegmentId,
    class: Class,
) -> Result<(), StorageError> {
    if bytes[0..4] != FILE_MAGIC {
        return Err(bad_magic(path, 0, "segment magic", FILE_MAGIC, &bytes[0..4]));
    }
    let (expected, crc) = (u32_at(bytes, FILE_CRC_AT), crc_around(bytes, FILE_CRC_AT));
    if crc != expected {
        return Err(bad_crc(path, 0, "file header checksum", expected, crc));
    }
    let version = u16_at(bytes, 4);
    if version > VERSION {
        return Err(newer(path, version));
    }
    if bytes != file_header(id, class) {
        let got = format!("segment {:016x} of class {}", u64_at(bytes, 8), u16_at(bytes, 6));
        let expected = format!("segment {id} of class {}", class as u16);
        return Err(corrupt(path, 0, "file header", expected, got));
    }
    Ok(())
}

/// A block header's content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BlockHeader {
    pub(crate) queue: QueueId,
    pub(crate) first_seq: Seq,
    pub(crate) count: u32,
    pub(crate) length: u32,
    pub(crate) crc: u32,
}

impl BlockHeader {
    pub(super) fn encode(&self) -> [u8; BLOCK_HEADER] {
        let mut bytes = [0; BLOCK_HEADER];
        put(&mut bytes, 0, BLOCK_MAGIC);
        put(&mut bytes, 4, VERSION.to_le_bytes());
        put(&mut bytes, 8, self.queue.0.to_le_bytes());
        put(&mut bytes, 16, self.first_seq.to_le_bytes());
        put(&mut bytes, 24, self.count.to_le_bytes());
        put(&mut bytes, 28, self.length.to_le_bytes());
        put(&mut bytes, 32, self.crc.to_le_bytes());
        seal(&mut bytes, BLOCK_CRC_AT);
        bytes
    }

    /// Reads the header that `bytes`, found at `offset`, start with.
    pub(super) fn decode(bytes: &[u8], path: &Path, offset: u64) -> Result<Self, StorageError> {
        let bytes = &bytes[..BLOCK_HEADER];
        if bytes[0..4] != BLOCK_MAGIC {
            return Err(bad_magic(path, offset, "block magic", BLOCK_MAGIC, &bytes[0..4]));
        }
        let (expected, crc) = (u32_at(bytes, BLOCK_CRC_AT), crc_around(bytes, BLOCK_CRC_AT));
        if crc != expected {
            return Err(bad_crc(path, offset, "block header checksum", expected, crc));
        }
        let version = u16_at(bytes, 4);
        if version > VERSION {
            return Err(newer(path, version));
        }
        Ok(Self {
            queue: QueueId(u64_at(bytes, 8)),
            first_seq: u64_at(bytes, 16),
            count: u32_at(bytes, 24),
            length: u32_at(bytes, 28),
            crc: u32_at(bytes, 32),
        })
    }
}

fn bad_magic(path: &Path, offset: u64, what: &'static str, expected: [u8; 4], got: &[u8]) -> StorageError {
    corrupt(path, offset, what, expected.escape_ascii(), got.escape_ascii())
}

fn newer(path: &Path, got: u16) -> StorageError {
    StorageError::UnsupportedVersion { path: path.to_owned(), expected: VERSION.into(), got: got.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_bytes_are_fixed() {
        let header = BlockHeader { queue: QueueId(7), first_seq: 9, count: 2, length: 3, crc: 0x0403_0201 };
        let expected =
            b"PHBK\x01\0\0\0\x07\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x02\0\0\0\x03\0\0\0\x01\x02\x03\x04";
        let bytes = header.encode();
        assert_eq!(&bytes[..36], expected);
        assert_eq!(BlockHeader::decode(&bytes, Path::new("f"), 0).unwrap(), header);
        let file = file_header(SegmentId(5), Class::Durable);
        assert_eq!(&file[..20], b"PHSG\x01\0\0\0\x05\0\0\0\0\0\0\0\0\0\0\0");
        check_file_header(&file, Path::new("f"), SegmentId(5), Class::Durable).unwrap();
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let header = BlockHeader { queue: QueueId(7), first_seq: 9, count: 2, length: 3, crc: 4 }.encode();
        for bit in 0..header.len() * 8 {
            let mut wrong = header;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(BlockHeader::decode(&wrong, Path::new("f"), 0).is_err(), "bit {bit}");
        }
        let file = file_header(SegmentId(5), Class::Spill);
        for bit in 0..file.len() * 8 {
            let mut wrong = file;
            wrong[bit / 8] ^= 1 << (bit % 8);
            let checked = check_file_header(&wrong, Path::new("f"), SegmentId(5), Class::Spill);
            assert!(checked.is_err(), "bit {bit}");
        }
    }
}
