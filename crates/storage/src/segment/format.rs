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

pub(super) const VERSION: u16 = 1;
pub(super) const FILE_HEADER: usize = 24;
pub(crate) const BLOCK_HEADER: usize = 40;
const FILE_MAGIC: [u8; 4] = *b"PHSG";
const BLOCK_MAGIC: [u8; 4] = *b"PHBK";

pub(super) fn file_header(id: SegmentId, class: Class) -> [u8; FILE_HEADER] {
    let mut bytes = [0; FILE_HEADER];
    bytes[0..4].copy_from_slice(&FILE_MAGIC);
    bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
    bytes[6..8].copy_from_slice(&(class as u16).to_le_bytes());
    bytes[8..16].copy_from_slice(&id.0.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..20]);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
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
    let crc = crc32c::crc32c(&bytes[..20]);
    if crc != u32_at(bytes, 20) {
        return Err(bad_crc(path, 0, "file header checksum", u32_at(bytes, 20), crc));
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
        bytes[0..4].copy_from_slice(&BLOCK_MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.queue.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first_seq.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.count.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.length.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..36]);
        bytes[36..40].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header of [`BLOCK_HEADER`] bytes found at `offset`.
    pub(super) fn decode(bytes: &[u8], path: &Path, offset: u64) -> Result<Self, StorageError> {
        if bytes[0..4] != BLOCK_MAGIC {
            return Err(bad_magic(path, offset, "block magic", BLOCK_MAGIC, &bytes[0..4]));
        }
        let crc = crc32c::crc32c(&bytes[..36]);
        if crc != u32_at(bytes, 36) {
            return Err(bad_crc(path, offset, "block header checksum", u32_at(bytes, 36), crc));
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

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
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
