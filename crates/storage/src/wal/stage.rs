//! Staging: where records wait in memory for the writer thread's next turn.
//!
//! Callers hold the [`Stage`] while they lock queues, so that the log's order is each queue's order; everything
//! here is therefore a few copies of bytes. Checksums are left to the writer thread.

use std::sync::{Arc, MutexGuard};

use posthouse_model::attempts::AttemptRange;
use posthouse_model::chunk::Chunk;
use posthouse_model::delays::DelayRange;
use posthouse_model::ids::{Lsn, QueueId, Seq, level_of};

use super::format::{
    KIND_ATTEMPTS, KIND_DELAYS, KIND_ENQUEUE, KIND_GROUP, KIND_MOVE, KIND_NOTE, KIND_QUEUE_DELETED,
    KIND_SETTLE, RECORD_HEADER_BYTES, record_header, record_length, seal_record,
};
use super::{Wal, lock};

/// Settlements staged beyond this many bytes are not held back any longer.
const LAZY_BYTES: usize = 256 * 1024;

/// A group that has so many bytes is closed and another one begun: a record must fit into a file of the log.
const GROUP_BYTES_MAX: Lsn = 4 << 20;

/// The message records of an enqueue.
#[derive(Clone, Debug)]
pub enum Payload<'a> {
    /// Copied into the staging buffer: right for up to some KiB.
    Copy(&'a [u8]),
    /// Written from the chunk itself, which stays referenced until then.
    Shared(Arc<Chunk>),
}

impl Payload<'_> {
    fn bytes(&self) -> usize {
        match self {
            Self::Copy(bytes) => bytes.len(),
            Self::Shared(chunk) => chunk.bytes().len(),
        }
    }
}

/// A run of staged records. Shared payloads stay outside of `bytes`.
#[derive(Default)]
pub(super) struct Buffer {
    pub(super) bytes: Vec<u8>,
    pub(super) shared: Vec<SharedPart>,
    /// The first record's position.
    pub(super) first: Lsn,
    /// Holds something that must not wait for `settle_delay`.
    urgent: bool,
    /// Holds something that must be synced as soon as it is written.
    strict: bool,
    /// Holds something that need only be written.
    relaxed: bool,
}

pub(super) struct SharedPart {
    /// Where in `bytes` the chunk's bytes belong: at the end of a record's own bytes.
    at: usize,
    chunk: Arc<Chunk>,
}

/// A place between two records of a buffer.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Cursor {
    pub(super) at: usize,
    pub(super) shared: usize,
    pub(super) lsn: Lsn,
    pub(super) records: u32,
}

impl Buffer {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets the records and keeps the memory, unless a burst made it far larger than is needed now.
    pub(super) fn clear(&mut self) {
        if self.bytes.capacity() > 8 * 1024 * 1024 && self.bytes.len() < self.bytes.capacity() / 8 {
            self.bytes = Vec::new();
        }
        self.bytes.clear();
        self.shared.clear();
        (self.urgent, self.strict, self.relaxed) = (false, false, false);
    }

    /// Whether syncing it may be left for `sync_delay`: nobody asked for more than writing. Settlements alone are synced
    /// as soon as they are written, unless something before them is `unsynced` too.
    pub(super) fn may_stay_unsynced(&self, unsynced: bool) -> bool {
        !self.strict && (self.relaxed || unsynced)
    }

    pub(super) fn start(&self) -> Cursor {
        Cursor { lsn: self.first, ..Cursor::default() }
    }

    /// The place after as many records from `from` on as fit into `limit` bytes, but at least one.
    pub(super) fn advance(&self, from: Cursor, limit: u64) -> Cursor {
        let mut cursor = Cursor { records: 0, ..from };
        while cursor.at < self.bytes.len() {
            let length = record_length(&self.bytes, cursor.at);
            if cursor.records > 0 && cursor.lsn + length as u64 - from.lsn > limit {
                break;
            }
            let part = shared_of(&self.shared, cursor, length);
            cursor.at = part.map_or(cursor.at + length, |part| part.at);
            cursor.shared += usize::from(part.is_some());
            cursor.lsn += length as u64;
            cursor.records += 1;
        }
        cursor
    }

    /// Fills in the checksums of the records from `from` to `to`.
    pub(super) fn seal(&mut self, from: Cursor, to: Cursor, salt: u64) {
        let mut cursor = from;
        while cursor.at < to.at {
            let length = record_length(&self.bytes, cursor.at);
            let part = shared_of(&self.shared, cursor, length);
            let end = part.map_or(cursor.at + length, |part| part.at);
            let shared = part.map_or(&[][..], |part| part.chunk.bytes());
            seal_record(&mut self.bytes[cursor.at..end], shared, salt, cursor.lsn);
            cursor.shared += usize::from(part.is_some());
            cursor.at = end;
            cursor.lsn += length as u64;
        }
    }

    /// The pieces of memory that make up the records from `from` to `to`, in order.
    pub(super) fn pieces(&self, from: Cursor, to: Cursor) -> impl Iterator<Item = &[u8]> {
        let parts = &self.shared[from.shared..to.shared];
        let mut at = from.at;
        let joined = parts.iter().flat_map(move |part| {
            let own = &self.bytes[at..part.at];
            at = part.at;
            [own, part.chunk.bytes()]
        });
        let tail = parts.last().map_or(from.at, |part| part.at);
        joined.chain(std::iter::once(&self.bytes[tail..to.at]))
    }
}

/// The shared part that the record at `cursor`, of `length` bytes in all, ends with.
fn shared_of(parts: &[SharedPart], cursor: Cursor, length: usize) -> Option<&SharedPart> {
    // A part of a later record lies at least that record's header past this one's end.
    parts.get(cursor.shared).filter(|part| part.at < cursor.at + length)
}

/// What the writer thread is doing, as far as a stager must know to wake it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Writer {
    /// Will look at the buffer by itself.
    Awake,
    /// Sleeps until anything is staged, or what was written has been left unsynced for long enough.
    Idle,
    /// Sleeps until something urgent is staged, or what is staged has waited for long enough.
    Dozing,
}

/// What the staging lock guards.
pub(super) struct Staging {
    pub(super) buffer: Buffer,
    /// Where the next record will be.
    pub(super) position: Lsn,
    pub(super) writer: Writer,
    /// No more will be staged; the writer thread ends when it has written everything.
    pub(super) closing: bool,
    /// The writer thread is gone after an error: what is staged is dropped.
    pub(super) stopped: bool,
    /// Something was taken from the buffer that is not synced and may be left so for `sync_delay`.
    pub(super) unsynced: bool,
    /// Somebody waits for it to be synced.
    pub(super) sync_wanted: bool,
    /// The group that records are added to.
    group: Option<OpenGroup>,
}

/// Where a group begins.
#[derive(Clone, Copy)]
struct OpenGroup {
    /// In the buffer's bytes.
    at: usize,
    /// Its position.
    lsn: Lsn,
}

impl Staging {
    pub(super) fn new(position: Lsn) -> Self {
        let buffer = Buffer { first: position, ..Buffer::default() };
        Self {
            buffer,
            position,
            writer: Writer::Idle,
            closing: false,
            stopped: false,
            unsynced: false,
            sync_wanted: false,
            group: None,
        }
    }

    pub(super) fn is_urgent(&self) -> bool {
        self.buffer.urgent || self.closing || self.sync_wanted || self.buffer.bytes.len() > LAZY_BYTES
    }

    /// Whether something waits that becomes durable without delay only when somebody asks for it.
    pub(super) fn is_lazy(&self) -> bool {
        !self.buffer.strict && (self.unsynced || !self.buffer.is_empty())
    }

    /// Asks for everything up to here to be written and synced without delay; whether the writer thread must be woken
    /// for it.
    pub(super) fn hurry(&mut self) -> bool {
        let waits = !self.buffer.is_empty();
        self.buffer.urgent |= waits;
        self.buffer.strict |= waits;
        self.sync_wanted |= self.unsynced;
        self.must_wake()
    }

    /// Whether the writer thread must be woken; the caller then does so.
    pub(super) fn must_wake(&mut self) -> bool {
        let wake = match self.writer {
            Writer::Awake => false,
            Writer::Idle => !self.buffer.is_empty() || self.closing || self.sync_wanted,
            Writer::Dozing => self.is_urgent(),
        };
        if wake {
            self.writer = Writer::Awake;
        }
        wake
    }

    fn record(&mut self, kind: u8, body_bytes: usize) {
        if let Some(group) = self.group {
            self.inline_shared(group);
            if self.position - group.lsn >= GROUP_BYTES_MAX {
                self.close_group();
                self.open_group();
            }
        }
        self.put_header(kind, body_bytes);
    }

    fn put_header(&mut self, kind: u8, body_bytes: usize) {
        let length = RECORD_HEADER_BYTES + body_bytes;
        #[expect(clippy::expect_used, reason = "messages are limited to an eighth of this by configuration")]
        let length = u32::try_from(length).expect("a log record is below 4 GiB");
        self.buffer.bytes.extend_from_slice(&record_header(kind, length));
        self.position += u64::from(length);
    }

    fn open_group(&mut self) {
        self.group = Some(OpenGroup { at: self.buffer.bytes.len(), lsn: self.position });
        self.put_header(KIND_GROUP, 0);
    }

    /// Says how long the group has become. One without records is taken back.
    fn close_group(&mut self) {
        let Some(OpenGroup { at, lsn }) = self.group.take() else { return };
        let length = self.position - lsn;
        if length == RECORD_HEADER_BYTES as u64 {
            self.buffer.bytes.truncate(at);
            self.position = lsn;
            return;
        }
        // What is staged when the log has stopped is dropped.
        if let Some(field) = self.buffer.bytes.get_mut(at..at + 4) {
            // The bound of a group and of the last record in it leave no doubt.
            field.copy_from_slice(&(length as u32).to_le_bytes());
        }
    }

    /// Copies messages that are there by reference: only the last record of a group may have such.
    fn inline_shared(&mut self, group: OpenGroup) {
        if let Some(part) = self.buffer.shared.pop_if(|part| part.at > group.at) {
            self.buffer.bytes.extend_from_slice(part.chunk.bytes());
        }
    }

    /// Ends a record with messages.
    fn payload(&mut self, payload: Payload<'_>) {
        match payload {
            Payload::Copy(bytes) => self.buffer.bytes.extend_from_slice(bytes),
            Payload::Shared(chunk) if !chunk.bytes().is_empty() => {
                let at = self.buffer.bytes.len();
                self.buffer.shared.push(SharedPart { at, chunk });
            }
            Payload::Shared(_) => {}
        }
    }

    fn numbers(&mut self, numbers: [u64; 2]) {
        self.buffer.bytes.extend_from_slice(&numbers[0].to_le_bytes());
        self.buffer.bytes.extend_from_slice(&numbers[1].to_le_bytes());
    }
}

/// The right to stage records, and with it the log's one staging lock. Held while the queues concerned are locked
/// (lock order: stage, then queue), so that log order and queue order agree. Dropping it wakes the writer thread
/// where needed.
///
/// Each method returns the position after its record: when the log is durable up to there, so is the record.
/// Nothing here blocks or fails; callers look at [`Wal::is_congested`] before they take in more.
pub struct Stage<'a> {
    wal: &'a Wal,
    /// `None` only within `drop`.
    staging: Option<MutexGuard<'a, Staging>>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(wal: &'a Wal) -> Self {
        let staging = Some(lock(&wal.inner.staging));
        note_staging(true);
        Self { wal, staging }
    }

    /// Stages `count` messages that enter each of `targets` (a queue, and its number for the first of them, which also
    /// says the level).
    /// `payload` holds their records end to end, deltas from 0 without holes.
    ///
    /// # Panics
    /// When the record would reach 4 GiB.
    pub fn enqueue(&mut self, targets: &[(QueueId, Seq)], count: u32, payload: Payload<'_>) -> Lsn {
        self.put_enqueue(targets, count, payload, false)
    }

    /// The same as [`Self::enqueue`] for messages that need only be written: they are synced up to `sync_delay` later,
    /// unless someone waits for it.
    ///
    /// # Panics
    /// When the record would reach 4 GiB.
    pub fn enqueue_relaxed(&mut self, targets: &[(QueueId, Seq)], count: u32, payload: Payload<'_>) -> Lsn {
        self.put_enqueue(targets, count, payload, true)
    }

    fn put_enqueue(
        &mut self,
        targets: &[(QueueId, Seq)],
        count: u32,
        payload: Payload<'_>,
        relaxed: bool,
    ) -> Lsn {
        self.stage(|staging| {
            staging.record(KIND_ENQUEUE, 8 + 16 * targets.len() + payload.bytes());
            staging.buffer.bytes.extend_from_slice(&count.to_le_bytes());
            staging.buffer.bytes.extend_from_slice(&(targets.len() as u32).to_le_bytes());
            for &(queue, first) in targets {
                staging.numbers([queue.with_level_of(first).0, first]);
            }
            staging.payload(payload);
            staging.buffer.urgent = true;
            staging.buffer.strict |= !relaxed;
            staging.buffer.relaxed |= relaxed;
        })
    }

    /// Stages that `count` messages leave `source`, where they are `ranges` (first, last; inclusive, all of one level), and
    /// enter each of `targets`, as [`Self::enqueue`] does.
    ///
    /// # Panics
    /// When the record would reach 4 GiB.
    pub fn transfer(
        &mut self,
        source: QueueId,
        ranges: &[(Seq, Seq)],
        targets: &[(QueueId, Seq)],
        count: u32,
        payload: Payload<'_>,
    ) -> Lsn {
        let source = source.with_level_of(ranges.first().map_or(0, |&(first, _)| first));
        self.stage(|staging| {
            staging.record(KIND_MOVE, 24 + 16 * (targets.len() + ranges.len()) + payload.bytes());
            for number in [count, targets.len() as u32, ranges.len() as u32, 0] {
                staging.buffer.bytes.extend_from_slice(&number.to_le_bytes());
            }
            staging.buffer.bytes.extend_from_slice(&source.0.to_le_bytes());
            targets.iter().for_each(|&(queue, first)| staging.numbers([queue.with_level_of(first).0, first]));
            ranges.iter().for_each(|&(first, last)| staging.numbers([first, last]));
            staging.payload(payload);
            staging.buffer.urgent = true;
            staging.buffer.strict = true;
        })
    }

    /// Stages that the messages of `queue` in `ranges` (first, last; inclusive, of one level each) are done with, with a
    /// record for each run of ranges of one level. May be written up to `settle_delay` later, unless someone waits for it.
    ///
    /// # Panics
    /// When the record would reach 4 GiB.
    pub fn settle(&mut self, queue: QueueId, ranges: &[(Seq, Seq)]) -> Lsn {
        self.stage(|staging| {
            for of_level in ranges.chunk_by(|a, b| level_of(a.0) == level_of(b.0)) {
                let queue = queue.with_level_of(of_level[0].0);
                staging.record(KIND_SETTLE, 8 + 16 * of_level.len());
                staging.buffer.bytes.extend_from_slice(&queue.0.to_le_bytes());
                for &(first, last) in of_level {
                    staging.numbers([first, last]);
                }
            }
        })
    }

    /// Stages that the owner of `queue` remembers `value` of `key`, or nothing any more when it is empty. May be written
    /// late, as [`Self::settle`].
    ///
    /// # Panics
    /// When the record would reach 4 GiB.
    pub fn note(&mut self, queue: QueueId, key: &[u8], value: &[u8]) -> Lsn {
        self.stage(|staging| {
            staging.record(KIND_NOTE, 12 + key.len() + value.len());
            staging.buffer.bytes.extend_from_slice(&queue.0.to_le_bytes());
            staging.buffer.bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
            staging.buffer.bytes.extend_from_slice(key);
            staging.buffer.bytes.extend_from_slice(value);
        })
    }

    /// Stages how often messages of `queue` that came back have been handed out, with a record for each run of ranges of
    /// one level. May be written late, as [`Self::settle`].
    ///
    /// # Panics
    /// When a record would reach 4 GiB.
    pub fn attempts(&mut self, queue: QueueId, attempts: &[AttemptRange]) -> Lsn {
        self.stage(|staging| {
            for of_level in attempts.chunk_by(|a, b| level_of(a.first) == level_of(b.first)) {
                let queue = queue.with_level_of(of_level[0].first);
                staging.record(KIND_ATTEMPTS, 8 + 24 * of_level.len());
                staging.buffer.bytes.extend_from_slice(&queue.0.to_le_bytes());
                for range in of_level {
                    staging.numbers([range.first, range.last]);
                    staging.buffer.bytes.extend_from_slice(&range.attempts.failed.to_le_bytes());
                    staging.buffer.bytes.extend_from_slice(&range.attempts.acquired.to_le_bytes());
                }
            }
        })
    }

    /// Stages for which time messages of `queue` wait that came back, as [`Self::attempts`] does. May be written late.
    ///
    /// # Panics
    /// When a record would reach 4 GiB.
    pub fn delays(&mut self, queue: QueueId, delays: &[DelayRange]) -> Lsn {
        self.stage(|staging| {
            for of_level in delays.chunk_by(|a, b| level_of(a.first) == level_of(b.first)) {
                let queue = queue.with_level_of(of_level[0].first);
                staging.record(KIND_DELAYS, 8 + 24 * of_level.len());
                staging.buffer.bytes.extend_from_slice(&queue.0.to_le_bytes());
                for range in of_level {
                    staging.numbers([range.first, range.last]);
                    staging.buffer.bytes.extend_from_slice(&range.due_ms.to_le_bytes());
                }
            }
        })
    }

    /// Stages that `queue`, which is one level of a queue, is gone.
    pub fn queue_deleted(&mut self, queue: QueueId) -> Lsn {
        self.stage(|staging| {
            staging.record(KIND_QUEUE_DELETED, 8);
            staging.buffer.bytes.extend_from_slice(&queue.0.to_le_bytes());
            staging.buffer.urgent = true;
            staging.buffer.strict = true;
        })
    }

    /// Stages records of which a crash leaves all or none, unless they come to several MiB: they are made into as few groups
    /// as that allows, of which it leaves the first ones. Groups within it are part of it.
    pub fn group(&mut self, put: impl FnOnce(&mut Self)) -> Lsn {
        let is_outer = self.staging.as_ref().is_some_and(|staging| staging.group.is_none());
        if is_outer && let Some(staging) = self.staging.as_mut() {
            staging.open_group();
        }
        put(self);
        if is_outer && let Some(staging) = self.staging.as_mut() {
            staging.close_group();
        }
        self.position()
    }

    /// Where the next record will be.
    pub fn position(&self) -> Lsn {
        self.staging.as_ref().map_or(0, |staging| staging.position)
    }

    fn stage(&mut self, put: impl FnOnce(&mut Staging)) -> Lsn {
        let Some(staging) = self.staging.as_mut() else { return 0 };
        put(staging);
        if staging.stopped {
            staging.buffer.clear();
        }
        staging.position
    }
}

#[cfg(debug_assertions)]
thread_local! {
    static IS_STAGING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

fn note_staging(_is_staging: bool) {
    #[cfg(debug_assertions)]
    IS_STAGING.set(_is_staging);
}

/// Whether this thread has a [`Stage`], while it must wake nobody. For assertions: only debug builds know.
pub fn is_staging() -> bool {
    #[cfg(debug_assertions)]
    return IS_STAGING.get();
    #[cfg(not(debug_assertions))]
    return false;
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        let Some(mut staging) = self.staging.take() else { return };
        let lazy = staging.is_lazy();
        self.wal.inner.note_appended(staging.position, lazy);
        let wake = staging.must_wake();
        drop(staging);
        note_staging(false);
        if wake {
            self.wal.inner.staged.notify_one();
        }
    }
}
