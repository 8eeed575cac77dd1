//! What a queue keeps in memory of each message of a chunk, also while its bytes are on disk.
//!
//! Four bytes a message for the size of its body, where the queue has a limit in bytes; four for the time at which it
//! expires, in chunks with a message that has a time to live of its own; and four for when it was received, in the chunk
//! that the queue's time to live has reached the middle of.

use posthouse_model::args::parse_expiration;
use posthouse_model::chunk::{Chunk, Records};
use posthouse_model::props::HeaderView;
use posthouse_model::record::{FLAG_EXPIRES, Record};

use super::expiry::GRACE_MS;
use super::looks::Looks;
use super::times::{Time, Times};

/// What is to be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// Sizes of bodies.
    pub bodies: bool,
    /// When messages expire by themselves.
    pub deadlines: bool,
    /// When messages were received.
    pub received: bool,
}

impl Wanted {
    /// Whether nothing is.
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// Bytes of the bodies up to and including that of the message with this delta.
    body_sums: Vec<u32>,
    deadlines: Times,
    received: Times,
    /// Where times of single messages are known: when to look at which of them.
    looks: Looks,
}

impl Details {
    /// The details of a chunk that covers `span` numbers, some of which may be without a record.
    pub fn of(chunk: &Chunk, span: u32, wanted: Wanted) -> Self {
        let mut details = Self::default();
        details.reserve(span as usize, wanted);
        for record in chunk.records() {
            details.fill(record.delta(), wanted);
            details.add(&record, wanted);
        }
        details.fill(span, wanted);
        details
    }

    /// Adds `count` records that follow without a gap, the first one's delta being `first`. What is wanted for the first
    /// time is not known of those before.
    pub fn append(&mut self, first: u32, records: &[u8], count: u32, wanted: Wanted) {
        self.reserve(count as usize, wanted);
        self.fill(first, wanted);
        for record in Records::new(records) {
            self.add(&record, wanted);
        }
    }

    /// Whether all that is wanted is there.
    pub fn has(&self, wanted: Wanted) -> bool {
        (!wanted.bodies || !self.body_sums.is_empty())
            && (!wanted.deadlines || !self.deadlines.is_empty())
            && (!wanted.received || !self.received.is_empty())
    }

    /// Whether nothing is there that is not wanted.
    pub fn has_only(&self, wanted: Wanted) -> bool {
        !wanted.is_nothing()
            && (wanted.bodies || self.body_sums.is_empty())
            && (wanted.received || self.received.is_empty())
    }

    /// Forgets what is not wanted.
    pub fn keep(&mut self, wanted: Wanted) {
        if !wanted.bodies {
            self.body_sums = Vec::new();
        }
        if !wanted.received {
            self.received = Times::default();
        }
    }

    /// Bytes of memory it takes.
    pub fn memory_bytes(&self) -> usize {
        let bodies = self.body_sums.capacity() * size_of::<u32>();
        size_of::<Self>()
            + bodies
            + self.deadlines.memory_bytes()
            + self.received.memory_bytes()
            + self.looks.memory_bytes()
    }

    /// Bytes of the bodies of `from..=to`.
    pub fn body_bytes(&self, from: u32, to: u32) -> u64 {
        u64::from(self.sum_through(to) - from.checked_sub(1).map_or(0, |before| self.sum_through(before)))
    }

    /// How many messages from `from` on are needed to have `bytes` of bodies.
    pub fn messages_of(&self, from: u32, bytes: u64) -> u32 {
        let before = from.checked_sub(1).map_or(0, |before| self.sum_through(before));
        let target = u64::from(before) + bytes;
        let rest = self.body_sums.get(from as usize..).unwrap_or_default();
        let short = rest.partition_point(|&sum| u64::from(sum) < target) as u32;
        short.saturating_add(1)
    }

    /// When a message expires by itself; `short` says that its time to live is below [`GRACE_MS`].
    #[inline]
    pub(super) fn deadline(&self, delta: u32) -> Option<Time> {
        self.deadlines.get(delta)
    }

    /// Whether it is known when messages expire by themselves.
    pub(super) fn has_deadlines(&self) -> bool {
        !self.deadlines.is_empty()
    }

    /// Whether any times of single messages are known.
    pub(super) fn has_times(&self) -> bool {
        !self.deadlines.is_empty() || !self.received.is_empty()
    }

    /// When to look at which messages.
    pub(super) fn looks_mut(&mut self) -> &mut Looks {
        &mut self.looks
    }

    /// When the first of `from..=to` expires by itself: [`super::times::NEVER_MS`] when none of them does.
    pub(super) fn earliest_deadline_ms(&self, from: u32, to: u32) -> u64 {
        self.deadlines.earliest_ms(from, to)
    }

    /// When a message was received, where that is known.
    #[inline]
    pub(super) fn received_ms(&self, delta: u32) -> Option<u64> {
        self.received.get(delta).map(|time| time.at_ms)
    }

    fn sum_through(&self, delta: u32) -> u32 {
        self.body_sums.get(delta as usize).or(self.body_sums.last()).copied().unwrap_or(0)
    }

    fn reserve(&mut self, count: usize, wanted: Wanted) {
        if wanted.bodies {
            self.body_sums.reserve(count);
        }
        if wanted.deadlines {
            self.deadlines.reserve(count);
        }
        if wanted.received {
            self.received.reserve(count);
        }
    }

    fn add(&mut self, record: &Record<'_>, wanted: Wanted) {
        if wanted.bodies {
            let before = self.body_sums.last().copied().unwrap_or(0);
            // A chunk is below 4 GiB.
            self.body_sums.push(before.saturating_add(record.body().len() as u32));
        }
        if wanted.deadlines {
            match time_to_live_ms(record) {
                Some(ttl_ms) => {
                    self.deadlines.push(record.received_ms().saturating_add(ttl_ms), ttl_ms < GRACE_MS)
                }
                None => self.deadlines.fill(self.deadlines.len() as u32 + 1),
            }
        }
        if wanted.received {
            self.received.push(record.received_ms(), false);
        }
    }

    /// Fills up to `delta` with numbers that have no record.
    fn fill(&mut self, delta: u32, wanted: Wanted) {
        let before = self.body_sums.last().copied().unwrap_or(0);
        if wanted.bodies && self.body_sums.len() < delta as usize {
            self.body_sums.resize(delta as usize, before);
        }
        if wanted.deadlines {
            self.deadlines.fill(delta);
        }
        if wanted.received {
            self.received.fill(delta);
        }
    }
}

/// A message's own time to live in milliseconds. It was checked when the message was published.
fn time_to_live_ms(record: &Record<'_>) -> Option<u64> {
    if record.flags() & FLAG_EXPIRES == 0 {
        return None;
    }
    parse_expiration(HeaderView::parse(record.header()).ok()?.expiration()?).ok()
}

#[cfg(test)]
mod tests {
    use posthouse_model::chunk::ChunkBuilder;

    use super::*;

    const BODIES: Wanted = Wanted { bodies: true, deadlines: false, received: false };

    #[test]
    fn body_bytes_of_ranges() {
        let mut builder = ChunkBuilder::default();
        for body in [&b"a"[..], b"", b"ccc", b"dd"] {
            builder.push(0, 0, b"\0\0", b"", body.len(), body);
        }
        let mut details = Details::default();
        details.append(0, builder.bytes(), 4, BODIES);
        assert_eq!((details.body_bytes(0, 3), details.body_bytes(1, 2), details.body_bytes(3, 3)), (6, 3, 2));
        assert_eq!(
            (details.messages_of(0, 1), details.messages_of(0, 2), details.messages_of(1, 4)),
            (1, 3, 3)
        );
        let whole = builder.finish();
        let mut holed = ChunkBuilder::default();
        for (delta, record) in (0u32..).zip(whole.records()).filter(|(delta, _)| delta % 2 == 0) {
            let at = whole.find(delta).unwrap().offset as usize;
            holed.copy_record(&whole.bytes()[at..at + record.len()]);
        }
        let details = Details::of(&holed.finish(), 4, BODIES);
        assert_eq!((details.body_bytes(0, 3), details.body_bytes(1, 1), details.body_bytes(2, 3)), (4, 0, 3));
    }

    fn expiring(text: &str) -> Vec<u8> {
        let plain = [&60u16.to_be_bytes()[..], &[0; 12]].concat();
        let header = HeaderView::parse(&plain).unwrap();
        header.with_short(posthouse_model::props::Property::Expiration, Some(text.as_bytes()))
    }

    #[test]
    fn times_of_messages() {
        let wanted = Wanted { deadlines: true, received: true, bodies: false };
        let mut builder = ChunkBuilder::default();
        builder.push(0, 1_000, b"\0\0", b"", 1, b"x");
        builder.push(FLAG_EXPIRES, 1_001, b"\0\0", &expiring("60000"), 1, b"x");
        builder.push(FLAG_EXPIRES, 1_002, b"\0\0", &expiring("5"), 1, b"x");
        builder.push(FLAG_EXPIRES, 1_003, b"\0\0", &expiring("no number"), 1, b"x");
        let details = Details::of(&builder.finish(), 4, wanted);
        let deadlines: Vec<_> =
            (0..5).map(|delta| details.deadline(delta).map(|t| (t.at_ms, t.short))).collect();
        assert_eq!(deadlines, [None, Some((61_001, false)), Some((1_007, true)), None, None]);
        assert_eq!((details.received_ms(3), details.received_ms(4)), (Some(1_003), None));
        assert_eq!((details.earliest_deadline_ms(0, 3), details.earliest_deadline_ms(0, 1)), (1_007, 61_001));
        assert!(details.has(wanted) && !details.has(BODIES) && details.has(Wanted::default()));
        let mut fewer = details.clone();
        fewer.keep(Wanted::default());
        assert!(fewer.has_deadlines() && !fewer.has(wanted));
        assert!(fewer.memory_bytes() < details.memory_bytes());
    }

    #[test]
    fn deadlines_may_begin_in_the_middle() {
        let wanted = Wanted { deadlines: true, ..Wanted::default() };
        let mut builder = ChunkBuilder::default();
        builder.push(FLAG_EXPIRES, 10, b"\0\0", &expiring("200"), 1, b"x");
        let mut details = Details::default();
        details.append(7, builder.bytes(), 1, wanted);
        assert_eq!((details.deadline(6), details.deadline(7).unwrap().at_ms), (None, 210));
    }
}
