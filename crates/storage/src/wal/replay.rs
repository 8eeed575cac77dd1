//! Reading the log back at start: what was durable, in order; what was torn by a crash, cut; what is damaged,
//! reported and kept aside, never silently dropped.
//!
//! Batches follow each other without a gap in positions. Where the next one is not readable, everything after is
//! looked through. A batch that goes on at exactly the missing position is from a later run, which had cut a torn
//! tail here: nothing is missing. A batch written when positions past this one were durable proves damage. When
//! there is neither, this is the torn tail, and the log goes on here, in a new file.

use std::io;
use std::ops::Range;
use std::path::Path;

use posthouse_model::ids::Lsn;

use super::format::{
    BATCH_HEADER_BYTES, BatchHeader, FIRST_BATCH_AT, FLAG_CLOSED, LogRecord, RECORD_HEADER_BYTES,
    could_be_record, record_is_intact, record_length, was_batch,
};
use super::report::{Damage, DamageKind, ReplayReport, TornTail};
use super::ring::{LogFile, Maker, Ring, Sealed};
use super::scan::{Beyond, Headless, Place, Source, Survey, Window, look_beyond};
use super::unproven::Unproven;
use crate::disk::{Access, Disk};
use crate::error::StorageError;

/// Where damaged bytes are copied, within the log's directory.
const QUARANTINE: &str = "quarantine";

/// Who takes the records.
pub(super) type Replay<'a> = &'a mut dyn FnMut(Lsn, LogRecord<'_>) -> Result<(), StorageError>;

/// What opening the log goes on from.
pub(super) struct Recovered {
    /// The file to go on in, where none of the old ones is certain to serve.
    pub(super) starter: Option<LogFile>,
    pub(super) report: ReplayReport,
    pub(super) ring: Ring,
    pub(super) next_batch: u64,
}

/// Reads the log in `dir` without changing anything, from position `start` on; `replay` gets every record. For a
/// stopped broker's directory.
///
/// # Errors
/// Reading fails, a file has a newer format, or `replay` fails. Damage is in the report.
pub fn verify(
    disk: &dyn Disk,
    dir: &Path,
    start: Lsn,
    replay: &mut dyn FnMut(Lsn, LogRecord<'_>) -> Result<(), StorageError>,
) -> Result<ReplayReport, StorageError> {
    let survey = Survey::of(disk, dir, Access::Read)?;
    let mut recovery = Recovery::new(disk, dir, start, survey, replay);
    recovery.run()?;
    recovery.note_headless()?;
    Ok(recovery.report)
}

/// Reads the log back, makes all that was read durable, and sorts its files: those with records from `start` on stay,
/// others may be used again. The file to go on in is made before anything is replayed: `replay` may use up what room
/// there is.
pub(super) fn recover(
    maker: &Maker,
    file_bytes: u64,
    start: Lsn,
    replay: Replay<'_>,
) -> Result<Recovered, StorageError> {
    let (disk, dir) = (&*maker.disk, &*maker.dir);
    let survey = Survey::of(disk, dir, Access::ReadWrite)?;
    let mut next_number = survey.next_number;
    let unused = |source: &Source| source.untouched && source.log_file.bytes == file_bytes;
    let starter = if survey.sources.iter().any(unused) {
        None
    } else {
        next_number += 1;
        Some(maker.starter(next_number - 1, file_bytes)?)
    };
    let mut recovery = Recovery::new(disk, dir, start, survey, replay);
    recovery.quarantine = true;
    recovery.run()?;
    recovery.unproven.make_durable(&recovery.sources)?;
    recovery.note_headless()?;
    let mut ring = recovery.sort_files()?;
    ring.next_number = next_number;
    Ok(Recovered { starter, ring, next_batch: recovery.next_batch, report: recovery.report })
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    start: Lsn,
    quarantine: bool,
    sources: Vec<Source>,
    headless: Vec<Headless>,
    /// The file being read, by its index.
    window: Option<(usize, Window)>,
    /// Per source: the position at which reading left it.
    ends: Vec<Lsn>,
    /// The next batch's position, once one was read.
    expected: Option<Lsn>,
    next_batch: u64,
    unproven: Unproven,
    replay: Replay<'a>,
    report: ReplayReport,
}

/// What is at a place where a batch is expected.
enum Found {
    Batch(BatchHeader),
    /// The header is right, its records are not.
    Broken(BatchHeader),
    /// Not the batch that should be here.
    Nothing,
}

impl<'a> Recovery<'a> {
    fn new(disk: &'a dyn Disk, dir: &'a Path, start: Lsn, survey: Survey, replay: Replay<'a>) -> Self {
        let files = survey.sources.len();
        let report = ReplayReport {
            start,
            end: start,
            files: files + survey.headless.len(),
            ..ReplayReport::default()
        };
        Self {
            disk,
            dir,
            start,
            quarantine: false,
            sources: survey.sources,
            headless: survey.headless,
            window: None,
            ends: vec![0; files],
            expected: None,
            next_batch: 0,
            unproven: Unproven::default(),
            replay,
            report,
        }
    }

    fn run(&mut self) -> Result<(), StorageError> {
        // Files before the last one that starts at or before `start` hold nothing of interest.
        let skipped =
            self.sources.iter().rposition(|source| source.first.is_some_and(|first| first <= self.start));
        let mut place = Place { source: skipped.unwrap_or(0), offset: FIRST_BATCH_AT };
        let mut records = Vec::new();
        while place.source < self.sources.len() {
            let next = match self.read_batch(place, &mut records)? {
                Found::Batch(header) => {
                    self.report.closed = header.flags & FLAG_CLOSED != 0;
                    self.hand_out(place, &header, &records)?;
                    self.passed(place, &header);
                    Some(Place { offset: place.offset + header.file_bytes(), ..place })
                }
                Found::Broken(header) => self.pass_broken(place, &header, &records)?,
                Found::Nothing => self.pass_hole(place)?,
            };
            let Some(next) = next else { break };
            place = next;
        }
        self.report.end = self.position();
        Ok(())
    }

    /// The position to go on from.
    fn position(&self) -> Lsn {
        self.expected.map_or(self.start, |expected| expected.max(self.start))
    }

    fn passed(&mut self, place: Place, header: &BatchHeader) {
        self.expected = Some(header.end());
        self.ends[place.source] = header.end();
        self.next_batch = header.number + 1;
        self.unproven.note(place, header);
    }

    fn read_batch(&mut self, place: Place, records: &mut Vec<u8>) -> Result<Found, StorageError> {
        let source = &self.sources[place.source].log_file;
        let kept = self.window.take().filter(|(index, _)| *index == place.source);
        let (_, window) = self.window.insert(kept.unwrap_or_else(|| (place.source, Window::of(source))));
        let Some(header) = window.batch_at(place.offset, source.header.salt)? else {
            return Ok(Found::Nothing);
        };
        let fits = self.expected.map_or(header.first <= self.start, |expected| header.first == expected);
        if !fits {
            return Ok(Found::Nothing);
        }
        records.clear();
        let bytes = window.get(place.offset + BATCH_HEADER_BYTES as u64, u64::from(header.length))?;
        records.extend_from_slice(bytes);
        let mut at = 0;
        let mut count = 0;
        while let Some(record) = record_at(records, at, &header) {
            at += record.len();
            count += 1;
        }
        let whole = at == records.len() && count == header.records;
        Ok(if whole { Found::Batch(header) } else { Found::Broken(header) })
    }

    /// Hands out the intact records of a batch and reports what lies between them.
    fn hand_out(&mut self, place: Place, header: &BatchHeader, records: &[u8]) -> Result<(), StorageError> {
        let mut at = 0;
        while at < records.len() {
            let lsn = header.first + at as u64;
            let Some(record) = record_at(records, at, header) else {
                let bad = at;
                at = (at + 1..records.len())
                    .find(|&at| could_be_record(&records[at..]) && record_at(records, at, header).is_some())
                    .unwrap_or(records.len());
                self.damage_in_batch(place, header, bad..at, DamageKind::Record)?;
                continue;
            };
            if lsn >= self.start {
                match LogRecord::parse(record) {
                    Some(parsed) => {
                        (self.replay)(lsn, parsed)?;
                        self.report.records += 1;
                        self.report.bytes += record.len() as u64;
                    }
                    None => {
                        let range = at..at + record.len();
                        self.damage_in_batch(place, header, range, DamageKind::UnknownRecord)?;
                    }
                }
            }
            at += record.len();
        }
        Ok(())
    }

    fn damage_in_batch(
        &mut self,
        place: Place,
        header: &BatchHeader,
        range: Range<usize>,
        kind: DamageKind,
    ) -> Result<(), StorageError> {
        let lsns = header.first + range.start as u64..header.first + range.end as u64;
        if lsns.end <= self.start {
            return Ok(());
        }
        let place = Place { offset: place.offset + (BATCH_HEADER_BYTES + range.start) as u64, ..place };
        self.damage(place, range.len() as u64, lsns, kind)
    }

    /// A batch whose records are not all intact: damage when something durable follows, else torn.
    fn pass_broken(
        &mut self,
        place: Place,
        header: &BatchHeader,
        records: &[u8],
    ) -> Result<Option<Place>, StorageError> {
        let after = Place { offset: place.offset + header.file_bytes(), ..place };
        match look_beyond(&self.sources, after, header.first, true)? {
            Beyond::Resumes(place) => Ok(Some(place)),
            Beyond::Gap(..) => {
                self.hand_out(place, header, records)?;
                self.passed(place, header);
                Ok(Some(after))
            }
            Beyond::Nothing { .. } => {
                self.expected = Some(header.first);
                self.cut(place, header.first);
                Ok(None)
            }
        }
    }

    fn pass_hole(&mut self, place: Place) -> Result<Option<Place>, StorageError> {
        let at = self.position();
        let mut from = place;
        if self.report.closed {
            // Closed in good order: nothing follows in this file.
            from = Place { source: place.source + 1, offset: FIRST_BATCH_AT };
        }
        match look_beyond(&self.sources, from, at, self.expected.is_some())? {
            Beyond::Resumes(next) => {
                // The batches up to the start may be gone with a released file; the log goes on past them.
                self.expected = self.expected.map(|_| at);
                Ok(Some(next))
            }
            Beyond::Gap(next, first) => {
                let (place, kind) = self.find_damage(place, next, at)?;
                let rest = self.sources[place.source].log_file.bytes.saturating_sub(place.offset);
                let bytes = match kind {
                    _ if next.source == place.source => next.offset - place.offset,
                    DamageKind::Missing => 0,
                    // Past a file's last batch lies what an earlier use left: copy no more of it than may matter.
                    _ => rest.min(first - at + 65_536),
                };
                self.report.closed = false;
                self.damage(place, bytes, at..first, kind)?;
                self.expected = Some(first);
                Ok(Some(next))
            }
            Beyond::Nothing { leftovers } => {
                if leftovers {
                    self.report.closed = false;
                    self.cut(place, at);
                }
                Ok(None)
            }
        }
    }

    /// Where the damage is that shows as a gap between `place` and `next`: there, at the head of a later file, or
    /// nowhere.
    fn find_damage(&self, place: Place, next: Place, at: Lsn) -> Result<(Place, DamageKind), StorageError> {
        let file = &self.sources[place.source].log_file;
        let bytes = Window::of(file).get(place.offset, BATCH_HEADER_BYTES as u64)?.to_vec();
        if next.source == place.source || was_batch(&bytes, file.header.salt, at) {
            return Ok((place, DamageKind::BatchHeader));
        }
        let later = (place.source + 1..=next.source)
            .map(|source| Place { source, offset: FIRST_BATCH_AT })
            .find(|&head| !self.sources[head.source].untouched && head != next);
        Ok(later.map_or((place, DamageKind::Missing), |head| (head, DamageKind::BatchHeader)))
    }

    fn cut(&mut self, place: Place, lsn: Lsn) {
        let path = self.sources[place.source].log_file.path.clone();
        tracing::info!(path = %path.display(), offset = place.offset, lsn, "the log's torn end is cut");
        self.report.torn = Some(TornTail { path, offset: place.offset, lsn });
    }

    fn damage(
        &mut self,
        place: Place,
        bytes: u64,
        lsns: Range<Lsn>,
        kind: DamageKind,
    ) -> Result<(), StorageError> {
        let file = &self.sources[place.source].log_file;
        let mut damage =
            Damage { path: file.path.clone(), offset: place.offset, bytes, lsns, kind, copy: None };
        if self.quarantine && bytes > 0 {
            let to =
                self.dir.join(QUARANTINE).join(format!("{:016}-{}.part", file.header.number, place.offset));
            match copy_aside(self.disk, file, place.offset, bytes, &to) {
                Ok(()) => damage.copy = Some(to),
                // A full disk must not keep the broker from starting: the file itself stays until released.
                Err(error) => tracing::warn!(%error, to = %to.display(), "cannot copy damaged bytes aside"),
            }
        }
        tracing::error!(
            path = %damage.path.display(),
            offset = damage.offset,
            bytes = damage.bytes,
            from_lsn = damage.lsns.start,
            to_lsn = damage.lsns.end,
            what = kind.name(),
            "the log is damaged"
        );
        self.report.damage.push(damage);
        Ok(())
    }

    /// Files in use whose header is lost.
    fn note_headless(&mut self) -> Result<(), StorageError> {
        for headless in &self.headless {
            if !headless.used {
                continue;
            }
            let at = self.report.end;
            let mut damage = Damage {
                path: headless.path.clone(),
                offset: 0,
                bytes: headless.bytes,
                lsns: at..at,
                kind: DamageKind::FileHeader,
                copy: None,
            };
            if self.quarantine {
                let dir = self.dir.join(QUARANTINE);
                let to = dir.join(format!("{:016}.log", headless.number));
                let moved = self
                    .disk
                    .create_dir_all(&dir)
                    .and_then(|()| self.disk.rename(&headless.path, &to))
                    .and_then(|()| self.disk.sync_dir(&dir))
                    .and_then(|()| self.disk.sync_dir(self.dir));
                moved.map_err(|error| StorageError::io("move aside", &headless.path, error))?;
                damage.copy = Some(to);
            }
            tracing::error!(path = %damage.path.display(), "a log file's header is damaged");
            self.report.damage.push(damage);
        }
        Ok(())
    }

    fn sort_files(&mut self) -> Result<Ring, StorageError> {
        let mut ring = Ring::default();
        // A file from which nothing was read ends where the next one that has records starts.
        let mut next_first = self.report.end;
        let mut kept = Vec::new();
        for (source, end) in std::mem::take(&mut self.sources).into_iter().zip(&self.ends).rev() {
            let end = if *end == 0 { next_first } else { *end };
            let first = source.first.unwrap_or(end);
            next_first = source.first.unwrap_or(next_first);
            ring.total_bytes += source.log_file.bytes;
            if source.untouched || end <= self.start || end <= first {
                ring.free.push_front(source.log_file);
            } else {
                kept.push(Sealed { file: source.log_file, first, end });
            }
        }
        ring.sealed.extend(kept.into_iter().rev());
        for headless in self.headless.iter().filter(|headless| !headless.used) {
            // Being made when the broker stopped.
            self.disk
                .remove(&headless.path)
                .map_err(|error| StorageError::io("remove", &headless.path, error))?;
        }
        Ok(ring)
    }
}

/// The intact record that starts at `at`.
fn record_at<'r>(records: &'r [u8], at: usize, batch: &BatchHeader) -> Option<&'r [u8]> {
    let rest = records.get(at..).filter(|rest| rest.len() >= RECORD_HEADER_BYTES)?;
    let record = rest.get(..record_length(rest, 0))?;
    record_is_intact(record, batch.salt, batch.first + at as u64).then_some(record)
}

fn copy_aside(disk: &dyn Disk, file: &LogFile, offset: u64, bytes: u64, to: &Path) -> io::Result<()> {
    let dir = to.parent().unwrap_or(Path::new(""));
    disk.create_dir_all(dir)?;
    let copy = match disk.create(to) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()), // by an earlier start
        other => other?,
    };
    let mut buffer = vec![0; bytes.min(1 << 20) as usize];
    let mut done = 0;
    while done < bytes {
        let run = (bytes - done).min(buffer.len() as u64) as usize;
        file.file.read_exact_at(&mut buffer[..run], offset + done)?;
        copy.write_all_at(&buffer[..run], done)?;
        done += run as u64;
    }
    copy.sync_data()?;
    disk.sync_dir(dir)
}
