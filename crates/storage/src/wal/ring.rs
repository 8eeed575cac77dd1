//! The log's files: made ahead of need, sealed when full, released by the owner, used again.
//!
//! One thread, the keeper, makes and removes files so that the writer thread only takes them. It alone hands out
//! file numbers, so that the order of numbers is the order of use.
//!
//! A released file is used again in this order: new header (number and salt) written and synced, which ends its old
//! content; then renamed; then the directory synced; only then taken. A crash in between leaves a file whose header
//! differs from its name; recovery goes by the header.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use posthouse_model::ids::Lsn;

use super::format::{BATCH_ALIGN, FIRST_BATCH_AT, FileHeader, HEADER_COPY_AT, batch_file_bytes};
use super::shortage::{Shortage, Shortages};
use super::{Inner, lock};
use crate::disk::{Disk, DiskFile};
use crate::error::StorageError;

/// Zeroes written at once into a new file.
const ZERO_RUN: usize = 256 * 1024;

/// The file that a log goes on in when it is opened, so that a start need not wait for a large one; and those tried when
/// there is no room for it: acknowledgements and a checkpoint, which make room, fit into little.
const STARTER_FILE_BYTES: [u64; 3] = [4 << 20, 256 << 10, 16 << 10];

/// A file of the log, open.
#[derive(Clone)]
pub(super) struct LogFile {
    pub(super) path: PathBuf,
    pub(super) header: FileHeader,
    /// Its length.
    pub(super) bytes: u64,
    pub(super) file: Arc<dyn DiskFile>,
}

/// A full file: its records' positions are `first..end`.
pub(super) struct Sealed {
    pub(super) file: LogFile,
    pub(super) first: Lsn,
    pub(super) end: Lsn,
}

/// All files but the one being written.
#[derive(Default)]
pub(super) struct Ring {
    /// Made and synced, to be taken in order.
    pub(super) ready: VecDeque<LogFile>,
    pub(super) sealed: VecDeque<Sealed>,
    /// Released, or empty when found; to be used again, the oldest first, or removed.
    pub(super) free: VecDeque<LogFile>,
    pub(super) next_number: u64,
    /// Length of all files, the one being written included.
    pub(super) total_bytes: u64,
    /// The length of the file that the writer thread waits for.
    need: Option<u64>,
    shortages: Shortages,
    /// Files are made ahead of need.
    ahead: bool,
    /// The log is being closed: no files ahead of need any more, and no waiting for long for those that are needed.
    pub(super) closing: bool,
    /// The writer thread has ended.
    pub(super) done: bool,
}

/// Makes files.
#[derive(Clone)]
pub(super) struct Maker {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) salt_seed: u64,
}

enum Job {
    Create { number: u64, bytes: u64, prewrite: bool },
    Reuse { file: LogFile, number: u64 },
    Remove(LogFile),
}

/// The name of log file `number`.
pub(super) fn file_name(number: u64) -> String {
    format!("{number:016}.log")
}

/// The length of a file that holds one batch with `length` bytes of records.
pub(super) fn file_bytes_for(length: u64) -> u64 {
    FIRST_BATCH_AT + batch_file_bytes(length)
}

/// Bytes of records that one batch in a file of `file_bytes` bytes may have.
pub(super) fn batch_limit(file_bytes: u64) -> u64 {
    file_bytes - FIRST_BATCH_AT - batch_file_bytes(0)
}

impl Maker {
    /// A new file of `bytes` bytes, durable. With `prewrite` every byte was written once, so that later writes
    /// change no file system metadata and sync faster.
    pub(super) fn create(&self, number: u64, bytes: u64, prewrite: bool) -> Result<LogFile, StorageError> {
        let path = self.dir.join(file_name(number));
        let result = self.create_at(&path, number, bytes, prewrite);
        if result.is_err() {
            // Whatever is left of it is found and used or removed at the next start.
            let _ = self.disk.remove(&path);
        }
        result
    }

    /// A file to go on in at once, of `file_bytes` bytes or less.
    pub(super) fn starter(&self, number: u64, file_bytes: u64) -> Result<LogFile, StorageError> {
        for bytes in STARTER_FILE_BYTES {
            match self.create(number, file_bytes.min(bytes), true) {
                Err(error) if error.is_disk_full() => {}
                made => return made,
            }
        }
        Err(StorageError::NoRoom { dir: self.dir.clone(), bytes: STARTER_FILE_BYTES[0] })
    }

    fn create_at(
        &self,
        path: &Path,
        number: u64,
        bytes: u64,
        prewrite: bool,
    ) -> Result<LogFile, StorageError> {
        let file = self.disk.create(path).map_err(|error| StorageError::io("create", path, error))?;
        file.allocate(bytes).map_err(|error| StorageError::io_at("allocate", path, bytes, error))?;
        if prewrite {
            let zeroes = vec![0; ZERO_RUN];
            let mut at = 0;
            while at < bytes {
                let run = (bytes - at).min(ZERO_RUN as u64) as usize;
                file.write_all_at(&zeroes[..run], at)
                    .map_err(|error| StorageError::io_at("write", path, at, error))?;
                at += run as u64;
            }
        }
        let header = self.header(number);
        let log_file = LogFile { path: path.to_owned(), header, bytes, file };
        log_file.write_header()?;
        self.sync_dir()?;
        Ok(log_file)
    }

    /// Gives a file whose content is no longer needed a new number and salt. After an error it may be tried again,
    /// with a later number.
    pub(super) fn reuse(&self, file: &mut LogFile, number: u64) -> Result<(), StorageError> {
        file.header = self.header(number);
        file.write_header()?;
        let path = self.dir.join(file_name(number));
        self.disk.rename(&file.path, &path).map_err(|error| StorageError::io("rename", &file.path, error))?;
        file.path = path;
        self.sync_dir()
    }

    fn header(&self, number: u64) -> FileHeader {
        // Numbers are never used twice, so neither are salts, whatever the seed.
        let mut salt = self.salt_seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        salt = (salt ^ (salt >> 31)).wrapping_mul(0x7fb5_d329_728e_a185);
        FileHeader { number, salt: salt ^ (salt >> 27) }
    }

    fn sync_dir(&self) -> Result<(), StorageError> {
        self.disk.sync_dir(&self.dir).map_err(|error| StorageError::io("sync", &self.dir, error))
    }
}

impl LogFile {
    fn write_header(&self) -> Result<(), StorageError> {
        // The copy first, synced by itself: at every moment one of the two is whole. With it the first batch's
        // sector is cleared, which tells recovery that no batch was ever written here.
        let header = self.header.encode();
        let zeroes = [0; (FIRST_BATCH_AT - HEADER_COPY_AT) as usize];
        let rest = &zeroes[header.len()..];
        let no_batch = &zeroes[..BATCH_ALIGN as usize];
        self.write_synced(
            &mut [IoSlice::new(&header), IoSlice::new(rest), IoSlice::new(no_batch)],
            HEADER_COPY_AT,
        )?;
        self.write_synced(&mut [IoSlice::new(&header), IoSlice::new(rest)], 0)
    }

    fn write_synced(&self, slices: &mut [IoSlice<'_>], offset: u64) -> Result<(), StorageError> {
        let written = self.file.write_at(slices, offset);
        written.map_err(|error| StorageError::io_at("write", &self.path, offset, error))?;
        self.sync()
    }

    pub(super) fn sync(&self) -> Result<(), StorageError> {
        self.file.sync_data().map_err(|error| StorageError::io("sync", &self.path, error))
    }
}

impl Ring {
    /// What keeps the log from going on, or soon will.
    pub(super) fn shortage(&self) -> Option<Shortage> {
        self.shortages.now()
    }

    /// The sealed files are more than half of the ring: where the newest quarter of them starts.
    pub(super) fn checkpoint_wanted(&self, ring_files: usize) -> Option<Lsn> {
        if self.sealed.len() <= ring_files / 2 {
            return None;
        }
        // The newest are left: most of what they hold will be consumed without ever being moved.
        self.sealed.get(self.sealed.len() - ring_files / 4).or(self.sealed.back()).map(|sealed| sealed.first)
    }

    fn job(&mut self, inner: &Inner) -> Option<Job> {
        let standard = inner.options.file_bytes;
        if let Some(at) = self.free.iter().position(|file| file.bytes != standard) {
            return self.free.remove(at).map(Job::Remove);
        }
        if self.need.is_some_and(|need| need > standard)
            && self.ready.front().is_none_or(|f| Some(f.bytes) < self.need)
        {
            // Its number must come before those of the files made ahead, so these start over.
            self.free.extend(self.ready.drain(..));
            let bytes = self.need.unwrap_or(standard);
            return Some(Job::Create { number: self.take_number(), bytes, prewrite: false });
        }
        let ahead = if self.ahead && !self.closing { inner.options.reserve_files } else { 0 };
        if self.ready.len() < ahead.max(usize::from(self.need.is_some())) {
            let number = self.take_number();
            return Some(match self.free.pop_front() {
                Some(file) => Job::Reuse { file, number },
                None => Job::Create { number, bytes: standard, prewrite: self.need.is_none() },
            });
        }
        let files = self.free.len() + self.sealed.len() + self.ready.len() + 1;
        let surplus = files > inner.options.ring_files;
        if surplus { self.free.pop_back().map(Job::Remove) } else { None }
    }

    pub(super) fn keep_ahead(&mut self) {
        self.ahead = true;
    }

    pub(super) fn take_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }
}

impl Inner {
    /// A file of at least `bytes` bytes that is ready for writing. Waits for the keeper, and for room on the disk.
    pub(super) fn take_file(&self, bytes: u64) -> Result<LogFile, StorageError> {
        let mut ring = lock(&self.ring);
        loop {
            self.check_running()?;
            if ring.ready.front().is_some_and(|file| file.bytes >= bytes)
                && let Some(file) = ring.ready.pop_front()
            {
                ring.need = None;
                self.ring_changed.notify_all();
                return Ok(file);
            }
            ring.shortages.give_up()?;
            if ring.need != Some(bytes) {
                ring.need = Some(bytes);
                self.ring_changed.notify_all();
            }
            ring = self.wait_ring(ring);
        }
    }

    /// Adds a full file, or one that holds nothing.
    pub(super) fn seal_file(&self, file: LogFile, first: Lsn, end: Lsn) {
        let wanted = {
            let mut ring = lock(&self.ring);
            ring.sealed.push_back(Sealed { file, first, end });
            ring.checkpoint_wanted(self.options.ring_files)
        };
        if let Some(up_to) = wanted {
            self.events.checkpoint_wanted(up_to);
        }
    }

    pub(super) fn release_files(&self, below: Lsn) {
        let mut ring = lock(&self.ring);
        while ring.sealed.front().is_some_and(|sealed| sealed.end <= below)
            && let Some(sealed) = ring.sealed.pop_front()
        {
            ring.free.push_back(sealed.file);
        }
        self.note_total(&ring);
        drop(ring);
        self.ring_changed.notify_all();
        self.check_drained();
    }

    /// Notes that a write found no room, waits a little, and returns for another try.
    pub(super) fn wait_for_room(&self) -> Result<(), StorageError> {
        self.change_shortages(|ring| ring.shortages.no_write(ring.closing));
        let ring = lock(&self.ring);
        ring.shortages.give_up()?;
        drop(self.wait_ring_for(ring, self.options.retry));
        self.check_running()
    }

    pub(super) fn found_room(&self) {
        self.change_shortages(|ring| ring.shortages.wrote());
    }

    /// The keeper's thread.
    pub(super) fn keep_files(&self, maker: &Maker) {
        while let Some(job) = self.next_job() {
            if let Err(error) = self.do_job(maker, job) {
                self.stop(error);
                return;
            }
        }
    }

    fn next_job(&self) -> Option<Job> {
        let mut ring = lock(&self.ring);
        loop {
            if self.stopped.load(Ordering::Acquire) {
                return None;
            }
            if let Some(job) = ring.job(self) {
                return Some(job);
            }
            if ring.done {
                return None;
            }
            ring = self.wait_ring(ring);
        }
    }

    fn do_job(&self, maker: &Maker, job: Job) -> Result<(), StorageError> {
        let reused = matches!(job, Job::Reuse { .. });
        let made = match job {
            Job::Remove(file) => {
                self.remove(maker, &file);
                return Ok(());
            }
            Job::Create { number, bytes, prewrite } => {
                maker.create(number, bytes, prewrite).map(|file| (file, bytes))
            }
            Job::Reuse { mut file, number } => match maker.reuse(&mut file, number) {
                Ok(()) => Ok((file, 0)),
                Err(error) => {
                    lock(&self.ring).free.push_front(file);
                    Err(error)
                }
            },
        };
        match made {
            Ok((file, new_bytes)) => {
                self.change_shortages(|ring| {
                    ring.total_bytes += new_bytes;
                    self.note_total(ring);
                    ring.ready.push_back(file);
                    if ring.ready.len() >= self.options.reserve_files {
                        ring.shortages.enough_files();
                    }
                });
                self.ring_changed.notify_all();
                Ok(())
            }
            Err(error) => {
                let Some(shortage) = Shortage::of(&error) else { return Err(error) };
                if lock(&self.ring).shortage().is_none() {
                    tracing::warn!(%error, "cannot make another log file now");
                }
                self.change_shortages(|ring| ring.shortages.no_file(shortage, ring.closing));
                self.ring_changed.notify_all();
                let ring = lock(&self.ring);
                // A released file needs no room: look at once.
                if (ring.free.is_empty() || reused) && !ring.done {
                    drop(self.wait_ring_for(ring, self.options.retry));
                }
                Ok(())
            }
        }
    }

    fn remove(&self, maker: &Maker, file: &LogFile) {
        if let Err(error) = maker.disk.remove(&file.path) {
            tracing::warn!(path = %file.path.display(), %error, "cannot remove a log file that is not needed");
        }
        let mut ring = lock(&self.ring);
        ring.total_bytes = ring.total_bytes.saturating_sub(file.bytes);
        self.note_total(&ring);
        drop(ring);
        self.check_drained();
    }

    fn change_shortages(&self, change: impl FnOnce(&mut Ring)) {
        let mut ring = lock(&self.ring);
        let before = ring.shortage();
        change(&mut ring);
        let after = ring.shortage();
        drop(ring);
        if before != after {
            self.events.shortage(after);
        }
    }

    fn note_total(&self, ring: &Ring) {
        // Released files count as room: they are about to be used again or removed.
        let free: u64 = ring.free.iter().map(|file| file.bytes).sum();
        let limit = self.options.max_files as u64 * self.options.file_bytes;
        self.over_limit.store(ring.total_bytes - free > limit, Ordering::SeqCst);
    }
}
