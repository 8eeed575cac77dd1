//! The checkpoint cycle: live messages leave the log, a checkpoint says so, the log's files are used again; then
//! segments that are mostly dead are rewritten.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use posthouse_model::bitmap::SeqBitmap;
use posthouse_model::chunk::Chunk;
use posthouse_model::ids::{Lsn, QueueId, Seq};

use super::MessageStore;
use super::rewrite::{LiveBytes, Mover};
use crate::checkpoint::{self, BlockRef, CheckpointWriter, QueueState};
use crate::error::StorageError;
use crate::segment::{Class, Location, SegmentId};

/// A chunk that is not in a durable segment yet.
#[derive(Clone, Debug)]
pub struct LiveChunk {
    /// Whose.
    pub queue: QueueId,
    /// The sequence number that delta 0 stands for; what [`QueueOwner::relocated`] names it by.
    pub first_seq: Seq,
    /// The records.
    pub chunk: Arc<Chunk>,
    /// The numbers, less `first_seq`, that need not be written: settled, or not durable and kept in memory elsewhere.
    pub settled: Option<SeqBitmap>,
    /// What the block is to have as its summary; empty for none.
    pub summary: Vec<u8>,
}

/// What receives the chunks of [`QueueOwner::collect`].
pub type ChunkSink<'a> = &'a mut dyn FnMut(LiveChunk) -> Result<(), StorageError>;

/// Who owns the queues, as the checkpoint cycle sees it. The calls come from the thread that runs
/// [`MessageStore::checkpoint`], one at a time. `sink` may call back `relocated`, so neither `collect` nor `states`
/// may hold a lock that `relocated` takes while it calls `sink`.
pub trait QueueOwner {
    /// Hands every chunk with live durable messages that is not in a durable segment, and whose enqueue was staged
    /// below `below`, to `sink`: per queue in ascending order. Chunks recovered in memory always belong to them. It
    /// may hand out more, as long as it goes on from the lowest number. Every enqueue staged before the call must be
    /// visible to it.
    ///
    /// # Errors
    /// What `sink` returned, at once.
    fn collect(&self, below: Lsn, sink: ChunkSink<'_>) -> Result<(), StorageError>;

    /// The chunk of `queue` that begins at `first_seq` is in a durable segment now, without the records that were
    /// settled when it was handed out. The owner replaces its source, releasing a former location. When it has no
    /// such chunk any more, it releases `location`.
    fn relocated(&self, queue: QueueId, first_seq: Seq, location: Location);

    /// Hands every queue's state to `sink`. Each one's `covered` is the lowest number of a live durable message that
    /// is in no durable segment, or `next_seq`; `blocks` has the blocks that lie below it, and only those. Every
    /// settle, purge and deletion staged below the position last given to `collect` must be in it.
    fn states(&self, sink: &mut dyn FnMut(QueueState));

    /// Hands every block of every queue that is in a spill file to `sink`. Called from the thread that runs
    /// [`MessageStore::rewrite_spill`].
    fn spilled(&self, sink: &mut dyn FnMut(QueueId, BlockRef));
}

/// What a checkpoint did.
#[derive(Debug, Default)]
pub struct CheckpointReport {
    /// The checkpoint's number.
    pub number: u64,
    /// Replay would start here.
    pub lsn: Lsn,
    /// Queues in it.
    pub queues: u64,
    /// Bytes of messages that left the log for segments.
    pub moved_bytes: u64,
    /// Bytes of messages copied out of mostly dead segments.
    pub rewritten_bytes: u64,
    /// Segment files deleted.
    pub deleted_files: u64,
    /// Damaged blocks met while rewriting. They stay where they are.
    pub damages: Vec<StorageError>,
}

/// How far checkpoints have come.
#[derive(Debug)]
pub(super) struct Progress {
    /// The number of the next one. Numbers of those that failed are not used again.
    pub(super) next_number: u64,
    /// The position of the newest.
    pub(super) lsn: Lsn,
}

impl Progress {
    fn next(&mut self, lsn: Lsn) -> CheckpointReport {
        self.next_number += 1;
        CheckpointReport { number: self.next_number - 1, lsn, ..CheckpointReport::default() }
    }
}

impl MessageStore {
    /// Runs one cycle. `clean` says that the owner has stopped: nothing is staged any more, and everything goes into
    /// the checkpoint. Otherwise it goes as far as [`crate::wal::Wal::checkpoint_wanted`] says, or, when that wants
    /// nothing, to what is durable. When there is no room for what is to be moved, dead segments are deleted first. Only
    /// one cycle runs at a time, and none after a clean one.
    ///
    /// # Errors
    /// When anything fails. When [`StorageError::may_pass`], nothing is lost and it may be tried again; any other
    /// error is fatal.
    pub fn checkpoint(&self, owner: &dyn QueueOwner, clean: bool) -> Result<CheckpointReport, StorageError> {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        // Both under the lock.
        if clean {
            self.closed.store(true, Ordering::Relaxed);
        } else if self.closed.load(Ordering::Relaxed) {
            return Ok(CheckpointReport::default());
        }
        match self.cycle(owner, clean, &mut progress) {
            Err(error) if error.is_disk_full() && !self.segments.retired().is_empty() => {
                let deleted_files = self.make_room(owner, &mut progress)?;
                let report = self.cycle(owner, clean, &mut progress)?;
                Ok(CheckpointReport { deleted_files: report.deleted_files + deleted_files, ..report })
            }
            result => result,
        }
    }

    fn cycle(
        &self,
        owner: &dyn QueueOwner,
        clean: bool,
        progress: &mut Progress,
    ) -> Result<CheckpointReport, StorageError> {
        let target = match self.wal.checkpoint_wanted() {
            _ if clean => self.wal.appended(),
            Some(wanted) => wanted,
            None => self.wal.durable(),
        };
        // A checkpoint above the log's end would hide what is staged there after a crash.
        if self.wal.durable() < target {
            self.wal.sync()?;
        }
        let mut report = progress.next(target);
        let mut mover = Mover::new(self, owner, Class::Durable);
        owner.collect(target, &mut |chunk| mover.add(chunk))?;
        report.moved_bytes = mover.finish()?;
        let live = self.put_in_force(owner, clean, progress, &mut report)?;
        self.wal.release_below(target);
        if !clean {
            match self.rewrite_durable(owner, &live) {
                Ok(rewritten) => {
                    (report.rewritten_bytes, report.damages) = (rewritten.bytes, rewritten.damages)
                }
                // It only saves room in the end; before, it takes some.
                Err(error) if error.may_pass() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(report)
    }

    /// Deletes dead segments although nothing can be moved, by a checkpoint at the position of the one before: it needs
    /// no room but its own, which is reserved. The log stays as it is. Returns how many files it deleted.
    fn make_room(&self, owner: &dyn QueueOwner, progress: &mut Progress) -> Result<u64, StorageError> {
        let mut report = progress.next(progress.lsn);
        self.put_in_force(owner, false, progress, &mut report)?;
        Ok(report.deleted_files)
    }

    /// Writes the checkpoint, then removes what it makes superfluous. Returns how many bytes of each segment file are
    /// live.
    fn put_in_force(
        &self,
        owner: &dyn QueueOwner,
        clean: bool,
        progress: &mut Progress,
        report: &mut CheckpointReport,
    ) -> Result<HashMap<SegmentId, u64>, StorageError> {
        let retired = self.segments.retired();
        let (live, bytes) = self.write_checkpoint(owner, clean, report)?;
        progress.lsn = report.lsn;
        checkpoint::recycle_older(&*self.disk, &self.dir, report.number)?;
        self.segments.checkpoint_done(&retired)?;
        report.deleted_files = retired.len() as u64;
        checkpoint::reserve(&*self.disk, &self.dir, bytes)?;
        Ok(live)
    }

    /// Returns how many bytes of each segment file are live, and how many the checkpoint has. Syncs the
    /// segments after the last state was taken: other threads write blocks, too, and a state may name one that was
    /// written a moment ago.
    fn write_checkpoint(
        &self,
        owner: &dyn QueueOwner,
        clean: bool,
        report: &mut CheckpointReport,
    ) -> Result<(HashMap<SegmentId, u64>, u64), StorageError> {
        let mut writer = CheckpointWriter::begin(&*self.disk, &self.dir, report.number, report.lsn, clean)?;
        let mut live = LiveBytes::default();
        let mut result = Ok(());
        owner.states(&mut |state| {
            debug_assert!(
                state.blocks.last().is_none_or(|b| b.first_seq + u64::from(b.span) <= state.covered),
                "a block above what is covered: {state:?}"
            );
            state.blocks.iter().for_each(|block| live.add(block));
            report.queues += 1;
            if result.is_ok() {
                result = writer.add(&state);
            }
        });
        result?;
        let bytes = writer.finish(|| self.segments.sync())?;
        Ok((live.by_file(), bytes))
    }
}
