//! The file under redb, which waits for room when the disk is full.
//!
//! redb gives up for good after any failed write: every later call fails too. But until a commit's last sync nothing
//! it wrote counts, and it writes by position, so the same bytes can be written again. A full disk is therefore kept
//! from it: the write waits and is repeated, and with it the one thread that commits. Other errors go through, those of
//! a sync always.

use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use redb::{BackendError, StorageBackend};

/// How soon a write that found no room is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// Whether writes wait for room, and whether one does.
#[derive(Debug, Default)]
pub(super) struct Room {
    waits: Mutex<bool>,
    changed: Condvar,
    full: AtomicBool,
}

impl Room {
    /// From now on writes wait for room, or do not any more: those that wait give up.
    pub(super) fn set_waits(&self, waits: bool) {
        *self.waits.lock().unwrap_or_else(PoisonError::into_inner) = waits;
        self.changed.notify_all();
    }

    /// Whether a write waits for room, or gave up waiting.
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Calls `write` until it succeeds, fails for another reason than lack of room, or is not to wait.
    fn retry(&self, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
        loop {
            let result = write();
            let full = matches!(&result, Err(error) if is_full(error));
            if self.full.swap(full, Ordering::Relaxed) != full {
                tracing::warn!(full, "the metadata store's disk is full, or has room again");
            }
            if !full || !self.wait() {
                return result;
            }
        }
    }

    /// Waits a little; whether to try again.
    fn wait(&self) -> bool {
        let waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        if !*waits {
            return false;
        }
        let waited = self.changed.wait_timeout(waits, RETRY);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A file whose writes may wait for room.
#[derive(Debug)]
pub(super) struct PatientFile<F> {
    file: F,
    room: Arc<Room>,
}

impl<F: StorageBackend> PatientFile<F> {
    pub(super) fn new(file: F, room: Arc<Room>) -> Self {
        Self { file, room }
    }
}

impl<F: StorageBackend> StorageBackend for PatientFile<F> {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.room.retry(|| self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.room.retry(|| self.file.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
