//! What is moved together: consecutive messages of one level for the same levels of the same queues.

use std::sync::Arc;

use posthouse_model::chunk::{ChunkBuilder, Records};
use posthouse_model::ids::{QueueId, Seq};
use posthouse_model::priorities::Levels;
use posthouse_model::record::Record;
use posthouse_model::shares::UserNumber;
use posthouse_queue::machine::departures::Reason;
use posthouse_queue::machine::limits::Room;
use smallvec::SmallVec;

use crate::priorities::priority;
use crate::queue_handle::QueueHandle;
use crate::vhost::Traces;

/// A group is closed at this size.
pub(super) const GROUP_BYTES_MAX: usize = 256 << 10;

/// A queue that a message goes to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) queue: Arc<QueueHandle>,
    entry: Entry,
}

/// Which level of a queue messages enter.
#[derive(Clone, Copy, Debug)]
enum Entry {
    /// By their priority and what the queue says about levels. Should it be converted to another type meanwhile, those are
    /// still there.
    ByPriority(Levels),
    /// This one.
    At(u8),
}

/// The queues that a message goes to.
pub(crate) type Targets = SmallVec<[Target; 1]>;

impl Target {
    pub(crate) fn new(queue: Arc<QueueHandle>) -> Self {
        let entry = Entry::ByPriority(queue.lock().machine.settings().levels());
        Self { queue, entry }
    }

    /// A level of a queue.
    pub(crate) fn at(queue: Arc<QueueHandle>, level: u8) -> Self {
        Self { queue, entry: Entry::At(level) }
    }

    /// The level that a message with this content header enters.
    pub(super) fn level(&self, header: &[u8]) -> u8 {
        match self.entry {
            Entry::At(level) => level,
            Entry::ByPriority(levels) if levels.has_one() => 0,
            Entry::ByPriority(levels) => levels.of(priority(header)),
        }
    }
}

/// A message as it enters its targets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moving<'a> {
    /// Its number where it comes from.
    pub(crate) seq: Seq,
    /// Why it left, if it did.
    pub(crate) reason: Option<Reason>,
    /// `FLAG_*` bits of its new record.
    pub(crate) flags: u16,
    /// Who published it.
    pub(crate) publisher: UserNumber,
    /// When it is due, where it only waits there ([`crate::schedule`]).
    pub(crate) waits_until_ms: Option<u64>,
    /// What it leaves at exchanges when it enters its targets, of which there may be none then.
    pub(crate) traces: Option<Traces>,
    /// Exchange and routing key as two short strings.
    pub(crate) route: &'a [u8],
    /// The content header.
    pub(crate) header: &'a [u8],
    /// The body.
    pub(crate) body: &'a [u8],
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) from_level: u8,
    pub(super) targets: SmallVec<[(Arc<QueueHandle>, u8); 1]>,
    pub(super) persistent: bool,
    pub(super) reason: Option<Reason>,
    pub(super) builder: ChunkBuilder,
    pub(super) ranges: Vec<(Seq, Seq)>,
    /// Those of each message; empty where they leave none.
    pub(super) traces: Vec<Traces>,
}

/// How many messages some ranges have.
pub(super) fn count(ranges: &[(Seq, Seq)]) -> u64 {
    ranges.iter().map(|(first, last)| last - first + 1).sum()
}

/// Appends a range, or lets the last one go on with it.
pub(super) fn join(ranges: &mut Vec<(Seq, Seq)>, first: Seq, last: Seq) {
    match ranges.last_mut() {
        Some(before) if before.1 + 1 == first => before.1 = last,
        _ => ranges.push((first, last)),
    }
}

impl Group {
    /// A group for the same queues, without messages.
    pub(super) fn another(&self) -> Self {
        let Self { from_level, targets, persistent, reason, .. } = self;
        let (from_level, persistent, reason) = (*from_level, *persistent, *reason);
        Self { from_level, targets: targets.clone(), persistent, reason, ..Self::default() }
    }

    /// Appends a message as it is in another group.
    pub(super) fn push(&mut self, seq: Seq, bytes: &[u8]) {
        self.builder.append_records(bytes);
        join(&mut self.ranges, seq, seq);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.builder.is_empty()
    }

    /// Its queues.
    pub(super) fn queues(&self) -> SmallVec<[QueueId; 4]> {
        self.targets.iter().map(|(queue, _)| queue.id).collect()
    }

    /// The room that its messages take.
    pub(super) fn room(&self) -> Room {
        let bodies = Records::new(self.builder.bytes()).map(|record| record.body().len() as u64);
        Room { messages: self.builder.count().into(), bytes: bodies.sum() }
    }

    /// Its messages in order: their numbers, and their records with the bytes of these.
    pub(super) fn messages(&self) -> impl Iterator<Item = (Seq, Record<'_>, &[u8])> {
        let mut rest = self.builder.bytes();
        let seqs = self.ranges.iter().flat_map(|&(first, last)| first..=last);
        seqs.zip(Records::new(self.builder.bytes())).map(move |(seq, record)| {
            let (bytes, after) = rest.split_at(record.len());
            rest = after;
            (seq, record, bytes)
        })
    }

    /// Takes those messages out that are not to be kept, asked for in order; which they were.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(Seq, &Record<'_>) -> bool) -> Vec<(Seq, Seq)> {
        let (mut kept, mut taken) = (self.another(), Vec::new());
        for (position, (seq, record, bytes)) in self.messages().enumerate() {
            match keep(seq, &record) {
                true => {
                    kept.push(seq, bytes);
                    kept.traces.extend(self.traces.get(position).copied());
                }
                false => join(&mut taken, seq, seq),
            }
        }
        if !taken.is_empty() {
            *self = kept;
        }
        taken
    }
}
