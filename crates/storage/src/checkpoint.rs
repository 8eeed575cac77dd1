//! Checkpoint files: the state of every queue at a log position, so that replay starts there.
//!
//! `checkpoint-<n>` (n in 16 hexadecimal digits) in the data directory; the newest valid one counts. It is written
//! to `checkpoint.new`, synced and renamed; then the one before becomes the next `checkpoint.new`, with its space. On a
//! full disk only a checkpoint makes room, so it must not need any: both files have more than they use, and it is never
//! given back in between. Little-endian, `v` is a LEB128 varint, version 7:
//!
//! ```text
//! header:   magic "PHCK" u32 | version u16 | flags u16 (1 = clean stop) | number u64 | log position u64 |
//!           length of header, queues and trailer u64 | crc32c of everything before u32 | zero u32
//! queue:    id v | next_seq v | next_seq-floor v | next_seq-covered v | next_seq-delivered_below v | blocks v | block... |
//!           notes v | note... | ranges v | range... | delays v | delay...
//! block:    first seq less the end of the block before (of 0 for the first) v |
//!           span<<4 + has publishers<<3 + is shared<<2 + may expire<<1 + has bitmap v |
//!           span less the block's records v | file number, zigzag difference to the block before v | offset v | length v |
//!           received first, ms since the Unix epoch, zigzag difference to the block before v | last less first v | [publishers] |
//!           [bitmap, see SeqBitmap]
//! publishers: count v | user number v, if it is one; user number v and bytes v of each, if there are several
//! note:     key length v | key | value length v | value
//! range:    first seq less the end of the range before (of 0 for the first) v | last seq less first v | failed v | acquired v
//! delay:    first seq and last seq as in a range | due, ms since the Unix epoch, zigzag difference to the delay before v
//! trailer:  queues u64 | crc32c of the number as u64, the queues, and the count before it u32 | "KCHP" u32
//! file:     header | queue | queue | ... | trailer | what an earlier checkpoint has left
//! ```
//!
//! Up to version 2 the header had no length and no checksum, the trailer's checksum was of everything before, and the
//! file ended with it; blocks had no times and no `may expire` bit: `span<<1 + has bitmap`, and after the length the
//! bitmap. They are read as received at any time, and no message of theirs expires. Version 1 had no notes either. Up to
//! version 3 there were no ranges, which are what is known of messages that came back. Up to version 4 no block was
//! shared, and there was no bit for it: `span<<2 + may expire<<1 + has bitmap`. Up to version 5 nobody knew who published, and
//! there was no bit for that either. Up to version 6 there were no delays.
//!
//! For a few hours, and in no release, version 3 had the new header and version 2's blocks. Such a file is refused; where
//! no queue has a block there is no difference, and it is read.
//!
//! An idle queue takes about ten bytes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use posthouse_model::attempts::AttemptRange;
use posthouse_model::bitmap::SeqBitmap;
use posthouse_model::chunk::Received;
use posthouse_model::delays::DelayRange;
use posthouse_model::ids::{Lsn, QueueId, Seq};
use posthouse_model::shares::Shares;

use crate::corrupt::{bad_crc, corrupt, io, read_exact};
use crate::disk::{Access, Disk, DiskFile};
use crate::error::StorageError;
use crate::fields::{u16_at, u32_at, u64_at};
use crate::segment::Location;
use queue_state::{VERSION_OF_TIMES, decode_queue, encode_queue};

mod queue_state;

const VERSION: u16 = 7;
/// The first version whose header says how long it is.
const VERSION_OF_LENGTH: u16 = 3;
const MAGIC: [u8; 4] = *b"PHCK";
const END_MAGIC: [u8; 4] = *b"KCHP";
const HEADER: usize = 40;
/// Of the header before [`VERSION_OF_LENGTH`].
const SHORT_HEADER: usize = 24;
const TRAILER: usize = 16;
const FLAG_CLEAN: u16 = 1;
const TEMPORARY: &str = "checkpoint.new";
/// Space reserved for the next checkpoint, at least.
const RESERVED_MIN: u64 = 1 << 20;
/// Bytes encoded before they are written out.
const FLUSH_BYTES: usize = 1 << 20;

/// One block of a queue in a durable segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockRef {
    /// Where it is; always of the durable class.
    pub location: Location,
    /// The sequence number that delta 0 stands for.
    pub first_seq: Seq,
    /// How many sequence numbers it covers. Each is a record of the block or is set in `settled`.
    pub span: u32,
    /// The numbers, less `first_seq`, that are settled or were never there; `None` when there are none.
    pub settled: Option<SeqBitmap>,
    /// When its messages were received.
    pub received: Received,
    /// Whether a message in it may have a time to live of its own.
    pub expires: bool,
    /// Who published how much of it.
    pub shares: Shares,
}

/// Something small that a queue's owner remembers beside the messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    /// Of what; unique in its queue.
    pub key: Box<[u8]>,
    /// What; never empty.
    pub value: Box<[u8]>,
}

/// What a checkpoint says about a queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueState {
    /// Which queue.
    pub id: QueueId,
    /// The number the next message gets.
    pub next_seq: Seq,
    /// Everything below is settled.
    pub floor: Seq,
    /// The live durable messages below are exactly those in `blocks` that are not settled. Messages from here on are
    /// in the log, at or above the checkpoint's position.
    pub covered: Seq,
    /// The highest number ever handed to a consumer, plus one.
    pub delivered_below: Seq,
    /// In ascending order of `first_seq`, not overlapping.
    pub blocks: Vec<BlockRef>,
    /// What the queue's owner remembers: of each note the last one staged below the checkpoint's position, or a later
    /// one.
    pub notes: Vec<Note>,
    /// How often messages that came back have been handed out, in ascending order, not overlapping.
    pub attempts: Vec<AttemptRange>,
    /// For which time messages wait that came back, in ascending order, not overlapping.
    pub delays: Vec<DelayRange>,
}

/// A whole checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Its number.
    pub number: u64,
    /// Replay the log from here.
    pub lsn: Lsn,
    /// It was written by an orderly stop: nothing happened after it.
    pub clean: bool,
    /// Every queue's state.
    pub queues: Vec<QueueState>,
}

/// What [`load`] found.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The newest valid checkpoint; `None` in a new directory.
    pub checkpoint: Option<Checkpoint>,
    /// How many bytes it has.
    pub bytes: u64,
    /// Newer ones that are damaged.
    pub damages: Vec<StorageError>,
    /// The number the next one gets.
    pub next_number: u64,
}

/// Loads the newest valid checkpoint of `dir`. Changes nothing.
///
/// # Errors
/// When files cannot be read, when the newest is of a newer format, or when there are checkpoints and none is valid:
/// going on without would bring settled messages back and lose those that left the log.
pub fn load(disk: &dyn Disk, dir: &Path) -> Result<Loaded, StorageError> {
    let mut numbers = list(disk, dir)?;
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    let mut loaded = Loaded { next_number: numbers.first().map_or(0, |n| n + 1), ..Loaded::default() };
    for number in numbers {
        let path = dir.join(file_name(number));
        match read(disk, &path, number) {
            Ok((checkpoint, bytes)) => {
                (loaded.checkpoint, loaded.bytes) = (Some(checkpoint), bytes);
                return Ok(loaded);
            }
            Err(damage @ StorageError::Corrupt { .. }) => loaded.damages.push(damage),
            Err(error) => return Err(error),
        }
    }
    match loaded.damages.pop() {
        None => Ok(loaded),
        Some(damage) => Err(damage),
    }
}

/// Writes a checkpoint step by step in bounded memory.
pub struct CheckpointWriter<'a> {
    disk: &'a dyn Disk,
    dir: PathBuf,
    file: Arc<dyn DiskFile>,
    number: u64,
    /// The header, but for its length and checksum.
    header: Vec<u8>,
    buffer: Vec<u8>,
    written: u64,
    crc: u32,
    queues: u64,
}

impl<'a> CheckpointWriter<'a> {
    /// Begins the temporary file of checkpoint `number`: over what [`reserve`] made, if it is there.
    ///
    /// # Errors
    /// When it can neither be opened nor created.
    pub fn begin(
        disk: &'a dyn Disk,
        dir: &Path,
        number: u64,
        lsn: Lsn,
        clean: bool,
    ) -> Result<Self, StorageError> {
        let path = dir.join(TEMPORARY);
        let file = open_or_create(disk, &path)?;
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&(if clean { FLAG_CLEAN } else { 0 }).to_le_bytes());
        header.extend_from_slice(&number.to_le_bytes());
        header.extend_from_slice(&lsn.to_le_bytes());
        let buffer = Vec::with_capacity(FLUSH_BYTES + FLUSH_BYTES / 4);
        let (written, crc) = (HEADER as u64, crc32c::crc32c(&number.to_le_bytes()));
        Ok(Self { disk, dir: dir.to_owned(), file, number, header, buffer, written, crc, queues: 0 })
    }

    /// Adds a queue.
    ///
    /// # Errors
    /// When a write fails.
    pub fn add(&mut self, state: &QueueState) -> Result<(), StorageError> {
        encode_queue(state, &mut self.buffer);
        self.queues += 1;
        if self.buffer.len() >= FLUSH_BYTES { self.flush() } else { Ok(()) }
    }

    /// Makes the checkpoint the one that counts, durably, and says how long it is. `before_sync` runs after the last queue was added and
    /// before anything becomes durable: what the states refer to is synced there.
    ///
    /// # Errors
    /// When anything fails. The checkpoint before still counts, or, after a failed directory sync, either may.
    pub fn finish(
        mut self,
        before_sync: impl FnOnce() -> Result<(), StorageError>,
    ) -> Result<u64, StorageError> {
        self.buffer.extend_from_slice(&self.queues.to_le_bytes());
        let crc = crc32c::crc32c_append(self.crc, &self.buffer);
        self.buffer.extend_from_slice(&crc.to_le_bytes());
        self.buffer.extend_from_slice(&END_MAGIC);
        self.flush()?;
        let path = self.dir.join(TEMPORARY);
        self.header.extend_from_slice(&self.written.to_le_bytes());
        let crc = crc32c::crc32c(&self.header);
        self.header.extend_from_slice(&crc.to_le_bytes());
        self.header.resize(HEADER, 0);
        self.file.write_all_at(&self.header, 0).map_err(io("write", &path))?;
        before_sync()?;
        self.file.sync_data().map_err(io("sync", &path))?;
        let target = self.dir.join(file_name(self.number));
        self.disk.rename(&path, &target).map_err(io("rename", &path))?;
        self.disk.sync_dir(&self.dir).map_err(io("sync", &self.dir))?;
        Ok(self.written)
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        let path = self.dir.join(TEMPORARY);
        let offset = self.written;
        self.file
            .write_all_at(&self.buffer, offset)
            .map_err(|e| StorageError::io_at("write", &path, offset, e))?;
        self.crc = crc32c::crc32c_append(self.crc, &self.buffer);
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Reserves space for the next checkpoint, given how long the last one is. Where there is none, the next one has what
/// there is already.
///
/// # Errors
/// When the file cannot be made for another reason than lack of room.
pub fn reserve(disk: &dyn Disk, dir: &Path, last_bytes: u64) -> Result<(), StorageError> {
    let path = dir.join(TEMPORARY);
    let wanted = last_bytes.saturating_mul(2).max(RESERVED_MIN);
    let reserved = open_or_create(disk, &path).and_then(|file| {
        let bytes = file.size().map_err(io("measure", &path))?;
        if bytes > wanted.saturating_mul(4) {
            return file.set_len(wanted).map_err(io("cut", &path));
        }
        file.allocate(wanted).map_err(io("allocate", &path))
    });
    match reserved {
        Err(error) if error.may_pass() => Ok(()),
        reserved => reserved,
    }
}

fn open_or_create(disk: &dyn Disk, path: &Path) -> Result<Arc<dyn DiskFile>, StorageError> {
    match disk.open(path, Access::ReadWrite) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            disk.create(path).map_err(io("create", path))
        }
        opened => opened.map_err(io("open", path)),
    }
}

/// Removes checkpoints with a number below `number`, durably. The newest of them becomes the file that the next
/// checkpoint is written to.
///
/// # Errors
/// When that fails.
pub fn recycle_older(disk: &dyn Disk, dir: &Path, number: u64) -> Result<(), StorageError> {
    let mut older: Vec<_> = list(disk, dir)?.into_iter().filter(|n| *n < number).collect();
    older.sort_unstable();
    let Some(newest) = older.pop() else { return Ok(()) };
    let path = dir.join(file_name(newest));
    disk.rename(&path, &dir.join(TEMPORARY)).map_err(io("rename", &path))?;
    for old in older {
        let path = dir.join(file_name(old));
        disk.remove(&path).map_err(io("delete", &path))?;
    }
    disk.sync_dir(dir).map_err(io("sync", dir))
}

/// The numbers of all checkpoints in `dir`, valid or not.
///
/// # Errors
/// When the directory cannot be listed.
pub(crate) fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, StorageError> {
    let names = disk.list(dir).map_err(io("list", dir))?;
    let number = |name: &String| {
        let digits = name.strip_prefix("checkpoint-").filter(|digits| digits.len() == 16)?;
        u64::from_str_radix(digits, 16).ok()
    };
    Ok(names.iter().filter_map(number).collect())
}

fn file_name(number: u64) -> String {
    format!("checkpoint-{number:016x}")
}

/// The checkpoint in a file, and how long it is.
fn read(disk: &dyn Disk, path: &Path, number: u64) -> Result<(Checkpoint, u64), StorageError> {
    let file = disk.open(path, Access::Read).map_err(io("open", path))?;
    let size = file.size().map_err(io("read", path))?;
    let bytes = match usize::try_from(size) {
        Ok(size) if size >= SHORT_HEADER + TRAILER => read_exact(&*file, path, 0, size)?,
        _ => {
            let expected = format!("at least {} bytes", SHORT_HEADER + TRAILER);
            return Err(corrupt(path, 0, "checkpoint length", expected, size));
        }
    };
    let (checkpoint, length) = parse(&bytes, path, number)?;
    Ok((checkpoint, length as u64))
}

fn parse(bytes: &[u8], path: &Path, number: u64) -> Result<(Checkpoint, usize), StorageError> {
    if bytes[..4] != MAGIC {
        return Err(corrupt(path, 0, "checkpoint magic", "PHCK", bytes[..4].escape_ascii()));
    }
    let version = u16_at(bytes, 4);
    if version > VERSION {
        let (path, expected, got) = (path.to_owned(), VERSION.into(), version.into());
        return Err(StorageError::UnsupportedVersion { path, expected, got });
    }
    let (header, length, seed) = if version < VERSION_OF_LENGTH {
        (SHORT_HEADER, bytes.len(), crc32c::crc32c(&bytes[..SHORT_HEADER]))
    } else {
        (HEADER, length_in_header(bytes, path)?, crc32c::crc32c(&number.to_le_bytes()))
    };
    let got = u64_at(bytes, 8);
    if got != number {
        return Err(corrupt(path, 8, "checkpoint number", number, got));
    }
    let (content, trailer) = bytes[..length].split_at(length - TRAILER);
    if trailer[12..] != END_MAGIC {
        let got = trailer[12..].escape_ascii();
        return Err(corrupt(path, (length - 4) as u64, "checkpoint end", "KCHP", got));
    }
    let crc = crc32c::crc32c_append(seed, &bytes[header..length - 8]);
    let expected = u32_at(trailer, 8);
    if crc != expected {
        return Err(bad_crc(path, 0, "checkpoint checksum", expected, crc));
    }
    let (content, count) = (&content[header..], u64_at(trailer, 0));
    let queues = decode_queues(content, version, count);
    if version == VERSION_OF_TIMES
        && let Ok(without_times) = decode_queues(content, VERSION_OF_TIMES - 1, count)
        && queues.as_ref() != Ok(&without_times)
    {
        return Err(StorageError::Unreleased {
            path: path.to_owned(),
            version: version.into(),
            problem: "its blocks have no times",
        });
    }
    let queues = queues.map_err(|(left, expected, got)| {
        corrupt(path, (header + content.len() - left) as u64, "checkpoint", expected, got)
    })?;
    let clean = u16_at(bytes, 6) & FLAG_CLEAN != 0;
    Ok((Checkpoint { number, lsn: u64_at(bytes, 16), clean, queues }, length))
}

/// The length that a header has: at least that of header and trailer, at most the file's.
fn length_in_header(bytes: &[u8], path: &Path) -> Result<usize, StorageError> {
    if bytes.len() < HEADER + TRAILER {
        let expected = format!("at least {} bytes", HEADER + TRAILER);
        return Err(corrupt(path, 0, "checkpoint length", expected, bytes.len()));
    }
    let (crc, expected) = (crc32c::crc32c(&bytes[..32]), u32_at(bytes, 32));
    if crc != expected || bytes[36..HEADER] != [0; 4] {
        return Err(bad_crc(path, 0, "checkpoint header checksum", expected, crc));
    }
    let length = u64_at(bytes, 24);
    let fits = |length: &usize| (HEADER + TRAILER..=bytes.len()).contains(length);
    usize::try_from(length).ok().filter(fits).ok_or_else(|| {
        corrupt(path, 24, "checkpoint length", format_args!("at most {} bytes", bytes.len()), length)
    })
}

/// The queues; or how many bytes are left where they end, what was expected there, and what is there.
fn decode_queues(
    mut rest: &[u8],
    version: u16,
    count: u64,
) -> Result<Vec<QueueState>, (usize, &'static str, String)> {
    let mut queues = Vec::new();
    for _ in 0..count {
        let left = rest.len();
        let state = decode_queue(&mut rest, version);
        queues.push(state.ok_or_else(|| (left, "a queue's state", "other bytes".to_owned()))?);
    }
    match rest.len() {
        0 => Ok(queues),
        more => Err((more, "its end", format!("{more} more bytes"))),
    }
}

#[cfg(test)]
mod tests;
