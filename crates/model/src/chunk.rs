//! A run of message records laid end to end: the unit in which messages enter a queue, the log and the segments.

use crate::buffers;
use crate::record::{self, Noted, Record};
use crate::shares::{self, Share, Shares, UserNumber};

/// Records between two entries of a chunk's sparse index. Looking up a message walks at most this many records.
const INDEX_EVERY: u32 = 64;

/// When the messages of a run were received, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// None of them before.
    pub first_ms: u64,
    /// None of them after.
    pub last_ms: u64,
}

impl Received {
    /// Of a run of which nothing is known.
    pub const UNKNOWN: Self = Self { first_ms: 0, last_ms: u64::MAX };

    fn note(&mut self, received_ms: u64) {
        self.first_ms = self.first_ms.min(received_ms);
        self.last_ms = self.last_ms.max(received_ms);
    }
}

impl Default for Received {
    /// Of an empty run.
    fn default() -> Self {
        Self { first_ms: u64::MAX, last_ms: 0 }
    }
}

/// An immutable run of records with ascending deltas. Without holes a record's delta is its position; a chunk
/// rewritten to drop settled messages has holes.
#[derive(Debug, Default)]
pub struct Chunk {
    bytes: Vec<u8>,
    count: u32,
    flags: u16,
    fanned_out: bool,
    received: Received,
    shares: Shares,
    /// `(delta, offset)` of every 64th record.
    index: Vec<(u32, u32)>,
}

impl Drop for Chunk {
    fn drop(&mut self) {
        buffers::give(std::mem::take(&mut self.bytes));
    }
}

/// A record's place in a chunk, for walking on from there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The record's delta.
    pub delta: u32,
    /// Where its bytes start.
    pub offset: u32,
}

impl Chunk {
    /// Checks `bytes` record by record and indexes them; `None` when they are not whole records with ascending
    /// deltas.
    pub fn parse(bytes: Vec<u8>) -> Option<Self> {
        let mut builder = ChunkBuilder::default();
        let mut offset = 0;
        while offset < bytes.len() {
            let record = Record::parse(&bytes[offset..])?;
            if builder.count > 0 && record.delta() < builder.end_delta {
                return None;
            }
            builder.note(Noted::of(&record), offset);
            offset += record.len();
        }
        builder.bytes = bytes;
        Some(builder.finish())
    }

    /// The records' bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many records it holds.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The `FLAG_*` bits that any of its records has.
    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// When its messages were received.
    pub fn received(&self) -> Received {
        self.received
    }

    /// Who published how much of it.
    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    /// The same chunk, which is about to enter so many queues by reference.
    #[must_use]
    pub fn for_queues(mut self, queues: usize) -> Self {
        self.fanned_out = queues > 1;
        self
    }

    /// Whether it was made for several queues, so that one copy on disk is enough for all of them.
    pub fn is_fanned_out(&self) -> bool {
        self.fanned_out
    }

    /// Bytes of memory it holds, its index included.
    pub fn memory_bytes(&self) -> usize {
        let index_bytes = self.index.capacity() * size_of::<(u32, u32)>();
        self.bytes.capacity() + index_bytes + self.shares.memory_bytes() + size_of::<Self>()
    }

    /// The place of the first record whose delta is at least `delta`.
    pub fn find(&self, delta: u32) -> Option<Place> {
        let slot = self.index.partition_point(|&(d, _)| d <= delta).saturating_sub(1);
        let mut offset = self.index.get(slot)?.1;
        loop {
            let record = self.record_at(offset)?;
            if record.delta() >= delta {
                return Some(Place { delta: record.delta(), offset });
            }
            offset += record.len() as u32;
        }
    }

    /// The record that starts at `offset`; `None` at the end of the chunk.
    #[inline]
    pub fn record_at(&self, offset: u32) -> Option<Record<'_>> {
        Record::parse(self.bytes.get(offset as usize..)?)
    }

    /// All records in order.
    pub fn records(&self) -> Records<'_> {
        Records { bytes: &self.bytes }
    }
}

/// Iterator over a run of records.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
}

impl<'a> Records<'a> {
    /// Walks `bytes`, which hold whole records.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    #[inline]
    fn next(&mut self) -> Option<Record<'a>> {
        let record = Record::parse(self.bytes)?;
        self.bytes = &self.bytes[record.len()..];
        Some(record)
    }
}

/// Builds a chunk record by record.
#[derive(Debug, Default)]
pub struct ChunkBuilder {
    bytes: Vec<u8>,
    count: u32,
    flags: u16,
    received: Received,
    /// The last record's.
    stamp: u64,
    /// What the publishers of those before the last one have.
    shares: Vec<Share>,
    /// Where the first record starts that is the last one's publisher's, together with all after it.
    shared_to: u32,
    index: Vec<(u32, u32)>,
    end_delta: u32,
}

impl ChunkBuilder {
    /// Appends a record's head and its first body bytes; `body_bytes` is the whole body's length, and what is
    /// missing follows by [`Self::extend_body`]. `stamp` is when it was received and who published it
    /// ([`record::stamp`]); milliseconds since the Unix epoch are nobody's.
    #[inline]
    pub fn push(
        &mut self,
        flags: u16,
        stamp: u64,
        route: &[u8],
        header: &[u8],
        body_bytes: usize,
        body: &[u8],
    ) {
        let delta = self.end_delta;
        self.note(Noted { delta, flags, stamp }, self.bytes.len());
        record::append_head(&mut self.bytes, delta, flags, stamp, route, header, body_bytes);
        self.bytes.extend_from_slice(body);
    }

    /// Appends more of the last record's body.
    #[inline]
    pub fn extend_body(&mut self, body: &[u8]) {
        self.bytes.extend_from_slice(body);
    }

    /// Copies whole records, giving them the deltas that follow.
    pub fn append_records(&mut self, mut bytes: &[u8]) {
        while let Some(record) = Record::parse(bytes) {
            let (one, rest) = bytes.split_at(record.len());
            let at = self.bytes.len();
            let delta = self.end_delta;
            self.note(Noted { delta, ..Noted::of(&record) }, at);
            self.bytes.extend_from_slice(one);
            record::set_delta(&mut self.bytes[at..], delta);
            bytes = rest;
        }
    }

    /// Copies one record and keeps its delta, which must not be below [`Self::end_delta`].
    pub fn copy_record(&mut self, record: &[u8]) {
        let noted = Noted::read(record);
        debug_assert!(noted.delta >= self.end_delta);
        self.note(noted, self.bytes.len());
        self.bytes.extend_from_slice(record);
    }

    /// Copies one record under another delta, which must not be below [`Self::end_delta`].
    pub fn copy_record_as(&mut self, record: &[u8], delta: u32) {
        debug_assert!(delta >= self.end_delta);
        let at = self.bytes.len();
        self.note(Noted { delta, ..Noted::read(record) }, at);
        self.bytes.extend_from_slice(record);
        record::set_delta(&mut self.bytes[at..], delta);
    }

    /// The records so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many records so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The `FLAG_*` bits that any of the records so far has.
    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// When the messages so far were received.
    pub fn received(&self) -> Received {
        self.received
    }

    /// Who published how much of the records so far.
    pub fn shares(&self) -> Shares {
        if self.shares.is_empty() {
            return Shares::One(record::publisher_of(self.stamp));
        }
        let mut list = self.shares.clone();
        self.add_last_share(&mut list, self.bytes.len());
        Shares::of(&list)
    }

    /// The delta after the last record's.
    pub fn end_delta(&self) -> u32 {
        self.end_delta
    }

    /// Whether nothing was pushed yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// A builder with room for `bytes`.
    pub fn with_room(bytes: usize) -> Self {
        let mut room = buffers::take(bytes);
        room.clear();
        Self { bytes: room, ..Self::default() }
    }

    /// Bytes of memory it holds, used or not.
    pub fn room_bytes(&self) -> usize {
        self.bytes.capacity() + self.index.capacity() * size_of::<(u32, u32)>()
    }

    /// Forgets the records and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.index.clear();
        self.count = 0;
        self.flags = 0;
        self.received = Received::default();
        self.stamp = 0;
        self.shares.clear();
        self.shared_to = 0;
        self.end_delta = 0;
    }

    /// The finished chunk.
    pub fn finish(self) -> Chunk {
        let shares = self.shares();
        let Self { bytes, count, flags, received, index, .. } = self;
        Chunk { bytes, count, flags, fanned_out: false, received, shares, index }
    }

    #[inline]
    fn note(&mut self, noted: Noted, offset: usize) {
        let Noted { delta, flags, stamp } = noted;
        self.flags |= flags;
        // The messages of one read have one.
        if stamp != self.stamp {
            self.note_stamp(stamp, offset);
        }
        if self.count.is_multiple_of(INDEX_EVERY) {
            self.index.push((delta, offset as u32));
        }
        self.count += 1;
        self.end_delta = delta + 1;
    }

    fn note_stamp(&mut self, stamp: u64, offset: usize) {
        self.received.note(record::time_of(stamp));
        if record::publisher_of(stamp) != record::publisher_of(self.stamp) && offset > 0 {
            let mut shares = std::mem::take(&mut self.shares);
            self.add_last_share(&mut shares, offset);
            self.shares = shares;
            self.shared_to = offset as u32;
        }
        self.stamp = stamp;
    }

    /// Adds the records up to `end` that are the last one's publisher's.
    fn add_last_share(&self, shares: &mut Vec<Share>, end: usize) {
        let publisher: UserNumber = record::publisher_of(self.stamp);
        shares::add(shares, publisher, end as u32 - self.shared_to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(count: u32) -> Chunk {
        let mut builder = ChunkBuilder::default();
        for i in 0..count {
            builder.push(0, 1, b"\0\x01q", b"h", 4, &i.to_le_bytes());
        }
        builder.finish()
    }

    #[test]
    fn finds_every_record() {
        let chunk = build(300);
        for delta in 0..300 {
            let place = chunk.find(delta).unwrap();
            assert_eq!(place.delta, delta);
            assert_eq!(chunk.record_at(place.offset).unwrap().body(), delta.to_le_bytes());
        }
        assert_eq!(chunk.find(300), None);
    }

    #[test]
    fn find_skips_holes() {
        let whole = build(300);
        let mut builder = ChunkBuilder::default();
        for record in whole.records().filter(|r| r.delta() % 100 == 50) {
            let place = whole.find(record.delta()).unwrap();
            builder.copy_record(&whole.bytes()[place.offset as usize..][..record.len()]);
        }
        let holed = builder.finish();
        assert_eq!(holed.count(), 3);
        assert_eq!(holed.find(51).unwrap().delta, 150);
        assert_eq!(holed.find(251), None);
    }

    #[test]
    fn appended_records_get_the_following_deltas() {
        let mut builder = ChunkBuilder::default();
        builder.append_records(build(2).bytes());
        builder.append_records(build(3).bytes());
        let deltas: Vec<u32> = builder.finish().records().map(|r| r.delta()).collect();
        assert_eq!(deltas, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_record_copied_under_another_delta_keeps_everything_else() {
        let whole = build(2);
        let mut builder = ChunkBuilder::default();
        builder.copy_record_as(&whole.bytes()[..whole.records().next().unwrap().len()], 9);
        assert_eq!(builder.end_delta(), 10);
        let copied = builder.finish();
        let record = copied.records().next().unwrap();
        assert_eq!((record.delta(), record.body()), (9, &0u32.to_le_bytes()[..]));
    }

    #[test]
    fn flags_and_times_are_those_of_its_records() {
        let mut builder = ChunkBuilder::default();
        for (flags, received_ms) in [(0, 50), (8, 50), (0, 70), (1, 40)] {
            builder.push(flags, received_ms, b"\0\x01q", b"h", 1, b"x");
        }
        let expected = (9, Received { first_ms: 40, last_ms: 70 });
        assert_eq!((builder.flags(), builder.received()), expected);
        let mut appended = ChunkBuilder::default();
        appended.append_records(builder.bytes());
        assert_eq!((appended.flags(), appended.received()), expected);
        let chunk = Chunk::parse(appended.bytes().to_vec()).unwrap();
        assert_eq!((chunk.flags(), chunk.received()), expected);
        let mut one = ChunkBuilder::default();
        one.copy_record(&chunk.bytes()[..chunk.records().next().unwrap().len()]);
        assert_eq!((one.flags(), one.received()), (0, Received { first_ms: 50, last_ms: 50 }));
        one.clear();
        assert_eq!((one.flags(), one.received()), (0, Received::default()));
    }

    #[test]
    fn every_publisher_has_a_share() {
        let mut builder = ChunkBuilder::default();
        assert_eq!(builder.shares(), Shares::One(UserNumber::NOBODY));
        let mut push = |user, time_ms, body: &[u8]| {
            builder.push(0, record::stamp(time_ms, UserNumber(user)), b"\0\x01q", b"", body.len(), body);
        };
        push(3, 50, b"12345");
        push(3, 51, b"123");
        push(2, 51, b"1");
        push(3, 40, b"");
        let share = |user, bytes| Share { user: UserNumber(user), bytes };
        let expected = Shares::Several([share(2, 28), share(3, 3 * 27 + 8)].into());
        assert_eq!(builder.shares(), expected);
        assert_eq!(builder.received(), Received { first_ms: 40, last_ms: 51 });
        assert_eq!(Chunk::parse(builder.bytes().to_vec()).unwrap().shares(), &expected);
        let mut one = ChunkBuilder::default();
        one.append_records(&builder.bytes()[..32]);
        assert_eq!(one.shares(), Shares::One(UserNumber(3)));
        builder.clear();
        assert_eq!(builder.shares(), Shares::One(UserNumber::NOBODY));
        assert_eq!(builder.finish().shares(), &Shares::One(UserNumber::NOBODY));
    }

    #[test]
    fn parse_refuses_damage() {
        let bytes = build(100).bytes().to_vec();
        assert_eq!(Chunk::parse(bytes.clone()).unwrap().count(), 100);
        assert!(Chunk::parse(bytes[..bytes.len() - 1].to_vec()).is_none());
        let mut backwards = bytes;
        record::set_delta(&mut backwards, 5000);
        assert!(Chunk::parse(backwards).is_none());
    }
}
