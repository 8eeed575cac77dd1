//! Checkpoint files: the state of every queue at a log position, so that replay starts there.
//!
//! `checkpoint-<n>` (n in 16 hexadecimal digits) in the data directory; the newest valid one counts. It is written
//! to `checkpoint.new`, synced and renamed, and the one before is removed only then. Little-endian, `v` is a LEB128
//! varint, version 2:
//!
//! ```text
//! header:   magic "PHCK" u32 | version u16 | flags u16 (1 = clean stop) | number u64 | log position u64
//! queue:    id v | next_seq v | next_seq-floor v | next_seq-covered v | next_seq-delivered_below v | blocks v | block... | notes v | note...
//! block:    first seq less the end of the block before (of 0 for the first) v | span<<1 + has bitmap v |
//!           span less the block's records v | file number, zigzag difference to the block before v | offset v | length v | [bitmap, see SeqBitmap]
//! note:     key length v | key | value length v | value
//! trailer:  queues u64 | crc32c of everything before u32 | "KCHP" u32
//! file:     header | queue | queue | ... | trailer
//! ```
//!
//! An idle queue takes about ten bytes. Version 1 had no notes; it is read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use posthouse_model::bitmap::SeqBitmap;
use posthouse_model::ids::{Lsn, QueueId, Seq};

use crate::corrupt::{bad_crc, corrupt, io, read_exact};
use crate::disk::{Access, Disk, DiskFile};
use crate::error::StorageError;
use crate::fields::{u16_at, u32_at, u64_at};
use crate::segment::{Class, Location, SegmentId};
use crate::varint;

const VERSION: u16 = 2;
/// The first version with notes.
const VERSION_OF_NOTES: u16 = 2;
const MAGIC: [u8; 4] = *b"PHCK";
const END_MAGIC: [u8; 4] = *b"KCHP";
const HEADER: usize = 24;
const TRAILER: usize = 16;
const FLAG_CLEAN: u16 = 1;
const TEMPORARY: &str = "checkpoint.new";
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
            Ok(checkpoint) => {
                loaded.checkpoint = Some(checkpoint);
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
    buffer: Vec<u8>,
    written: u64,
    crc: u32,
    queues: u64,
}

impl<'a> CheckpointWriter<'a> {
    /// Begins the temporary file of checkpoint `number`.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn begin(
        disk: &'a dyn Disk,
        dir: &Path,
        number: u64,
        lsn: Lsn,
        clean: bool,
    ) -> Result<Self, StorageError> {
        let path = dir.join(TEMPORARY);
        match disk.remove(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(io("delete", &path)(e));
            }
            _ => {}
        }
        let file = disk.create(&path).map_err(io("create", &path))?;
        let mut buffer = Vec::with_capacity(FLUSH_BYTES + FLUSH_BYTES / 4);
        buffer.extend_from_slice(&MAGIC);
        buffer.extend_from_slice(&VERSION.to_le_bytes());
        buffer.extend_from_slice(&(if clean { FLAG_CLEAN } else { 0 }).to_le_bytes());
        buffer.extend_from_slice(&number.to_le_bytes());
        buffer.extend_from_slice(&lsn.to_le_bytes());
        Ok(Self { disk, dir: dir.to_owned(), file, number, buffer, written: 0, crc: 0, queues: 0 })
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

    /// Makes the checkpoint the one that counts, durably. `before_sync` runs after the last queue was added and
    /// before anything becomes durable: what the states refer to is synced there.
    ///
    /// # Errors
    /// When anything fails. The checkpoint before still counts, or, after a failed directory sync, either may.
    pub fn finish(
        mut self,
        before_sync: impl FnOnce() -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        self.buffer.extend_from_slice(&self.queues.to_le_bytes());
        let crc = crc32c::crc32c_append(self.crc, &self.buffer);
        self.buffer.extend_from_slice(&crc.to_le_bytes());
        self.buffer.extend_from_slice(&END_MAGIC);
        self.flush()?;
        before_sync()?;
        let path = self.dir.join(TEMPORARY);
        self.file.sync_data().map_err(io("sync", &path))?;
        let target = self.dir.join(file_name(self.number));
        self.disk.rename(&path, &target).map_err(io("rename", &path))?;
        self.disk.sync_dir(&self.dir).map_err(io("sync", &self.dir))
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

/// Removes checkpoints with a number below `number`, durably.
///
/// # Errors
/// When that fails.
pub fn remove_older(disk: &dyn Disk, dir: &Path, number: u64) -> Result<(), StorageError> {
    let mut removed = false;
    for old in list(disk, dir)?.into_iter().filter(|n| *n < number) {
        let path = dir.join(file_name(old));
        disk.remove(&path).map_err(io("delete", &path))?;
        removed = true;
    }
    if removed {
        disk.sync_dir(dir).map_err(io("sync", dir))?;
    }
    Ok(())
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

fn encode_queue(state: &QueueState, out: &mut Vec<u8>) {
    varint::put(out, state.id.0);
    varint::put(out, state.next_seq);
    for below in [state.floor, state.covered, state.delivered_below] {
        debug_assert!(below <= state.next_seq, "{state:?}");
        varint::put(out, state.next_seq - below.min(state.next_seq));
    }
    varint::put(out, state.blocks.len() as u64);
    let (mut end, mut file) = (0, 0u64);
    for block in &state.blocks {
        debug_assert!(block.first_seq >= end && block.location.class == Class::Durable, "{block:?}");
        varint::put(out, block.first_seq - end);
        end = block.first_seq + u64::from(block.span);
        varint::put(out, u64::from(block.span) << 1 | u64::from(block.settled.is_some()));
        varint::put(out, u64::from(block.span.saturating_sub(block.location.records)));
        varint::put(out, varint::zigzag(block.location.file.0.wrapping_sub(file) as i64));
        file = block.location.file.0;
        varint::put(out, block.location.offset.into());
        varint::put(out, block.location.len.into());
        if let Some(settled) = &block.settled {
            settled.encode(out);
        }
    }
    varint::put(out, state.notes.len() as u64);
    for bytes in state.notes.iter().flat_map(|note| [&note.key, &note.value]) {
        varint::put(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

fn read(disk: &dyn Disk, path: &Path, number: u64) -> Result<Checkpoint, StorageError> {
    let file = disk.open(path, Access::Read).map_err(io("open", path))?;
    let size = file.size().map_err(io("read", path))?;
    let bytes = match usize::try_from(size) {
        Ok(size) if size >= HEADER + TRAILER => read_exact(&*file, path, 0, size)?,
        _ => {
            let expected = format!("at least {} bytes", HEADER + TRAILER);
            return Err(corrupt(path, 0, "checkpoint length", expected, size));
        }
    };
    parse(&bytes, path, number)
}

fn parse(bytes: &[u8], path: &Path, number: u64) -> Result<Checkpoint, StorageError> {
    let (content, trailer) = bytes.split_at(bytes.len() - TRAILER);
    if content[..4] != MAGIC || trailer[12..] != END_MAGIC {
        let got = format!("{}...{}", content[..4].escape_ascii(), trailer[12..].escape_ascii());
        return Err(corrupt(path, 0, "checkpoint magic", "PHCK...KCHP", got));
    }
    let version = u16_at(content, 4);
    if version > VERSION {
        let (path, expected, got) = (path.to_owned(), VERSION.into(), version.into());
        return Err(StorageError::UnsupportedVersion { path, expected, got });
    }
    let crc = crc32c::crc32c(&bytes[..bytes.len() - 8]);
    let expected = u32_at(trailer, 8);
    if crc != expected {
        return Err(bad_crc(path, 0, "checkpoint checksum", expected, crc));
    }
    let got = u64_at(content, 8);
    if got != number {
        return Err(corrupt(path, 8, "checkpoint number", number, got));
    }
    let flags = u16_at(content, 6);
    let queue_count = u64_at(trailer, 0);
    let mut rest = &content[HEADER..];
    let mut queues = Vec::new();
    for _ in 0..queue_count {
        let offset = (content.len() - rest.len()) as u64;
        let state = decode_queue(&mut rest, version)
            .ok_or_else(|| corrupt(path, offset, "checkpoint", "a queue's state", "other bytes"))?;
        queues.push(state);
    }
    if !rest.is_empty() {
        let offset = (content.len() - rest.len()) as u64;
        return Err(corrupt(
            path,
            offset,
            "checkpoint",
            "its end",
            format_args!("{} more bytes", rest.len()),
        ));
    }
    Ok(Checkpoint { number, lsn: u64_at(content, 16), clean: flags & FLAG_CLEAN != 0, queues })
}

fn decode_queue(bytes: &mut &[u8], version: u16) -> Option<QueueState> {
    let id = QueueId(varint::take(bytes)?);
    let next_seq = varint::take(bytes)?;
    let floor = next_seq.checked_sub(varint::take(bytes)?)?;
    let covered = next_seq.checked_sub(varint::take(bytes)?)?;
    let delivered_below = next_seq.checked_sub(varint::take(bytes)?)?;
    let count = usize::try_from(varint::take(bytes)?).ok()?;
    // A block takes at least six bytes, so a count beyond that is not worth its memory.
    let mut blocks = Vec::with_capacity(count.min(bytes.len() / 6));
    let (mut end, mut file) = (0u64, 0u64);
    for _ in 0..count {
        let first_seq = end.checked_add(varint::take(bytes)?)?;
        let span = varint::take(bytes)?;
        let has_bitmap = span & 1 == 1;
        let span = u32::try_from(span >> 1).ok()?;
        end = first_seq.checked_add(span.into())?;
        let records = span.checked_sub(u32::try_from(varint::take(bytes)?).ok()?)?;
        file = file.wrapping_add(varint::unzigzag(varint::take(bytes)?) as u64);
        let offset = u32::try_from(varint::take(bytes)?).ok()?;
        let len = u32::try_from(varint::take(bytes)?).ok()?;
        let settled = if has_bitmap {
            let (bitmap, rest) = SeqBitmap::decode(bytes).filter(|(bitmap, _)| bitmap.len() == span)?;
            *bytes = rest;
            Some(bitmap)
        } else {
            None
        };
        let location = Location { file: SegmentId(file), class: Class::Durable, offset, len, records };
        blocks.push(BlockRef { location, first_seq, span, settled });
    }
    let notes = if version < VERSION_OF_NOTES { Vec::new() } else { decode_notes(bytes)? };
    Some(QueueState { id, next_seq, floor, covered, delivered_below, blocks, notes })
}

fn decode_notes(bytes: &mut &[u8]) -> Option<Vec<Note>> {
    let count = usize::try_from(varint::take(bytes)?).ok()?;
    // A note takes at least three bytes.
    let mut notes = Vec::with_capacity(count.min(bytes.len() / 3));
    for _ in 0..count {
        notes.push(Note { key: decode_bytes(bytes)?, value: decode_bytes(bytes)? });
    }
    Some(notes)
}

fn decode_bytes(bytes: &mut &[u8]) -> Option<Box<[u8]>> {
    let length = usize::try_from(varint::take(bytes)?).ok()?;
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken.into())
}

#[cfg(test)]
mod tests;
