//! Ties the log, the segments and the checkpoints together: what opening recovers, and how the log is emptied.
//!
//! # Why a crash at any moment loses nothing
//!
//! Of a durable message there is, from the moment its log record is durable, always at least one of: its record in
//! the log at or above the newest durable checkpoint's position L, or its block in a synced segment file that this
//! checkpoint names. The cycle goes, in this order:
//!
//! 1. *target*: L is chosen, and the log is durable up to it.
//! 2. *move*: live messages below L are written to segments. -- Crash: the old checkpoint counts; the new files are
//!    named by nothing and are deleted at start; the log still has the messages.
//! 3. *states*: the states are encoded into a temporary file, which has its space already. Blocks that other threads wrote meanwhile may be
//!    among them. -- Crash: as in 2; the temporary file is ignored and overwritten.
//! 4. *sync segments*, then *sync and rename the checkpoint, sync the directory*. -- Crash before the rename is
//!    durable: as in 2. After: the new checkpoint counts, and all it names was synced before. A failed sync stops
//!    everything for good.
//! 5. *remove the older checkpoint*: its file is the next temporary one. -- Crash: both are valid, since nothing that the older one needs is gone yet.
//!    After this step is durable nothing needs it any more; a damaged newest checkpoint falls back on the older one
//!    only while both are there.
//! 6. *release the log below L* and *delete retired segments*: those whose blocks were all released before the
//!    states were taken, so that the checkpoint does not name them. -- Crash: files left over are found dead at the
//!    next start and are deleted.
//! 7. *rewrite*: live messages of mostly dead files are copied as in 2. Their old blocks, which the checkpoint names,
//!    are deleted in step 6 of a later cycle at the earliest.
//!
//! When step 2 finds no room on the disk, the steps from 3 on are done with L as it was in the checkpoint before, and the
//! log is left alone: what is not in segments is in the log above that L still. That deletes retired segments and so may
//! make room for step 2.
//!
//! Settles go the same way: one that is staged below L is in the states, one above is replayed. A state may be ahead
//! of the log (it may know a settle that is not durable yet, or a message); applying its record again changes
//! nothing. A settle never comes back once the log had it durable, or a checkpoint.
//!
//! Several queues may refer to one block. Each queue's state names it like a block of its own, so all of the above holds
//! for each of them. It is synced like any block that was written before the sync, whoever wrote it; and it is in no
//! retired file: such a file has no block that anybody refers to, and only a block that somebody refers to gets one more
//! reference.
//!
//! Segments written while the log is replayed are not synced: the log they came from is released only by a
//! checkpoint, which syncs them.

mod cycle;
mod presence;
mod recovered;
mod replay;
mod rewrite;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use cycle::Progress;
pub use cycle::{CheckpointReport, ChunkSink, LiveChunk, QueueOwner};
pub use recovered::{Recovered, RecoveredChunk, RecoveredQueue, Source};
pub use rewrite::{Rewritten, SpillSurvey};

use posthouse_model::ids::QueueId;

use crate::checkpoint;
use crate::datadir::{DataDir, DataDirError};
use crate::disk::Disk;
use crate::disk::real::RealDisk;
use crate::error::StorageError;
use crate::meta::{self, MetaError, MetaFatal, MetaStore};
use crate::segment::{self, SEGMENT_BYTES, SegmentStore};
use crate::wal::{self, Wal, WalEvents, WalOptions};
pub(crate) use presence::Presence;
pub(crate) use replay::Replay;

/// A queue that there never is.
const NO_QUEUE: QueueId = QueueId(u64::MAX);

/// How storage is kept.
#[derive(Clone, Debug)]
pub struct StorageOptions {
    /// The log's options.
    pub wal: WalOptions,
    /// Bytes of messages that may be in memory while the log is replayed; more goes to segments at once.
    pub replay_bytes: usize,
    /// Bytes from which a segment file is closed: some hundred to 1 GiB.
    pub segment_bytes: u32,
    /// Bytes from which on what the log has for several queues stays one chunk that all of them hold when it is replayed;
    /// less becomes part of a chunk of each queue.
    pub shared_bytes: usize,
}

impl Default for StorageOptions {
    fn default() -> Self {
        Self {
            wal: WalOptions::default(),
            replay_bytes: 64 << 20,
            segment_bytes: SEGMENT_BYTES,
            shared_bytes: 16 << 10,
        }
    }
}

impl StorageOptions {
    /// Files that a data directory has open at most, in ordinary use: the log's, segments, and some single ones.
    pub fn open_files(&self) -> usize {
        /// Definitions, the lock, a checkpoint, a directory being synced.
        const SINGLE: usize = 4;
        self.wal.max_files + self.wal.reserve_files + 1 + segment::OPEN_FILES + SINGLE
    }
}

/// Why a data directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory.
    #[error(transparent)]
    Directory(#[from] DataDirError),
    /// The metadata.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The messages.
    #[error(transparent)]
    Messages(#[from] StorageError),
}

/// An open data directory.
pub struct Storage {
    /// Virtual hosts, users, queues and so on.
    pub meta: MetaStore,
    /// Messages.
    pub messages: MessageStore,
    /// Held for its lock, so dropped last.
    dir: DataDir,
}

impl Storage {
    /// Locks and opens a data directory, making it when it is new, and recovers what is in it.
    ///
    /// # Errors
    /// When any part of it cannot be opened; each error is one line for the operator.
    pub fn open(
        path: &Path,
        options: StorageOptions,
        events: Arc<dyn WalEvents>,
        meta_fatal: MetaFatal,
    ) -> Result<(Self, Recovered), OpenError> {
        let dir = DataDir::open(path)?;
        if !meta::exists(&dir.meta_file()) {
            Presence::of(&RealDisk, path)?.allows_no_definitions(path)?;
        }
        let meta = MetaStore::open(&dir.meta_file(), meta_fatal)?;
        let (messages, recovered) = MessageStore::open(Arc::new(RealDisk), path, options, events)?;
        Ok((Self { meta, messages, dir }, recovered))
    }

    /// A data directory of parts that were opened one by one: messages may lie on another disk than the rest.
    pub fn of_parts(dir: DataDir, meta: MetaStore, messages: MessageStore) -> Self {
        Self { meta, messages, dir }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// An orderly stop: the metadata flushed, a clean checkpoint, the log closed. The owner has stopped: nothing is
    /// staged any more. In this order, so that a clean checkpoint never has a queue that the metadata does not. A disk
    /// that is full is not waited for.
    ///
    /// # Errors
    /// When any of it fails; what was durable stays so.
    pub fn close(&self, owner: &dyn QueueOwner) -> Result<CheckpointReport, OpenError> {
        if let Err(error) = self.meta.close() {
            // What is staged is written as far as it can be; the next start finds a log that was not closed cleanly.
            self.messages.wal.close()?;
            return Err(error.into());
        }
        Ok(self.messages.close(owner)?)
    }
}

/// The messages of a data directory: the log, the segments and the checkpoints.
pub struct MessageStore {
    wal: Arc<Wal>,
    segments: Arc<SegmentStore>,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Held while a cycle runs.
    progress: Mutex<Progress>,
    /// A clean checkpoint was written: none may follow that says otherwise.
    closed: AtomicBool,
}

impl MessageStore {
    /// Opens what is in `dir`, making `wal` and `segments` in it when they are missing, and recovers it.
    ///
    /// # Errors
    /// When files cannot be read, are of a newer format, when a part is missing as a whole
    /// ([`StorageError::Incomplete`]), or when no checkpoint is valid though there is one. Other damage is reported in [`Recovered::damages`].
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: StorageOptions,
        events: Arc<dyn WalEvents>,
    ) -> Result<(Self, Recovered), StorageError> {
        for name in ["wal", "segments", "spill"] {
            let path = dir.join(name);
            disk.create_dir_all(&path).map_err(|e| StorageError::io("make", &path, e))?;
        }
        let presence = Presence::of(&*disk, dir)?;
        let loaded = checkpoint::load(&*disk, dir)?;
        // A process that was killed may have renamed it and not synced that: nothing may be given up on its word yet.
        disk.sync_dir(dir).map_err(|e| StorageError::io("sync", dir, e))?;
        let mut recovered =
            Recovered { new: presence.is_empty(), damages: loaded.damages, ..Recovered::default() };
        let (start, was_clean, states) = match loaded.checkpoint {
            Some(checkpoint) => (checkpoint.lsn, checkpoint.clean, checkpoint.queues),
            None => (0, false, Vec::new()),
        };
        let named = states.iter().flat_map(|state| &state.blocks).map(|block| block.location.file.0);
        let next_id = named.max().map_or(0, |id| id.saturating_add(1));
        presence.check(dir, next_id > 0)?;
        let segments = Arc::new(SegmentStore::open(Arc::clone(&disk), dir, next_id, options.segment_bytes)?);
        let mut replay = Replay::new(&segments, options.replay_bytes, options.shared_bytes, states);
        segments.delete_orphans()?;
        let (wal, report) =
            Wal::open(Arc::clone(&disk), &dir.join("wal"), options.wal, start, events, &mut |_, record| {
                replay.apply(record)
            })?;
        recovered.replayed_records = replay.records;
        recovered.clean = was_clean && replay.records == 0;
        recovered.next_queue_id = replay.next_queue_id();
        recovered.deleted = replay.deleted();
        recovered.queues = replay.finish(recovered.clean);
        recovered.damages.append(&mut replay.damages);
        recovered.damages.extend(report.damage.iter().map(wal::Damage::error));
        checkpoint::reserve(&*disk, dir, loaded.bytes)?;
        let progress = Mutex::new(Progress { next_number: loaded.next_number, lsn: start });
        let closed = AtomicBool::new(false);
        Ok((Self { wal, segments, disk, dir: dir.to_owned(), progress, closed }, recovered))
    }

    /// Writes down that the store is used from now on. Deliveries leave no record: without this one, a crash after
    /// nothing else would pass for the clean stop before. The owner calls it when it has taken what was recovered, and
    /// before it hands anything out; a start that is given up before leaves the directory as it was.
    ///
    /// # Errors
    /// The log stopped.
    pub fn begin(&self) -> Result<(), StorageError> {
        self.wal.stage().queue_deleted(NO_QUEUE);
        self.wal.sync()
    }

    /// The log.
    pub fn wal(&self) -> &Arc<Wal> {
        &self.wal
    }

    /// The segments.
    pub fn segments(&self) -> &Arc<SegmentStore> {
        &self.segments
    }

    /// Gives up the blocks of a recovered queue that the metadata does not know.
    pub fn discard(&self, queue: &RecoveredQueue) {
        for chunk in &queue.chunks {
            if let Source::Block(location) = &chunk.source {
                self.segments.release(location);
            }
        }
    }

    /// Waits for a running cycle, writes a clean checkpoint and closes the log. A disk that is full is not waited for:
    /// see [`Wal::begin_close`].
    ///
    /// # Errors
    /// When any of it fails; what was durable stays so.
    pub fn close(&self, owner: &dyn QueueOwner) -> Result<CheckpointReport, StorageError> {
        self.wal.begin_close();
        let written = self.checkpoint(owner, true);
        // Without a checkpoint, too: what is in the log is in good order then.
        let closed = self.wal.close();
        let report = written?;
        closed?;
        Ok(report)
    }
}

#[cfg(test)]
mod tests;
