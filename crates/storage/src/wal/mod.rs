//! The one write-ahead log of a data directory: records of all queues, interleaved, each group of them written and
//! synced together by one thread.
//!
//! It knows records and positions. What a record means to a queue, and when a message may leave the log, is the
//! owner's matter: he migrates what is still live, says so durably in a checkpoint, and calls
//! [`Wal::release_below`].
//!
//! `format` draws the bytes, `stage` takes records in, `writer` writes them, `ring` keeps the files, `replay`
//! reads everything back at start.

pub mod format;
mod replay;
mod report;
mod ring;
mod scan;
mod shortage;
mod stage;
#[cfg(test)]
mod tests;
mod unproven;
mod waiters;
mod writer;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use posthouse_model::ids::Lsn;

pub use format::{Attempted, Enqueue, Group, LogRecord, Ranges};
pub use replay::verify;
pub use report::{Damage, DamageKind, ReplayReport, TornTail};
pub(crate) use scan::{LogCensus, census};
pub use shortage::Shortage;
pub use stage::{Payload, Stage, is_staging};
pub use waiters::LogWaiter;

use crate::disk::Disk;
use crate::error::StorageError;
use ring::{Maker, Ring};
use stage::Staging;
use waiters::Watermark;

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// Bytes per file, 16 KiB to 2 GiB, a multiple of 4096. A record that does not fit gets a file of its own size.
    pub file_bytes: u64,
    /// Files kept for use in turn, at least 4. A checkpoint is wanted when more than half of them wait for it.
    pub ring_files: usize,
    /// Files kept ready beyond the one being written, at least 1: what remains to write into on a full disk.
    pub reserve_files: usize,
    /// With more bytes than so many files hold, [`Wal::is_congested`] is true until the owner releases some.
    pub max_files: usize,
    /// Bytes of records per batch, at most 1 GiB; a larger record is a batch by itself.
    pub batch_bytes: u64,
    /// Bytes that may be staged and not yet durable before [`Wal::is_congested`] is true.
    pub staging_bytes: u64,
    /// How long settlements may stay staged when nothing else is.
    pub settle_delay: Duration,
    /// How long what need only be written may stay without being synced.
    pub sync_delay: Duration,
    /// How long to wait on a full disk before trying again.
    pub retry: Duration,
    /// Source of the files' salts.
    pub salt_seed: u64,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            file_bytes: 64 * 1024 * 1024,
            ring_files: 8,
            reserve_files: 2,
            max_files: 64,
            batch_bytes: 4 * 1024 * 1024,
            staging_bytes: 32 * 1024 * 1024,
            settle_delay: Duration::from_millis(10),
            sync_delay: Duration::from_millis(100),
            retry: Duration::from_secs(1),
            salt_seed: RandomState::new().build_hasher().finish(),
        }
    }
}

impl WalOptions {
    /// Whether a log can be kept so.
    ///
    /// # Errors
    /// [`StorageError::Setting`] names the first value that is out of range.
    pub fn check(&self) -> Result<(), StorageError> {
        let rules: [(&'static str, &str, u64, bool); 5] = [
            (
                "log file bytes",
                "a multiple of 4096 from 16384 to 2147483648",
                self.file_bytes,
                (16_384..=1 << 31).contains(&self.file_bytes) && self.file_bytes.is_multiple_of(4096),
            ),
            ("log ring files", "at least 4", self.ring_files as u64, self.ring_files >= 4),
            ("log reserve files", "at least 1", self.reserve_files as u64, self.reserve_files >= 1),
            (
                "log files at most",
                "more than the ring's",
                self.max_files as u64,
                self.max_files > self.ring_files,
            ),
            (
                "log batch bytes",
                "1 to 1073741824",
                self.batch_bytes,
                (1..=1 << 30).contains(&self.batch_bytes),
            ),
        ];
        match rules.into_iter().find(|rule| !rule.3) {
            None => Ok(()),
            Some((name, expected, got, _)) => {
                Err(StorageError::Setting { name, expected: expected.to_owned(), got })
            }
        }
    }
}

/// What the log tells its owner. Called on the log's own threads (or within [`Wal::release_below`]), under none of
/// its locks.
pub trait WalEvents: Send + Sync {
    /// Writing or syncing failed: the log has stopped for good and nothing more becomes durable. Called once.
    fn fatal(&self, error: &StorageError);

    /// The log is short of something, or of nothing any more. Meanwhile what is staged still goes into the files made
    /// ahead: block publishers, let settlements pass.
    fn shortage(&self, of: Option<Shortage>);

    /// More than half of the ring waits to be released: migrate what is live below `up_to`, checkpoint, release.
    /// Called anew with each file filled.
    fn checkpoint_wanted(&self, up_to: Lsn);

    /// [`Wal::is_congested`] was seen true and is no longer.
    fn drained(&self);
}

/// The open log. Dropping it closes it.
pub struct Wal {
    inner: Arc<Inner>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the log's threads share.
struct Inner {
    options: WalOptions,
    events: Arc<dyn WalEvents>,
    staging: Mutex<Staging>,
    /// Something was staged that the writer thread sleeps for.
    staged: Condvar,
    appended: AtomicU64,
    written: Watermark,
    durable: Watermark,
    /// See [`Staging::is_lazy`].
    lazy: AtomicBool,
    ring: Mutex<Ring>,
    ring_changed: Condvar,
    over_limit: AtomicBool,
    /// Someone saw the log congested and wants to know when it is not.
    congested: AtomicBool,
    stopped: AtomicBool,
    stop_reason: OnceLock<String>,
}

impl Wal {
    /// Opens the log in `dir`, made when missing, and hands every record from position `start` (the last
    /// checkpoint's) on to `replay`, in order, with its position. `start` must be a position between two records.
    ///
    /// What a crash left half written at the end is cut. Damage anywhere else is copied into `dir`/quarantine,
    /// reported, and passed over. An error from `replay` is passed on.
    ///
    /// # Errors
    /// Reading fails; a file has a newer format; the first file cannot be made.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: WalOptions,
        start: Lsn,
        events: Arc<dyn WalEvents>,
        replay: &mut dyn FnMut(Lsn, LogRecord<'_>) -> Result<(), StorageError>,
    ) -> Result<(Arc<Self>, ReplayReport), StorageError> {
        options.check()?;
        disk.create_dir_all(dir).map_err(|error| StorageError::io("make", dir, error))?;
        let maker = Maker { disk, dir: dir.to_owned(), salt_seed: options.salt_seed };
        let found = replay::recover(&maker, options.file_bytes, start, replay)?;
        let position = found.report.end;
        let mut ring = found.ring;
        let reusable = ring.free.iter().position(|file| file.bytes == options.file_bytes);
        let file = match (found.starter, reusable.and_then(|at| ring.free.remove(at))) {
            (Some(file), reusable) => {
                ring.total_bytes += file.bytes;
                ring.free.extend(reusable);
                file
            }
            (None, Some(mut file)) => {
                let number = ring.take_number();
                maker.reuse(&mut file, number)?;
                file
            }
            (None, None) => {
                let file = maker.starter(ring.take_number(), options.file_bytes)?;
                ring.total_bytes += file.bytes;
                file
            }
        };
        let inner = Arc::new(Inner::new(options, events, position, ring));
        let log_writer = writer::LogWriter::new(Arc::clone(&inner), file, position, found.next_batch);
        let wal = Arc::new(Self { inner: Arc::clone(&inner), threads: Mutex::default() });
        wal.spawn("posthouse-log", move || log_writer.run())?;
        wal.spawn("posthouse-files", move || inner.keep_files(&maker))?;
        Ok((wal, found.report))
    }

    /// From now on files are made ahead of need. Not before: writing the first ones takes as much of the disk and of a
    /// core as everything else that a start does.
    pub fn keep_ahead(&self) {
        lock(&self.inner.ring).keep_ahead();
        self.inner.ring_changed.notify_all();
    }

    /// Takes the staging lock. Keep it short, and never wait for the log while holding it.
    pub fn stage(&self) -> Stage<'_> {
        Stage::new(self)
    }

    /// The position after everything staged.
    pub fn appended(&self) -> Lsn {
        self.inner.appended.load(Ordering::Acquire)
    }

    /// The position below which everything is on disk.
    pub fn durable(&self) -> Lsn {
        self.inner.durable.position()
    }

    /// The position below which everything has been handed to the operating system: it survives the end of this process,
    /// not of the machine.
    pub fn written(&self) -> Lsn {
        self.inner.written.position()
    }

    /// Tells `waiter`, once, when everything below `lsn` is written: at once, on this thread, when it is. Never when
    /// the log stops before.
    pub fn notify_when_written(&self, lsn: Lsn, waiter: Arc<dyn LogWaiter>) {
        self.inner.written.notify(lsn, waiter);
    }

    /// Tells `waiter`, once, when everything below `lsn` is durable: at once, on this thread, when it is. Never
    /// when the log stops before.
    pub fn notify_when_durable(&self, lsn: Lsn, waiter: Arc<dyn LogWaiter>) {
        if self.durable() < lsn {
            self.inner.hurry();
        }
        self.inner.durable.notify(lsn, waiter);
    }

    /// Blocks until everything staged so far is durable. For shutdown and tests.
    ///
    /// # Errors
    /// The log stopped before.
    pub fn sync(&self) -> Result<(), StorageError> {
        let lsn = self.appended();
        self.inner.hurry();
        self.inner.durable.wait(lsn, &self.inner.stopped);
        if self.durable() < lsn { self.inner.check_running() } else { Ok(()) }
    }

    /// Whether callers should stop taking in more: too much is staged, too many files wait to be released, or the
    /// log has stopped. [`WalEvents::drained`] follows when it is over (not after a stop).
    pub fn is_congested(&self) -> bool {
        if !self.inner.over(1) {
            return false;
        }
        self.inner.congested.store(true, Ordering::SeqCst);
        // Again: it may have drained before the flag was seen, and then nobody would tell.
        self.inner.over(1)
    }

    /// What there was too little of for another log file, or for writing into one, at the last try.
    pub fn shortage(&self) -> Option<Shortage> {
        lock(&self.inner.ring).shortage()
    }

    /// The position up to which to migrate and checkpoint, when more than half of the ring waits for it.
    pub fn checkpoint_wanted(&self) -> Option<Lsn> {
        lock(&self.inner.ring).checkpoint_wanted(self.inner.options.ring_files)
    }

    /// Whether a checkpoint at what is durable would let a file be used again.
    pub fn could_release(&self) -> bool {
        !lock(&self.inner.ring).sealed.is_empty()
    }

    /// Allows the reuse of every file that lies wholly below `lsn`. The checkpoint that says so must be durable.
    pub fn release_below(&self, lsn: Lsn) {
        self.inner.release_files(lsn);
    }

    /// Bytes of all log files.
    pub fn file_bytes(&self) -> u64 {
        lock(&self.inner.ring).total_bytes
    }

    /// [`Self::close`] follows. From here on a disk that stays full is not waited for any more: after a few tries,
    /// [`WalOptions::retry`] apart, the log stops, and what is not durable is given up. Nobody was told that it is.
    pub fn begin_close(&self) {
        lock(&self.inner.ring).closing = true;
        self.inner.ring_changed.notify_all();
    }

    /// Writes and syncs everything staged, marks the log closed in good order and ends its threads. Records staged
    /// later are dropped.
    ///
    /// # Errors
    /// The log stopped before everything was durable.
    pub fn close(&self) -> Result<(), StorageError> {
        self.begin_close();
        {
            let mut staging = lock(&self.inner.staging);
            staging.closing = true;
            staging.must_wake();
            self.inner.staged.notify_all();
        }
        let threads = std::mem::take(&mut *lock(&self.threads));
        if threads.is_empty() {
            return Ok(()); // closed before
        }
        let mut threads = threads.into_iter();
        threads.next().into_iter().for_each(join);
        lock(&self.inner.ring).done = true;
        self.inner.ring_changed.notify_all();
        threads.for_each(join);
        if self.inner.end("the log is closed".into()) { Ok(()) } else { self.inner.check_running() }
    }

    fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), StorageError> {
        let guard = StopOnPanic(Arc::clone(&self.inner));
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _guard = guard;
            body();
        });
        let thread = thread.map_err(|error| StorageError::io("start thread", Path::new(name), error))?;
        lock(&self.threads).push(thread);
        Ok(())
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "the log was not closed in good order");
        }
    }
}

/// Waits for a thread's end; the last handle may be dropped by a waiter's call on that very thread.
fn join(thread: JoinHandle<()>) {
    if thread.thread().id() != std::thread::current().id() {
        let _ = thread.join(); // a panic was noted by `StopOnPanic`
    }
}

struct StopOnPanic(Arc<Inner>);

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop(StorageError::Stopped { reason: "a log thread panicked".into() });
        }
    }
}

impl Inner {
    fn new(options: WalOptions, events: Arc<dyn WalEvents>, position: Lsn, ring: Ring) -> Self {
        Self {
            options,
            events,
            staging: Mutex::new(Staging::new(position)),
            staged: Condvar::new(),
            appended: AtomicU64::new(position),
            written: Watermark::new(position),
            durable: Watermark::new(position),
            lazy: AtomicBool::new(false),
            ring: Mutex::new(ring),
            ring_changed: Condvar::new(),
            over_limit: AtomicBool::new(false),
            congested: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            stop_reason: OnceLock::new(),
        }
    }

    fn note_appended(&self, position: Lsn, lazy: bool) {
        self.lazy.store(lazy, Ordering::Relaxed);
        self.appended.store(position, Ordering::SeqCst);
    }

    /// Someone waits: nothing is held back any longer.
    fn hurry(&self) {
        if self.lazy.load(Ordering::Relaxed) {
            let wake = lock(&self.staging).hurry();
            if wake {
                self.staged.notify_one();
            }
        }
    }

    fn advance_durable(&self, durable: Lsn, due: &mut Vec<Arc<dyn LogWaiter>>) {
        self.durable.raise(durable, due);
        self.check_drained();
    }

    /// Whether more than `1 / part` of the allowed bytes is staged, or something else holds the log up.
    fn over(&self, part: u64) -> bool {
        let durable = self.durable.position();
        let staged = self.appended.load(Ordering::SeqCst).saturating_sub(durable);
        staged >= self.options.staging_bytes / part
            || self.over_limit.load(Ordering::SeqCst)
            || self.stopped.load(Ordering::SeqCst)
    }

    fn check_drained(&self) {
        if self.congested.load(Ordering::SeqCst)
            && !self.over(2)
            && self.congested.swap(false, Ordering::SeqCst)
        {
            self.events.drained();
        }
    }

    /// Stops the log for good after `error`.
    fn stop(&self, error: StorageError) {
        if self.end(error.to_string()) {
            self.events.fatal(&error);
        }
    }

    /// Makes an end of everything; whether it was the first call.
    fn end(&self, reason: String) -> bool {
        let first = self.stop_reason.set(reason).is_ok();
        self.stopped.store(true, Ordering::SeqCst);
        {
            let mut staging = lock(&self.staging);
            staging.stopped = true;
            staging.buffer.clear();
            self.staged.notify_all();
        }
        self.durable.wake_blocked();
        // Under the lock, so that nobody between a look at `stopped` and his wait misses it.
        drop(lock(&self.ring));
        self.ring_changed.notify_all();
        first
    }

    fn check_running(&self) -> Result<(), StorageError> {
        if !self.stopped.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(StorageError::Stopped { reason: self.stop_reason.get().cloned().unwrap_or_default() })
    }

    fn wait_staged<'a>(&self, staging: MutexGuard<'a, Staging>) -> MutexGuard<'a, Staging> {
        self.staged.wait(staging).unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_staged_for<'a>(
        &self,
        staging: MutexGuard<'a, Staging>,
        time: Duration,
    ) -> MutexGuard<'a, Staging> {
        self.staged.wait_timeout(staging, time).unwrap_or_else(PoisonError::into_inner).0
    }

    fn wait_ring<'a>(&self, ring: MutexGuard<'a, Ring>) -> MutexGuard<'a, Ring> {
        self.ring_changed.wait(ring).unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_ring_for<'a>(&self, ring: MutexGuard<'a, Ring>, time: Duration) -> MutexGuard<'a, Ring> {
        self.ring_changed.wait_timeout(ring, time).unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Locks; a panic while the lock was held stops the log through `StopOnPanic`, not through a second panic here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
