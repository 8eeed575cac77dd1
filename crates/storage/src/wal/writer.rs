//! The log's one writing thread: takes what was staged, writes it, syncs it, tells who waits.
//!
//! There is no timer to collect batches: a batch is what was staged while the one before was being synced. Only
//! settlements, when nothing else is staged and nobody waits, are left for up to `settle_delay`; and messages that need
//! only be written are left without a sync for up to `sync_delay`, as long as nothing that must be synced follows.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use posthouse_model::ids::Lsn;

use super::format::{
    BATCH_ALIGN, BATCH_HEADER_BYTES, BatchHeader, FIRST_BATCH_AT, FLAG_CLOSED, batch_file_bytes,
};
use super::ring::{LogFile, batch_limit, file_bytes_for};
use super::stage::{Buffer, Cursor, Writer};
use super::waiters::LogWaiter;
use super::{Inner, lock};
use crate::error::StorageError;

static ZEROES: [u8; BATCH_ALIGN as usize] = [0; BATCH_ALIGN as usize];

/// What need only be written is synced when it has come to so many bytes, so that a sync never has much to do.
const UNSYNCED_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The writing thread's state.
pub(super) struct LogWriter {
    inner: Arc<Inner>,
    buffer: Buffer,
    file: LogFile,
    /// Position of the file's first record.
    file_first: Lsn,
    /// Where in the file the next batch goes.
    at: u64,
    next_batch: u64,
    /// Position after the last record written.
    written: Lsn,
    /// Nothing in `buffer` must be synced at once.
    relaxed: bool,
    /// When what is written and not synced must be synced.
    sync_at: Option<Instant>,
    due: Vec<Arc<dyn LogWaiter>>,
}

impl LogWriter {
    pub(super) fn new(inner: Arc<Inner>, file: LogFile, position: Lsn, next_batch: u64) -> Self {
        Self {
            inner,
            buffer: Buffer::default(),
            file,
            file_first: position,
            at: FIRST_BATCH_AT,
            next_batch,
            written: position,
            relaxed: false,
            sync_at: None,
            due: Vec::new(),
        }
    }

    /// Writes until the log is closed or an error stops it for good.
    pub(super) fn run(mut self) {
        match self.write_all() {
            Ok(()) => {}
            // Another thread's error, which was told, or what is missing for closing in good order: no failure of the disk.
            Err(StorageError::Stopped { reason }) => _ = self.inner.end(reason),
            Err(error) => self.inner.stop(error),
        }
    }

    fn write_all(&mut self) -> Result<(), StorageError> {
        while self.next_buffer() {
            self.inner.check_running()?;
            self.write_buffer()?;
            self.inner.written.raise(self.written, &mut self.due);
            if !self.may_leave_unsynced() {
                self.sync()?;
            }
        }
        if self.is_unsynced() {
            self.sync()?;
        }
        self.write_end()
    }

    /// Takes what is staged, waiting for it; nothing when it is time to sync what was written. `false` when the log is
    /// closed and everything is written.
    fn next_buffer(&mut self) -> bool {
        self.buffer.clear();
        let mut staging = lock(&self.inner.staging);
        let mut deadline = None;
        loop {
            if staging.buffer.is_empty() {
                if staging.closing {
                    return false;
                }
                let Some(sync_at) = self.sync_at else {
                    staging.writer = Writer::Idle;
                    staging = self.inner.wait_staged(staging);
                    continue;
                };
                let left = sync_at.saturating_duration_since(Instant::now());
                if left.is_zero() || staging.sync_wanted {
                    break;
                }
                staging.writer = Writer::Idle;
                staging = self.inner.wait_staged_for(staging, left);
                continue;
            }
            if staging.is_urgent() {
                break;
            }
            let now = Instant::now();
            let settle_at = *deadline.get_or_insert(now + self.inner.options.settle_delay);
            let until = self.sync_at.map_or(settle_at, |sync_at| sync_at.min(settle_at));
            if now >= until {
                break;
            }
            staging.writer = Writer::Dozing;
            staging = self.inner.wait_staged_for(staging, until - now);
        }
        staging.writer = Writer::Awake;
        std::mem::swap(&mut self.buffer, &mut staging.buffer);
        staging.buffer.first = staging.position;
        self.relaxed = self.buffer.may_stay_unsynced(staging.unsynced);
        staging.unsynced = self.relaxed;
        staging.sync_wanted &= self.relaxed;
        self.inner.lazy.store(staging.is_lazy(), Ordering::Relaxed);
        true
    }

    /// Whether what was written just now may wait for a later sync.
    fn may_leave_unsynced(&mut self) -> bool {
        if !self.relaxed {
            return false;
        }
        let mut staging = lock(&self.inner.staging);
        let bytes = self.written - self.inner.durable.position();
        let now = Instant::now();
        let sync_at = *self.sync_at.get_or_insert(now + self.inner.options.sync_delay);
        let may = !staging.sync_wanted && bytes <= UNSYNCED_BYTES_MAX && now < sync_at;
        if !may {
            // From here on the sync is on its way: nobody need ask for it.
            (staging.unsynced, staging.sync_wanted) = (false, false);
            self.inner.lazy.store(staging.is_lazy(), Ordering::Relaxed);
        }
        may
    }

    fn is_unsynced(&self) -> bool {
        self.written > self.inner.durable.position()
    }

    fn write_buffer(&mut self) -> Result<(), StorageError> {
        // Records that fit into an ordinary file together are not made into a batch that does not.
        let limit = self.inner.options.batch_bytes.min(batch_limit(self.inner.options.file_bytes));
        let mut from = self.buffer.start();
        while from.at < self.buffer.bytes.len() {
            let to = self.buffer.advance(from, limit);
            self.make_room(to.lsn - from.lsn)?;
            self.buffer.seal(from, to, self.file.header.salt);
            let header = BatchHeader {
                length: (to.lsn - from.lsn) as u32, // `batch_bytes` and one record are below 4 GiB
                records: to.records,
                flags: 0,
                salt: self.file.header.salt,
                number: self.next_batch,
                first: from.lsn,
                durable_before: self.inner.durable.position(),
            };
            self.write_batch(&header, from, to)?;
            from = to;
        }
        Ok(())
    }

    fn write_batch(&mut self, header: &BatchHeader, from: Cursor, to: Cursor) -> Result<(), StorageError> {
        let head = header.encode();
        let padding = header.file_bytes() as usize - BATCH_HEADER_BYTES - header.length as usize;
        let mut was_full = false;
        loop {
            let mut slices = Vec::with_capacity(2 * (to.shared - from.shared) + 3);
            slices.push(IoSlice::new(&head));
            slices.extend(self.buffer.pieces(from, to).map(IoSlice::new));
            slices.push(IoSlice::new(&ZEROES[..padding]));
            match self.file.file.write_at(&mut slices, self.at) {
                Ok(()) => break,
                Err(error) => {
                    let error = StorageError::io_at("write", &self.file.path, self.at, error);
                    if !error.is_disk_full() {
                        return Err(error);
                    }
                    // Copy-on-write file systems need room even for reserved space. Nothing was synced yet, so
                    // writing the same bytes again is sound.
                    was_full = true;
                    self.inner.wait_for_room()?;
                }
            }
        }
        if was_full {
            self.inner.found_room();
        }
        self.at += header.file_bytes();
        self.next_batch += 1;
        self.written = to.lsn;
        Ok(())
    }

    /// Goes on to the next file when a batch with `length` bytes of records does not fit into this one.
    fn make_room(&mut self, length: u64) -> Result<(), StorageError> {
        if self.at + batch_file_bytes(length) <= self.file.bytes {
            return Ok(());
        }
        if self.is_unsynced() {
            self.sync()?;
        }
        // Before waiting for the next: on a full disk this one may be what a checkpoint releases to become the next.
        self.inner.seal_file(self.file.clone(), self.file_first, self.written);
        self.file = self.inner.take_file(file_bytes_for(length))?;
        self.file_first = self.written;
        self.at = FIRST_BATCH_AT;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.file.sync()?;
        self.sync_at = None;
        self.inner.advance_durable(self.written, &mut self.due);
        Ok(())
    }

    /// Says on disk that everything was written: recovery then need not look for more.
    fn write_end(&mut self) -> Result<(), StorageError> {
        if self.at + batch_file_bytes(0) > self.file.bytes {
            return Ok(());
        }
        let header = BatchHeader {
            length: 0,
            records: 0,
            flags: FLAG_CLOSED,
            salt: self.file.header.salt,
            number: self.next_batch,
            first: self.written,
            durable_before: self.written,
        };
        let head = header.encode();
        let mut slices = [IoSlice::new(&head), IoSlice::new(&ZEROES[head.len()..])];
        let written = self.file.file.write_at(&mut slices, self.at);
        match written.map_err(|error| StorageError::io_at("write", &self.file.path, self.at, error)) {
            // Everything that counts is durable: without the mark the next start looks a little longer.
            Err(error) if error.is_disk_full() => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.file.sync(),
        }
    }
}
