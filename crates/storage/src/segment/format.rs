//! The bytes of a segment file. Little-endian; files are of version 1, blocks of version 1, 2 or 3:
//!
//! ```text
//! file header:  magic "PHSG" u32 | version u16 | class u16 | file id u64 | zero u32 | crc32c of the 20 bytes before u32
//! block header: magic "PHBK" u32 | version u16 | summary bytes u16 | queue id u64 | first seq u64 | count u32 |
//!               length u32 | crc32c of the records u32 | crc32c of the 36 bytes before u32
//! block v1:     block header | `length` bytes of records, verbatim
//! block v2:     block header | summary | crc32c of the summary u32 | `length` bytes of records, verbatim
//! block v3:     block header, with the file id in place of the queue id and the block's own offset in place of the first
//!               seq | `length` bytes of records, verbatim
//! file:         file header | block | block | ...
//! ```
//!
//! `count` is the number of records; the queue's level is in the first seq only. A summary is what a stream needs to know
//! of a block without reading its records (`queue/src/stream/filter.rs`); a block without one is of version 1, with zero
//! for its bytes. A block of version 3 is *shared*: several queues refer to it, each with another first seq, so that it
//! names none of them, but its own place. A file is appended to only by the process that made it; what follows its last
//! whole block was never named by a checkpoint.

use std::fmt;
use std::path::Path;

use posthouse_model::ids::{QueueId, Seq};

use super::{Class, Location, SegmentId};
use crate::corrupt::{bad_crc, corrupt};
use crate::error::StorageError;
use crate::fields::{crc_around, put, seal, u16_at, u32_at, u64_at};

const FILE_VERSION: u16 = 1;
/// The newest version of a block.
const BLOCK_VERSION: u16 = 3;
/// The first version with shared blocks, which are all of it.
const BLOCK_VERSION_OF_SHARED: u16 = 3;
/// The version of blocks with a summary.
const BLOCK_VERSION_OF_SUMMARY: u16 = 2;
pub(super) const FILE_HEADER: usize = 24;
pub(crate) const BLOCK_HEADER: usize = 40;
const FILE_CRC_AT: usize = 20;
const BLOCK_CRC_AT: usize = 36;
const FILE_MAGIC: [u8; 4] = *b"PHSG";
const BLOCK_MAGIC: [u8; 4] = *b"PHBK";

pub(super) fn file_header(id: SegmentId, class: Class) -> [u8; FILE_HEADER] {
    let mut bytes = [0; FILE_HEADER];
    put(&mut bytes, 0, FILE_MAGIC);
    put(&mut bytes, 4, FILE_VERSION.to_le_bytes());
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
    if version > FILE_VERSION {
        return Err(newer(path, FILE_VERSION, version));
    }
    if bytes != file_header(id, class) {
        let got = format!("segment {:016x} of class {}", u64_at(bytes, 8), u16_at(bytes, 6));
        let expected = format!("segment {id} of class {}", class as u16);
        return Err(corrupt(path, 0, "file header", expected, got));
    }
    Ok(())
}

/// Whose messages a block has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// Those of one queue, from a number on.
    Queue(QueueId, Seq),
    /// Those of several queues: the block's file and offset.
    Shared(SegmentId, u32),
}

impl Owner {
    /// What a block at `location` says that a queue takes for its messages from `first_seq` on.
    pub(super) fn of(location: &Location, queue: QueueId, first_seq: Seq) -> Self {
        match location.shared {
            true => Self::Shared(location.file, location.offset),
            false => Self::Queue(queue.without_level(), first_seq),
        }
    }

    fn fields(self) -> (u64, u64) {
        match self {
            Self::Queue(queue, first_seq) => (queue.0, first_seq),
            Self::Shared(file, offset) => (file.0, offset.into()),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(queue, first_seq) => write!(f, "queue {queue} from message {first_seq}"),
            Self::Shared(file, offset) => write!(f, "several queues at byte {offset} of {file}"),
        }
    }
}

/// A block header's content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BlockHeader {
    pub(crate) owner: Owner,
    pub(crate) count: u32,
    pub(crate) length: u32,
    pub(crate) crc: u32,
    /// Bytes of the summary; 0 when there is none.
    pub(crate) summary: u16,
}

impl BlockHeader {
    pub(super) fn encode(&self) -> [u8; BLOCK_HEADER] {
        let mut bytes = [0; BLOCK_HEADER];
        let version = match self.owner {
            Owner::Shared(..) => BLOCK_VERSION_OF_SHARED,
            Owner::Queue(..) if self.summary == 0 => 1,
            Owner::Queue(..) => BLOCK_VERSION_OF_SUMMARY,
        };
        let (owner, place) = self.owner.fields();
        put(&mut bytes, 0, BLOCK_MAGIC);
        put(&mut bytes, 4, version.to_le_bytes());
        put(&mut bytes, 6, self.summary.to_le_bytes());
        put(&mut bytes, 8, owner.to_le_bytes());
        put(&mut bytes, 16, place.to_le_bytes());
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
        if version > BLOCK_VERSION {
            return Err(newer(path, BLOCK_VERSION, version));
        }
        let (owner, place) = (u64_at(bytes, 8), u64_at(bytes, 16));
        let owner = if version < BLOCK_VERSION_OF_SHARED {
            Owner::Queue(QueueId(owner), place)
        } else {
            let Ok(place) = u32::try_from(place) else {
                return Err(corrupt(path, offset, "block owner", "an offset in the file", place));
            };
            Owner::Shared(SegmentId(owner), place)
        };
        Ok(Self {
            owner,
            count: u32_at(bytes, 24),
            length: u32_at(bytes, 28),
            crc: u32_at(bytes, 32),
            summary: u16_at(bytes, 6),
        })
    }

    /// Bytes between the header and the records.
    pub(super) fn summary_bytes(&self) -> usize {
        summary_bytes(self.summary.into())
    }
}

/// Bytes that a summary takes in a block, its checksum included.
pub(super) fn summary_bytes(summary: usize) -> usize {
    if summary == 0 { 0 } else { summary + 4 }
}

/// Checks what is between the header and the records of a block at `offset`, and takes off the checksum.
pub(super) fn check_summary<'a>(bytes: &'a [u8], path: &Path, offset: u64) -> Result<&'a [u8], StorageError> {
    let Some((summary, stored)) = bytes.split_last_chunk::<4>() else { return Ok(&[]) };
    let (expected, got) = (u32::from_le_bytes(*stored), crc32c::crc32c(summary));
    if expected == got { Ok(summary) } else { Err(bad_crc(path, offset, "summary checksum", expected, got)) }
}

fn bad_magic(path: &Path, offset: u64, what: &'static str, expected: [u8; 4], got: &[u8]) -> StorageError {
    corrupt(path, offset, what, expected.escape_ascii(), got.escape_ascii())
}

fn newer(path: &Path, expected: u16, got: u16) -> StorageError {
    StorageError::UnsupportedVersion { path: path.to_owned(), expected: expected.into(), got: got.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_bytes_are_fixed() {
        let crc = 0x0403_0201;
        let owner = Owner::Queue(QueueId(7), 9);
        let header = BlockHeader { owner, count: 2, length: 3, crc, summary: 0 };
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
    fn version_2_bytes_are_fixed() {
        let crc = 0x0403_0201;
        let owner = Owner::Queue(QueueId(7), 9);
        let header = BlockHeader { owner, count: 2, length: 3, crc, summary: 17 };
        let expected =
            b"PHBK\x02\0\x11\0\x07\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x02\0\0\0\x03\0\0\0\x01\x02\x03\x04";
        let bytes = header.encode();
        assert_eq!(&bytes[..36], expected);
        assert_eq!(BlockHeader::decode(&bytes, Path::new("f"), 0).unwrap(), header);
        assert_eq!((header.summary_bytes(), summary_bytes(0)), (21, 0));
    }

    #[test]
    fn version_3_bytes_are_fixed() {
        let crc = 0x0403_0201;
        let owner = Owner::Shared(SegmentId(7), 9);
        let header = BlockHeader { owner, count: 2, length: 3, crc, summary: 0 };
        let expected =
            b"PHBK\x03\0\0\0\x07\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x02\0\0\0\x03\0\0\0\x01\x02\x03\x04";
        let bytes = header.encode();
        assert_eq!(&bytes[..36], expected);
        assert_eq!(BlockHeader::decode(&bytes, Path::new("f"), 0).unwrap(), header);
    }

    #[test]
    fn a_newer_block_is_refused() {
        let owner = Owner::Queue(QueueId(7), 9);
        let mut bytes = BlockHeader { owner, count: 2, length: 3, crc: 4, summary: 0 }.encode();
        put(&mut bytes, 4, (BLOCK_VERSION + 1).to_le_bytes());
        seal(&mut bytes, BLOCK_CRC_AT);
        let error = BlockHeader::decode(&bytes, Path::new("f"), 0).unwrap_err().to_string();
        assert!(error.contains("version 4, expected at most 3"), "{error}");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let owner = Owner::Queue(QueueId(7), 9);
        let header = BlockHeader { owner, count: 2, length: 3, crc: 4, summary: 0 }.encode();
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
