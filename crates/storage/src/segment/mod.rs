//! Segment files: where messages live that left the log (durable) or the memory (spilled).
//!
//! A block is one chunk of one queue; several queues share a file of up to 16 MiB. The store appends blocks, reads
//! them back with all checks, and counts per file how many blocks are still live: a file without any is deleted.
//! It knows no queues and no order between blocks: a [`Location`] is all its users hold, and memory is O(1) per file.
//!
//! A chunk that several queues hold ([`Chunk::is_fanned_out`]) is written once per class: the first queue's block is a
//! *shared* one, and each further queue, at whatever time it writes the same chunk, gets the same place. Such a block
//! lives as long as one of them has not released it; how many have not is counted, in memory of O(1) per shared block.
//!
//! * *durable* files (`segments/<id>.seg`) count after [`SegmentStore::sync`]. A dead one is deleted only when a
//!   later checkpoint no longer names it: [`SegmentStore::retired`], [`SegmentStore::checkpoint_done`].
//! * *spill* files (`spill/<id>.seg`) are never synced, are deleted as soon as they are dead, and do not survive a
//!   start.
//!
//! The bytes are drawn in `format.rs`.

mod files;
pub(crate) mod format;
mod reader;
mod sharing;
mod writer;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use posthouse_model::chunk::Chunk;
use posthouse_model::ids::{QueueId, Seq};

use crate::corrupt::{corrupt, io};
use crate::disk::Disk;
use crate::error::StorageError;
use files::{Files, Handles};
use format::BLOCK_HEADER;
use writer::{Appender, OpenFile};

/// The usual limit of a file. It is closed when it would grow beyond; only a block that is larger by itself makes a
/// larger file.
pub const SEGMENT_BYTES: u32 = 16 << 20;

/// The largest block, its header included. A chunk holds at most one message that is larger than a few MiB, and a
/// message is at most 512 MiB.
pub const MAX_BLOCK_BYTES: u32 = 1 << 30;

/// Durable files that may be open because they are not synced; with more they are synced at once.
const UNSYNCED_FILES: usize = 64;

/// Files that the store has open at most: for reading, not synced, and appended to.
pub(crate) const OPEN_FILES: usize = files::OPEN_HANDLES + UNSYNCED_FILES + 2;

/// A segment file's number. Never used twice in a data directory while anything may still name it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentId(pub u64);

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a file is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u16)]
pub enum Class {
    /// Synced, named by checkpoints.
    Durable = 0,
    /// Gone at the next start.
    Spill = 1,
}

/// Where a block is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Location {
    /// The file.
    pub file: SegmentId,
    /// What kind of file.
    pub class: Class,
    /// Several queues may refer to the block; each of them releases it.
    pub shared: bool,
    /// Where the block's header starts, in bytes.
    pub offset: u32,
    /// Bytes of the block, its header included.
    pub len: u32,
    /// Records in it.
    pub records: u32,
}

/// A block to be written.
#[derive(Clone, Debug)]
pub struct BlockIn {
    /// Whose messages.
    pub queue: QueueId,
    /// The sequence number that delta 0 stands for.
    pub first_seq: Seq,
    /// The records.
    pub chunk: Arc<Chunk>,
    /// What [`SegmentStore::read_summary`] gives, at most 65,535 bytes; empty for none.
    pub summary: Vec<u8>,
}

impl BlockIn {
    /// Whether other queues are to refer to the block as well. A summary belongs to one queue.
    fn is_shared(&self) -> bool {
        self.chunk.is_fanned_out() && self.summary.is_empty()
    }
}

/// The store. Thread-safe; writers of one class wait for each other, readers wait for nobody's input or output.
pub struct SegmentStore {
    disk: Arc<dyn Disk>,
    dirs: [PathBuf; 2],
    next_id: AtomicU64,
    file_bytes: u32,
    appenders: [Mutex<Appender>; 2],
    files: Mutex<Files>,
    handles: Mutex<Handles>,
    /// Held while files are synced.
    syncing: Mutex<()>,
    /// A sync failed: no later success proves anything.
    stopped: AtomicBool,
}

/// What the store occupies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SegmentUsage {
    /// Files.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes of blocks not released.
    pub live_bytes: u64,
}

impl SegmentStore {
    /// Opens the store in `dir` (which has the subdirectories `segments` and `spill`). `next_id` must be above
    /// every number ever named by a checkpoint that may still be read. Every durable file counts as dead until
    /// [`Self::adopt`] says otherwise. Files are closed at `file_bytes`, see [`SEGMENT_BYTES`].
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        next_id: u64,
        file_bytes: u32,
    ) -> Result<Self, StorageError> {
        let dirs = [dir.join("segments"), dir.join("spill")];
        let mut files = Files::default();
        let mut next = next_id;
        for id in list(&*disk, dir)? {
            let path = dirs[0].join(file_name(id));
            let open = disk.open(&path, crate::disk::Access::Read);
            let size = open.and_then(|file| file.size()).map_err(io("open", &path))?;
            files.found(id, size);
            next = next.max(id.0 + 1);
        }
        Ok(Self {
            disk,
            dirs,
            next_id: AtomicU64::new(next),
            file_bytes,
            appenders: [Mutex::new(Appender::new(Class::Durable)), Mutex::new(Appender::new(Class::Spill))],
            files: Mutex::new(files),
            handles: Mutex::new(Handles::default()),
            syncing: Mutex::default(),
            stopped: AtomicBool::new(false),
        })
    }

    /// Counts a block named by a checkpoint as live.
    ///
    /// # Errors
    /// When the file is missing or ends before the block does; the block is then not counted.
    pub fn adopt(&self, location: &Location) -> Result<(), StorageError> {
        let end = u64::from(location.offset) + u64::from(location.len);
        let mut files = lock(&self.files);
        let Some(size) = files.size(location.file).filter(|_| location.class == Class::Durable) else {
            return Err(corrupt(&self.path(location), location.offset.into(), "block", "a file", "none"));
        };
        if end > size || location.len < BLOCK_HEADER as u32 {
            let (expected, got) = (format!("it to end at byte {end}"), format!("a file of {size} bytes"));
            return Err(corrupt(&self.path(location), location.offset.into(), "block", expected, got));
        }
        files.add(location);
        Ok(())
    }

    /// Deletes durable files without a live block: what was written after the last checkpoint, whose messages are
    /// in the log. Only between the last [`Self::adopt`] and the first [`Self::write`].
    ///
    /// # Errors
    /// When a file cannot be deleted.
    pub fn delete_orphans(&self) -> Result<(), StorageError> {
        let orphans = lock(&self.files).retired();
        self.checkpoint_done(&orphans)
    }

    /// Appends blocks to the current file of the class and says where each is. A chunk that several queues hold and
    /// that was written to this class before, for another one of them, is not written again. Nothing is durable before
    /// [`Self::sync`].
    ///
    /// # Errors
    /// When a write fails; then none of the blocks counts, and the store goes on (disk full is worth another try).
    pub fn write(&self, class: Class, blocks: &[BlockIn]) -> Result<Vec<Location>, StorageError> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(stopped());
        }
        let mut placed = Vec::with_capacity(blocks.len());
        let mut appender = lock(&self.appenders[class as usize]);
        let mut result = appender.place(self, blocks, &mut placed);
        let unsynced = appender.unsynced_files();
        drop(appender);
        if result.is_ok() && unsynced > UNSYNCED_FILES {
            result = self.sync();
        }
        match result {
            Ok(()) => Ok(placed),
            Err(error) => {
                for location in &placed {
                    self.release(location);
                }
                Err(error)
            }
        }
    }

    /// Returns when every durable block written before is on disk. After an error nothing is promised any more and
    /// every later call fails too, but for the lack of a file descriptor ([`StorageError::is_out_of_files`]).
    ///
    /// # Errors
    /// When a sync fails now or failed before.
    pub fn sync(&self) -> Result<(), StorageError> {
        // Whoever comes second returns when what the first one took is on disk.
        let _syncing = lock(&self.syncing);
        if self.stopped.load(Ordering::Acquire) {
            return Err(stopped());
        }
        let (dirty, new_entries) = lock(&self.appenders[Class::Durable as usize]).take_dirty();
        let synced = self.sync_files(dirty, new_entries);
        match &synced {
            Ok(()) => {}
            // The directory could not be opened, so nothing of it was synced; the files were.
            Err(error) if error.is_out_of_files() => {
                lock(&self.appenders[Class::Durable as usize]).entries_not_synced();
            }
            Err(_) => self.stopped.store(true, Ordering::Release),
        }
        synced
    }

    fn sync_files(&self, files: Vec<OpenFile>, new_entries: bool) -> Result<(), StorageError> {
        for (id, file) in files {
            let path = self.dirs[0].join(file_name(id));
            file.sync_data().map_err(io("sync", &path))?;
        }
        if new_entries {
            self.disk.sync_dir(&self.dirs[0]).map_err(io("sync", &self.dirs[0]))?;
        }
        Ok(())
    }

    /// Counts one more reference to a shared block that the caller has a reference to.
    pub(crate) fn refer(&self, location: &Location) {
        lock(&self.files).add(location);
    }

    /// A block is dead, or no longer referred to by one queue. Drop it from whatever names it (checkpoints are made from that) before calling this; a
    /// reader that still holds the location may get an error for which [`is_gone`] is true.
    pub fn release(&self, location: &Location) {
        let dead = lock(&self.files).release(location);
        if dead && location.class == Class::Spill {
            self.delete_spill(location.file);
        }
    }

    /// Durable files without a live block. A checkpoint made from states collected after this call does not name
    /// them; when it is durable, hand them to [`Self::checkpoint_done`].
    pub fn retired(&self) -> Vec<SegmentId> {
        lock(&self.files).retired()
    }

    /// Deletes files from [`Self::retired`].
    ///
    /// # Errors
    /// When a file cannot be deleted.
    pub fn checkpoint_done(&self, retired: &[SegmentId]) -> Result<(), StorageError> {
        for &id in retired {
            let path = self.dirs[0].join(file_name(id));
            lock(&self.handles).forget(id);
            match self.disk.remove(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(io("delete", &path)(e)),
            }
            lock(&self.files).forget(id);
        }
        Ok(())
    }

    /// Closed files of a class of which less than half is live, the emptiest first. `live_bytes` says how many bytes
    /// of each file are live, settled messages inside live blocks left out; a file that is not in it has none.
    pub fn mostly_dead(&self, class: Class, live_bytes: &HashMap<SegmentId, u64>) -> Vec<SegmentId> {
        lock(&self.files).mostly_dead(class, live_bytes)
    }

    /// Leaves a file out of [`Self::mostly_dead`] from now on: a block in it is damaged and cannot be moved.
    pub fn set_aside(&self, file: SegmentId) {
        lock(&self.files).set_aside(file);
    }

    /// What the files of a class occupy.
    pub fn usage(&self, class: Class) -> SegmentUsage {
        lock(&self.files).usage(class)
    }

    fn path(&self, location: &Location) -> PathBuf {
        self.dirs[location.class as usize].join(file_name(location.file))
    }

    fn delete_spill(&self, id: SegmentId) {
        let path = self.dirs[1].join(file_name(id));
        lock(&self.handles).forget(id);
        // It is only space, and the next start wipes the directory.
        if let Err(error) = self.disk.remove(&path) {
            tracing::warn!(path = %path.display(), %error, "a spill file cannot be deleted");
        }
        lock(&self.files).forget(id);
    }
}

/// Whether a read failed because the block was released and its file deleted meanwhile: ask again where it is.
pub fn is_gone(error: &StorageError) -> bool {
    matches!(error, StorageError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

fn stopped() -> StorageError {
    StorageError::Stopped { reason: "a sync of a segment file failed".to_owned() }
}

/// The durable files in the data directory `dir`.
///
/// # Errors
/// When they cannot be listed.
pub(crate) fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<SegmentId>, StorageError> {
    let segments = dir.join("segments");
    let names = disk.list(&segments).map_err(io("list", &segments))?;
    Ok(names.iter().filter_map(|name| parse_name(name)).collect())
}

/// `0123456789abcdef.seg`
pub(crate) fn file_name(id: SegmentId) -> String {
    format!("{id}.seg")
}

/// The number in a segment file's name; `None` for other names.
pub(crate) fn parse_name(name: &str) -> Option<SegmentId> {
    let digits = name.strip_suffix(".seg").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok().map(SegmentId)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
