//! The log's bytes, version 1. Everything is little-endian; checksums are CRC-32C.
//!
//! A log file starts with a header, twice: at offset 0 and, against bit rot, at offset 2048. Batches start at
//! offset 4096 and at multiples of 512, so that no two of them share a sector: a torn write of one cannot damage
//! another.
//!
//! ```text
//! file header (32 bytes)
//! | magic "PHWALOG\n" | version u32 | crc u32 | file number u64 | salt u64 |
//!
//! batch (56 bytes of header, `length` bytes of records, zeroes up to a multiple of 512)
//! | magic u32 | length u32 | crc u32 | records u32 | flags u16 | zero 6 | salt u64 | batch number u64 |
//! | first lsn u64 | durable lsn before u64 | record ... |
//!
//! record (24 bytes of header; `length` counts header and body)
//! | length u32 | kind u8 | group u24 | index u64 | term u32 | crc u32 | body |
//!
//! body by kind
//! 1 enqueue        | messages u32 | targets u32 | (queue u64, first seq u64) x targets | message records |
//! 2 settle         | queue u64 | (first seq u64, last seq u64) x n |
//! 4 queue deleted  | queue u64 |
//! 5 move           | messages u32 | targets u32 | ranges u32 | zero u32 | source queue u64
//!                  | (queue u64, first seq u64) x targets | (first seq u64, last seq u64) x ranges | message records |
//! 6 note           | queue u64 | key length u32 | key | value |
//! 7 attempts       | queue u64 | (first seq u64, last seq u64, failed u32, acquired u32) x n |
//! 8 group          | record ... |, of other kinds, whose checksums are zero
//! 9 delays         | queue u64 | (first seq u64, last seq u64, due u64) x n |
//! ```
//!
//! (There is no kind 3.)
//!
//! * An lsn counts record bytes since the data directory was made, so a batch's records have the lsns from its
//!   `first lsn` to `first lsn + length`, and a gap between two batches shows that something is missing.
//! * The file header's and batch header's checksums cover the header without the checksum. A record's checksum
//!   covers the file's salt, the record's lsn, its header without the checksum, and its body. Salts are never used
//!   twice, so what an earlier use of a recycled file left behind does not verify.
//! * `durable lsn before` is what was known to be on disk when the batch was written: evidence, for recovery, that
//!   everything below it must be readable.
//! * A queue with priorities is here one queue per level: the level is the top byte of its number and of the seqs.
//! * Group, index and term are zero until groups are replicated. The message records are those of
//!   `posthouse_model::record`, their deltas counting from 0 without holes.
//! * A move is an enqueue and a settle of its source in one: there is no crash after which a message is in neither. It is
//!   in both when a checkpoint has it where it went, because it was written to a segment early, and a crash comes before
//!   the move is durable: where it came from it was not settled before that. Kind 5 is there from data directory format 3
//!   on.
//! * A note is something small that a queue's owner remembers beside the messages: the last value of a key counts, and
//!   an empty one means that there is none. Kind 6 is there from data directory format 4 on.
//! * Attempts say of messages that came back how often they have been handed out by then, and how often that failed. Said
//!   twice, or in another order, the larger numbers count. Kind 7 is there from data directory format 5 on.
//! * A group is several records of which a crash leaves all or none. It has one checksum, of everything in it. Kind 8 is
//!   there from data directory format 7 on.
//! * Delays say of messages that came back when they are to be handed out again, in milliseconds since the Unix epoch. Said
//!   twice, or in another order, the latest time counts. Kind 9 is there from data directory format 8 on.
//! * Flag 1 on a batch without records: the log was closed in good order there.

use posthouse_model::attempts::{AttemptRange, Attempts};
use posthouse_model::delays::DelayRange;
use posthouse_model::ids::{Lsn, QueueId, Seq};

use crate::fields::{crc_around, put, seal, u16_at, u32_at, u64_at};

/// The format version this build writes, and the newest it reads.
pub const VERSION: u32 = 1;

/// Where the second copy of the file header is.
pub(super) const HEADER_COPY_AT: u64 = 2048;
/// Where the first batch is.
pub(super) const FIRST_BATCH_AT: u64 = 4096;
/// Batches start at multiples of this.
pub(super) const BATCH_ALIGN: u64 = 512;

pub(super) const FILE_HEADER_BYTES: usize = 32;
pub(super) const BATCH_HEADER_BYTES: usize = 56;
pub(super) const RECORD_HEADER_BYTES: usize = 24;

/// The batch closes the log.
pub(super) const FLAG_CLOSED: u16 = 1;

pub(super) const KIND_ENQUEUE: u8 = 1;
pub(super) const KIND_SETTLE: u8 = 2;
pub(super) const KIND_QUEUE_DELETED: u8 = 4;
pub(super) const KIND_MOVE: u8 = 5;
pub(super) const KIND_NOTE: u8 = 6;
pub(super) const KIND_ATTEMPTS: u8 = 7;
pub(super) const KIND_GROUP: u8 = 8;
pub(super) const KIND_DELAYS: u8 = 9;

const FILE_MAGIC: &[u8; 8] = b"PHWALOG\n";
const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"PHBT");
const FILE_CRC_AT: usize = 12;
const BATCH_CRC_AT: usize = 8;
const RECORD_CRC_AT: usize = 20;

/// Who a log file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileHeader {
    pub(super) number: u64,
    pub(super) salt: u64,
}

/// What the bytes at a file header's place say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ReadHeader {
    Valid(FileHeader),
    /// A valid header of another version.
    Version(u32),
    Invalid,
}

impl FileHeader {
    pub(super) fn encode(self) -> [u8; FILE_HEADER_BYTES] {
        let mut bytes = [0; FILE_HEADER_BYTES];
        put(&mut bytes, 0, *FILE_MAGIC);
        put(&mut bytes, 8, VERSION.to_le_bytes());
        put(&mut bytes, 16, self.number.to_le_bytes());
        put(&mut bytes, 24, self.salt.to_le_bytes());
        seal(&mut bytes, FILE_CRC_AT);
        bytes
    }

    pub(super) fn decode(bytes: &[u8; FILE_HEADER_BYTES]) -> ReadHeader {
        if bytes[0..8] != *FILE_MAGIC || u32_at(bytes, FILE_CRC_AT) != crc_around(bytes, FILE_CRC_AT) {
            return ReadHeader::Invalid;
        }
        match u32_at(bytes, 8) {
            VERSION => ReadHeader::Valid(Self { number: u64_at(bytes, 16), salt: u64_at(bytes, 24) }),
            version => ReadHeader::Version(version),
        }
    }
}

/// The head of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BatchHeader {
    /// Bytes of its records.
    pub(super) length: u32,
    pub(super) records: u32,
    pub(super) flags: u16,
    pub(super) salt: u64,
    pub(super) number: u64,
    pub(super) first: Lsn,
    pub(super) durable_before: Lsn,
}

impl BatchHeader {
    pub(super) fn encode(&self) -> [u8; BATCH_HEADER_BYTES] {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        put(&mut bytes, 0, BATCH_MAGIC.to_le_bytes());
        put(&mut bytes, 4, self.length.to_le_bytes());
        put(&mut bytes, 12, self.records.to_le_bytes());
        put(&mut bytes, 16, self.flags.to_le_bytes());
        put(&mut bytes, 24, self.salt.to_le_bytes());
        put(&mut bytes, 32, self.number.to_le_bytes());
        put(&mut bytes, 40, self.first.to_le_bytes());
        put(&mut bytes, 48, self.durable_before.to_le_bytes());
        seal(&mut bytes, BATCH_CRC_AT);
        bytes
    }

    /// `None` unless `bytes` start with a batch header of the file salted with `salt`.
    pub(super) fn decode(bytes: &[u8], salt: u64) -> Option<Self> {
        let bytes = bytes.first_chunk::<BATCH_HEADER_BYTES>()?;
        let good = u32_at(bytes, 0) == BATCH_MAGIC
            && u64_at(bytes, 24) == salt
            && u32_at(bytes, BATCH_CRC_AT) == crc_around(bytes, BATCH_CRC_AT);
        good.then(|| Self {
            length: u32_at(bytes, 4),
            records: u32_at(bytes, 12),
            flags: u16_at(bytes, 16),
            salt,
            number: u64_at(bytes, 32),
            first: u64_at(bytes, 40),
            durable_before: u64_at(bytes, 48),
        })
    }

    /// The lsn after its last record.
    pub(super) fn end(&self) -> Lsn {
        self.first + u64::from(self.length)
    }

    /// Bytes it takes in the file.
    pub(super) fn file_bytes(&self) -> u64 {
        batch_file_bytes(u64::from(self.length))
    }
}

/// Whether `bytes` start as a batch does, of whichever file.
pub(super) fn looks_like_batch(bytes: &[u8]) -> bool {
    bytes.starts_with(&BATCH_MAGIC.to_le_bytes())
}

/// Whether `bytes`, not a valid batch header, are what damage left of the one that starts at position `first` in the
/// file salted with `salt`.
pub(super) fn was_batch(bytes: &[u8], salt: u64, first: Lsn) -> bool {
    bytes.len() >= BATCH_HEADER_BYTES && (u64_at(bytes, 24) == salt || u64_at(bytes, 40) == first)
}

/// Bytes that a batch with `length` bytes of records takes in a file.
pub(super) fn batch_file_bytes(length: u64) -> u64 {
    (BATCH_HEADER_BYTES as u64 + length).next_multiple_of(BATCH_ALIGN)
}

/// A record's header with a checksum still to be filled in.
pub(super) fn record_header(kind: u8, length: u32) -> [u8; RECORD_HEADER_BYTES] {
    let mut bytes = [0; RECORD_HEADER_BYTES];
    put(&mut bytes, 0, length.to_le_bytes());
    bytes[4] = kind;
    bytes
}

/// The whole length of the record whose bytes start at `at`.
pub(super) fn record_length(bytes: &[u8], at: usize) -> usize {
    u32_at(bytes, at) as usize
}

/// Fills in the checksum of a record that lies in two pieces: `own`, header included, and `shared`.
pub(super) fn seal_record(own: &mut [u8], shared: &[u8], salt: u64, lsn: Lsn) {
    let crc = record_crc(own, shared, salt, lsn);
    put(own, RECORD_CRC_AT, crc.to_le_bytes());
}

/// Whether `record`, whole, carries the checksum that belongs to it.
pub(super) fn record_is_intact(record: &[u8], salt: u64, lsn: Lsn) -> bool {
    record.len() >= RECORD_HEADER_BYTES && u32_at(record, RECORD_CRC_AT) == record_crc(record, &[], salt, lsn)
}

/// A cheap test for where a record may start, before its checksum is computed.
pub(super) fn could_be_record(bytes: &[u8]) -> bool {
    bytes.len() >= RECORD_HEADER_BYTES
        && bytes[4] != 0
        && bytes[5..RECORD_CRC_AT].iter().all(|&byte| byte == 0)
}

fn record_crc(own: &[u8], shared: &[u8], salt: u64, lsn: Lsn) -> u32 {
    // One short run instead of two: the checksum's cost on small records is per call.
    let mut head = [0; 16 + RECORD_CRC_AT];
    head[..8].copy_from_slice(&salt.to_le_bytes());
    head[8..16].copy_from_slice(&lsn.to_le_bytes());
    head[16..].copy_from_slice(&own[..RECORD_CRC_AT]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head), &own[RECORD_HEADER_BYTES..]);
    if shared.is_empty() { crc } else { crc32c::crc32c_append(crc, shared) }
}

/// One record of the log, as recovery hands it out.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum LogRecord<'a> {
    /// Messages entered one or more queues.
    Enqueue(Enqueue<'a>),
    /// Messages of a queue are done with: acknowledged, expired, dropped.
    Settle {
        /// The queue.
        queue: QueueId,
        /// Which ones.
        ranges: Ranges<'a>,
    },
    /// A queue's owner remembers something.
    Note {
        /// The queue.
        queue: QueueId,
        /// Of what.
        key: &'a [u8],
        /// What; empty for nothing any more.
        value: &'a [u8],
    },
    /// Messages of a queue came back.
    Attempts {
        /// The queue.
        queue: QueueId,
        /// How often each has been handed out by now.
        attempts: Attempted<'a>,
    },
    /// Messages of a queue came back and wait.
    Delays {
        /// The queue.
        queue: QueueId,
        /// For which time each.
        delays: Delayed<'a>,
    },
    /// A queue and everything in it is gone. Its id is never used again.
    QueueDeleted {
        /// The queue.
        queue: QueueId,
    },
    /// Messages left a queue and entered others.
    Move {
        /// Where they are now. Their records may differ from those that left.
        entered: Enqueue<'a>,
        /// Where they were.
        source: QueueId,
        /// Which ones.
        ranges: Ranges<'a>,
    },
    /// What is there as a whole or not at all.
    Group(Group<'a>),
}

/// Records that belong together; each was found to have the form of its kind.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Group<'a>(&'a [u8]);

impl<'a> Group<'a> {
    /// The records, in order. None of them is a group.
    pub fn records(&self) -> impl Iterator<Item = LogRecord<'a>> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (record, after) = split_member(rest)?;
            rest = after;
            Some(record)
        })
    }
}

/// Takes the first record of a group off the others; `None` when there is none, or it has no form that is known.
fn split_member(records: &[u8]) -> Option<(LogRecord<'_>, &[u8])> {
    let length = u32_at(records.get(..RECORD_HEADER_BYTES)?, 0) as usize;
    let (record, after) = records.split_at_checked(length)?;
    match LogRecord::parse(record)? {
        LogRecord::Group(_) => None,
        record => Some((record, after)),
    }
}

/// Messages that entered queues together.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Enqueue<'a> {
    count: u32,
    targets: &'a [u8],
    records: &'a [u8],
}

impl<'a> Enqueue<'a> {
    /// How many messages.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The queues they entered, and each queue's number for the first of them.
    pub fn targets(&self) -> impl ExactSizeIterator<Item = (QueueId, Seq)> + use<'a> {
        self.targets.chunks_exact(16).map(|pair| (QueueId(u64_at(pair, 0)), u64_at(pair, 8)))
    }

    /// The message records, laid end to end.
    pub fn records(&self) -> &'a [u8] {
        self.records
    }
}

/// Inclusive ranges of message numbers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Ranges<'a>(&'a [u8]);

impl<'a> Ranges<'a> {
    /// The ranges, `(first, last)`, in the order staged.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Seq, Seq)> + use<'a> {
        self.0.chunks_exact(16).map(|pair| (u64_at(pair, 0), u64_at(pair, 8)))
    }
}

/// What is said of messages that came back.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Attempted<'a>(&'a [u8]);

impl<'a> Attempted<'a> {
    /// The ranges, in the order staged.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = AttemptRange> + use<'a> {
        self.0.chunks_exact(24).map(|entry| AttemptRange {
            first: u64_at(entry, 0),
            last: u64_at(entry, 8),
            attempts: Attempts { failed: u32_at(entry, 16), acquired: u32_at(entry, 20) },
        })
    }
}

/// What is said of messages that wait.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Delayed<'a>(&'a [u8]);

impl<'a> Delayed<'a> {
    /// The ranges, in the order staged.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = DelayRange> + use<'a> {
        self.0.chunks_exact(24).map(|entry| DelayRange {
            first: u64_at(entry, 0),
            last: u64_at(entry, 8),
            due_ms: u64_at(entry, 16),
        })
    }
}

impl<'a> LogRecord<'a> {
    /// Reads a record whose checksum was right; `None` when its kind is unknown or its body has the wrong form.
    pub(super) fn parse(record: &'a [u8]) -> Option<Self> {
        let (head, body) = record.split_at_checked(RECORD_HEADER_BYTES)?;
        match head[4] {
            KIND_ENQUEUE => {
                let (fixed, rest) = body.split_at_checked(8)?;
                let targets_bytes = (u32_at(fixed, 4) as usize).checked_mul(16)?;
                let (targets, records) = rest.split_at_checked(targets_bytes)?;
                Some(Self::Enqueue(Enqueue { count: u32_at(fixed, 0), targets, records }))
            }
            KIND_SETTLE => {
                let (queue, ranges) = body.split_at_checked(8)?;
                let whole = ranges.len().is_multiple_of(16);
                whole.then(|| Self::Settle { queue: QueueId(u64_at(queue, 0)), ranges: Ranges(ranges) })
            }
            KIND_MOVE => {
                let (fixed, rest) = body.split_at_checked(24)?;
                let (targets, rest) = rest.split_at_checked((u32_at(fixed, 4) as usize).checked_mul(16)?)?;
                let (ranges, records) =
                    rest.split_at_checked((u32_at(fixed, 8) as usize).checked_mul(16)?)?;
                let entered = Enqueue { count: u32_at(fixed, 0), targets, records };
                Some(Self::Move { entered, source: QueueId(u64_at(fixed, 16)), ranges: Ranges(ranges) })
            }
            KIND_ATTEMPTS => {
                let (queue, attempts) = body.split_at_checked(8)?;
                let whole = attempts.len().is_multiple_of(24);
                let queue = QueueId(u64_at(queue, 0));
                whole.then_some(Self::Attempts { queue, attempts: Attempted(attempts) })
            }
            KIND_DELAYS => {
                let (queue, delays) = body.split_at_checked(8)?;
                let whole = delays.len().is_multiple_of(24);
                let queue = QueueId(u64_at(queue, 0));
                whole.then_some(Self::Delays { queue, delays: Delayed(delays) })
            }
            KIND_QUEUE_DELETED if body.len() == 8 => {
                Some(Self::QueueDeleted { queue: QueueId(u64_at(body, 0)) })
            }
            KIND_NOTE => {
                let (fixed, rest) = body.split_at_checked(12)?;
                let (key, value) = rest.split_at_checked(u32_at(fixed, 8) as usize)?;
                Some(Self::Note { queue: QueueId(u64_at(fixed, 0)), key, value })
            }
            // Checked as a whole: half a group must not be replayed.
            KIND_GROUP => {
                let mut rest = body;
                while !rest.is_empty() {
                    rest = split_member(rest)?.1;
                }
                Some(Self::Group(Group(body)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
