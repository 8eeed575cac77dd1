//! Finding log files and batches in them, without judging what is missing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use posthouse_model::ids::Lsn;

use super::format::{
    BATCH_ALIGN, BATCH_HEADER_BYTES, BatchHeader, FILE_HEADER_BYTES, FIRST_BATCH_AT, FileHeader,
    HEADER_COPY_AT, ReadHeader, VERSION, looks_like_batch,
};
use super::ring::LogFile;
use crate::disk::{Access, Disk, DiskFile};
use crate::error::StorageError;

/// Bytes read ahead at once.
const WINDOW_BYTES: usize = 1024 * 1024;

/// The number of the first file that a log ever has.
const FIRST_FILE: u64 = 1;

/// A log file found at start.
pub(super) struct Source {
    pub(super) log_file: LogFile,
    /// Position of its first record, where its first batch header is readable.
    pub(super) first: Option<Lsn>,
    /// No batch was ever synced into it.
    pub(super) untouched: bool,
}

/// A file with a log file's name and no readable header.
pub(super) struct Headless {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    /// It holds batches, so it was in use.
    pub(super) used: bool,
    pub(super) number: u64,
}

/// All files with a log file's name, in order of use.
pub(super) struct Survey {
    pub(super) sources: Vec<Source>,
    pub(super) headless: Vec<Headless>,
    /// Larger than every file's number.
    pub(super) next_number: u64,
}

impl Survey {
    pub(super) fn of(disk: &dyn Disk, dir: &Path, access: Access) -> Result<Self, StorageError> {
        let mut survey = Self { sources: Vec::new(), headless: Vec::new(), next_number: FIRST_FILE };
        for name in disk.list(dir).map_err(|error| StorageError::io("list", dir, error))? {
            let Some(number) = number_of(&name) else { continue };
            survey.next_number = survey.next_number.max(number + 1);
            let path = dir.join(name);
            let file = disk.open(&path, access).map_err(|error| StorageError::io("open", &path, error))?;
            let bytes = file.size().map_err(|error| StorageError::io("measure", &path, error))?;
            let mut window = Window::new(Arc::clone(&file), path.clone(), bytes);
            let first_sector = window.get(FIRST_BATCH_AT, BATCH_ALIGN)?;
            let untouched = first_sector.iter().all(|&byte| byte == 0);
            let used = looks_like_batch(first_sector);
            let Some(header) = read_header(&mut window)? else {
                survey.headless.push(Headless { path, bytes, used, number });
                continue;
            };
            survey.next_number = survey.next_number.max(header.number + 1);
            let first = window.batch_at(FIRST_BATCH_AT, header.salt)?.map(|batch| batch.first);
            let log_file = LogFile { path, header, bytes, file };
            survey.sources.push(Source { log_file, first, untouched });
        }
        survey.sources.sort_by_key(|source| source.log_file.header.number);
        Ok(survey)
    }
}

/// What files a log consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LogCensus {
    /// Files.
    pub(crate) files: usize,
    /// Files that records were written to since they were made or taken into use again.
    pub(crate) used_files: usize,
    /// The log's first record, or the file that had it, is there: nothing was released yet.
    pub(crate) from_the_beginning: bool,
}

/// Counts the files of the log in `dir`. Changes nothing.
///
/// # Errors
/// When they cannot be read, or have a newer format.
pub(crate) fn census(disk: &dyn Disk, dir: &Path) -> Result<LogCensus, StorageError> {
    let survey = Survey::of(disk, dir, Access::Read)?;
    let used = survey.sources.iter().filter(|source| !source.untouched);
    let headless = survey.headless.iter().filter(|headless| headless.used);
    // A file that is used again gets another number, so the first one is the first only until then.
    let first_file = used.clone().any(|source| source.log_file.header.number == FIRST_FILE)
        || headless.clone().any(|headless| headless.number == FIRST_FILE);
    Ok(LogCensus {
        files: survey.sources.len() + survey.headless.len(),
        used_files: used.clone().count() + headless.count(),
        from_the_beginning: first_file || used.clone().any(|source| source.first == Some(0)),
    })
}

fn number_of(name: &str) -> Option<u64> {
    let stem = name.strip_suffix(".log")?;
    let number = stem.bytes().all(|byte| byte.is_ascii_digit()).then(|| stem.parse().ok())?;
    number.filter(|&number| number < u64::MAX)
}

fn read_header(window: &mut Window) -> Result<Option<FileHeader>, StorageError> {
    for at in [0, HEADER_COPY_AT] {
        let bytes = window.get(at, FILE_HEADER_BYTES as u64)?;
        let Some(bytes) = bytes.first_chunk() else { continue };
        match FileHeader::decode(bytes) {
            ReadHeader::Valid(header) => return Ok(Some(header)),
            ReadHeader::Version(got) => {
                let path = window.path.clone();
                return Err(StorageError::UnsupportedVersion { path, expected: VERSION, got });
            }
            ReadHeader::Invalid => {}
        }
    }
    Ok(None)
}

/// Reads a file through a buffer, for small steps forward.
pub(super) struct Window {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    /// The file's length.
    bytes: u64,
    buffer: Vec<u8>,
    /// Where in the file `buffer` starts.
    start: u64,
}

impl Window {
    pub(super) fn new(file: Arc<dyn DiskFile>, path: PathBuf, bytes: u64) -> Self {
        Self { file, path, bytes, buffer: Vec::new(), start: 0 }
    }

    pub(super) fn of(file: &LogFile) -> Self {
        Self::new(Arc::clone(&file.file), file.path.clone(), file.bytes)
    }

    /// The bytes from `offset` to `offset + length`, or to the file's end.
    pub(super) fn get(&mut self, offset: u64, length: u64) -> Result<&[u8], StorageError> {
        let length = length.min(self.bytes.saturating_sub(offset));
        let inside = offset >= self.start && offset + length <= self.start + self.buffer.len() as u64;
        if !inside {
            self.load(offset, length)?;
        }
        let at = (offset - self.start) as usize;
        Ok(&self.buffer[at..at + length as usize])
    }

    fn load(&mut self, offset: u64, length: u64) -> Result<(), StorageError> {
        // The first look at a file is at its head only.
        let ahead = if offset <= FIRST_BATCH_AT { 2 * FIRST_BATCH_AT as usize } else { WINDOW_BYTES };
        let wanted = (length as usize).max(ahead).min(self.bytes.saturating_sub(offset) as usize);
        self.buffer.resize(wanted, 0);
        self.start = offset;
        self.file
            .read_exact_at(&mut self.buffer, offset)
            .map_err(|error| StorageError::io_at("read", &self.path, offset, error))
    }

    /// The batch header at `offset`, if one of this file is there and its records fit into the file.
    pub(super) fn batch_at(&mut self, offset: u64, salt: u64) -> Result<Option<BatchHeader>, StorageError> {
        let file_bytes = self.bytes;
        let header = BatchHeader::decode(self.get(offset, BATCH_HEADER_BYTES as u64)?, salt);
        Ok(header.filter(|header| header.file_bytes() <= file_bytes.saturating_sub(offset)))
    }

    /// The first batch header at or after `offset`.
    pub(super) fn next_batch(
        &mut self,
        offset: u64,
        salt: u64,
    ) -> Result<Option<(u64, BatchHeader)>, StorageError> {
        let mut at = offset;
        while at < self.bytes {
            if let Some(header) = self.batch_at(at, salt)? {
                return Ok(Some((at, header)));
            }
            at += BATCH_ALIGN;
        }
        Ok(None)
    }
}

/// Where a batch is, or should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// Index into the sources.
    pub(super) source: usize,
    pub(super) offset: u64,
}

/// What follows a place where the log cannot be read on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Beyond {
    /// The log goes on here without a gap: what lies between was cut by an earlier recovery.
    Resumes(Place),
    /// Records are missing, though they were durable; the next readable batch and its first position.
    Gap(Place, Lsn),
    /// Nothing that was durable. Whether batches that were not are there.
    Nothing {
        /// Some are.
        leftovers: bool,
    },
}

/// Looks from `place` on for what follows position `at`. With `exact` the log must go on at precisely that
/// position, else with any batch that starts before or there.
pub(super) fn look_beyond(
    sources: &[Source],
    place: Place,
    at: Lsn,
    exact: bool,
) -> Result<Beyond, StorageError> {
    let mut candidate: Option<(Place, Lsn)> = None;
    let mut end = 0;
    for (index, source) in sources.iter().enumerate().skip(place.source) {
        if index > place.source && source.untouched {
            continue;
        }
        let mut offset = if index == place.source { place.offset } else { FIRST_BATCH_AT };
        let mut window = Window::of(&source.log_file);
        while let Some((found, header)) = window.next_batch(offset, source.log_file.header.salt)? {
            let here = Place { source: index, offset: found };
            if header.first == at || (!exact && header.first < at) {
                return Ok(Beyond::Resumes(here));
            }
            if header.first > at {
                // Positions that went back belong to a later run of the broker, which had cut what was before.
                if candidate.is_none() || header.first < end {
                    candidate = Some((here, header.first));
                }
                end = header.end();
                if header.durable_before > at
                    && let Some((place, first)) = candidate
                {
                    return Ok(Beyond::Gap(place, first));
                }
            }
            offset = found + header.file_bytes();
        }
    }
    Ok(Beyond::Nothing { leftovers: candidate.is_some() })
}
