//! Whether the parts of a data directory belong together: what an operator may have lost or left out of a copy.
//!
//! A part that is missing must not pass for one that was never made, or the rest is taken for leftovers and deleted.
//! What tells the two apart is the order in which a first start makes them: definitions, log, then segments and
//! checkpoints, each durable before the next one begins.

use std::path::Path;

use crate::checkpoint;
use crate::disk::Disk;
use crate::error::StorageError;
use crate::segment;
use crate::wal::{self, LogCensus};

/// The files with messages in a data directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Presence {
    checkpoints: usize,
    segments: usize,
    log: LogCensus,
}

impl Presence {
    /// Looks at what is in `dir`. Changes nothing.
    ///
    /// # Errors
    /// When files cannot be listed or read, or the log has a newer format.
    pub(crate) fn of(disk: &dyn Disk, dir: &Path) -> Result<Self, StorageError> {
        Ok(Self {
            checkpoints: checkpoint::list(disk, dir)?.len(),
            segments: segment::list(disk, dir)?.len(),
            log: wal::census(disk, &dir.join("wal"))?,
        })
    }

    /// Whether there is nothing yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.checkpoints == 0 && self.segments == 0 && self.log.used_files == 0
    }

    /// Whether the definitions may be missing: without them every message would be nobody's.
    ///
    /// # Errors
    /// [`StorageError::Incomplete`] when there are messages, or were.
    pub(crate) fn allows_no_definitions(&self, dir: &Path) -> Result<(), StorageError> {
        if self.is_empty() { Ok(()) } else { Err(self.without(dir, "meta.redb")) }
    }

    /// Whether everything that must have been made before what is there is still there. `names_segments` says that
    /// the newest checkpoint names a segment file.
    ///
    /// # Errors
    /// [`StorageError::Incomplete`] names the first part that is not.
    pub(crate) fn check(&self, dir: &Path, names_segments: bool) -> Result<(), StorageError> {
        if self.log.files == 0 && (self.checkpoints > 0 || self.segments > 0) {
            return Err(self.without(dir, "the log in wal"));
        }
        // Only a checkpoint lets the log use its first files again.
        if self.checkpoints == 0 && self.log.used_files > 0 && !self.log.from_the_beginning {
            return Err(self.without(dir, "the checkpoint that the log goes on from"));
        }
        if names_segments && self.segments == 0 {
            return Err(self.without(dir, "everything in segments"));
        }
        Ok(())
    }

    fn without(&self, dir: &Path, missing: &'static str) -> StorageError {
        let found = [
            (self.checkpoints, "checkpoint"),
            (self.segments, "segment file"),
            (self.log.used_files, "log file with records"),
        ];
        let found = found.into_iter().filter(|(count, _)| *count > 0);
        let found: Vec<_> = found.map(|(count, what)| format!("{count} x {what}")).collect();
        StorageError::Incomplete { dir: dir.to_owned(), missing, found: found.join(", ") }
    }
}
