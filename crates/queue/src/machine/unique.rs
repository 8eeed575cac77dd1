//! Deduplication: which messages a queue has already, by the value of their `x-deduplication-header`.
//!
//! A message is a duplicate while another one with the same value is in the queue, whatever its priority: ready or handed
//! out. It gets a number like every other and leaves at once and for good, so that the log says of it what it says of
//! everything that leaves.
//!
//! Where values are remembered for longer than that, `admission.rs` looks at what clients publish before it comes here.
//!
//! Values are kept as hashes of 128 bits: a message is mistaken for a duplicate once in 10^20 times among a billion.

use std::collections::VecDeque;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use posthouse_model::chunk::{Chunk, Records};
use posthouse_model::ids::{Seq, level_of};
use posthouse_model::record::Record;

use super::Queue;
use crate::header_value;

/// The header by which messages are told apart.
const HEADER: &[u8] = b"x-deduplication-header";

/// Numbers of messages that are gone are cleared away when there are more of them than of others, and so many.
const GONE_MAX: usize = 64;

/// The values of the messages in a queue.
#[derive(Clone, Debug, Default)]
pub(super) struct Values {
    /// The message that has each value.
    seqs: HashMap<u128, Seq, RandomState>,
    /// By level, the value of each message that has one, in order; none for those that are gone.
    lines: Vec<VecDeque<(Seq, Option<u128>)>>,
    /// Messages that came with a value that was there, and have not been dropped yet.
    duplicates: Vec<Seq>,
}

impl Values {
    /// Notes a message that comes after all others of its level; it is a duplicate if its value is there already.
    fn enter(&mut self, seq: Seq, record: &Record<'_>) {
        let Some(value) = header_value::find(record, HEADER).and_then(header_value::hash) else { return };
        match self.seqs.entry(value) {
            Entry::Occupied(_) => self.duplicates.push(seq),
            Entry::Vacant(entry) => {
                entry.insert(seq);
                let level = usize::from(level_of(seq));
                if self.lines.len() <= level {
                    self.lines.resize_with(level + 1, VecDeque::new);
                }
                self.lines[level].push_back((seq, Some(value)));
            }
        }
    }

    /// Whether a message with that value is in the queue.
    pub(super) fn has(&self, value: u128) -> bool {
        self.seqs.contains_key(&value)
    }

    /// Forgets the messages `first..=last`, which are of one level and gone.
    pub(super) fn forget(&mut self, first: Seq, last: Seq) {
        let Some(values) = self.lines.get_mut(usize::from(level_of(first))) else { return };
        let from = values.partition_point(|(seq, _)| *seq < first);
        for (_, value) in values.range_mut(from..).take_while(|(seq, _)| *seq <= last) {
            if let Some(value) = value.take() {
                self.seqs.remove(&value);
            }
        }
        while values.front().is_some_and(|(_, value)| value.is_none()) {
            values.pop_front();
        }
        if values.len() > GONE_MAX + 2 * self.seqs.len() {
            // One message that stays would keep them all.
            values.retain(|(_, value)| value.is_some());
            values.shrink_to(2 * self.seqs.len());
            self.seqs.shrink_to(2 * self.seqs.len());
        }
    }

    /// Bytes of memory they take.
    pub(super) fn memory_bytes(&self) -> usize {
        let in_lines: usize = self.lines.iter().map(VecDeque::capacity).sum();
        self.seqs.capacity() * (size_of::<(u128, Seq)>() + 1)
            + in_lines * size_of::<(Seq, Option<u128>)>()
            + self.lines.capacity() * size_of::<VecDeque<(Seq, Option<u128>)>>()
    }
}

impl<L: Copy, W: Clone> Queue<L, W> {
    /// Notes the values of records that are about to get the next numbers.
    #[inline]
    pub(super) fn note_values(&mut self, records: &[u8]) {
        let next_seq = self.next_seq;
        if let Some(values) = self.chunks.values() {
            for (seq, record) in (next_seq..).zip(Records::new(records)) {
                values.enter(seq, &record);
            }
        }
    }

    /// Notes the values of a chunk that a restart found. Chunks of a level must be given in order, before anything is
    /// published.
    pub fn learn_values(&mut self, first_seq: Seq, chunk: &Chunk) {
        match self.level_of(first_seq) {
            Some(level) => self.in_level(level, |queue| queue.learn_values_of_line(first_seq, chunk)),
            None => self.learn_values_of_line(first_seq, chunk),
        }
    }

    fn learn_values_of_line(&mut self, first_seq: Seq, chunk: &Chunk) {
        let Some(held) = self.chunks.index_of(first_seq).and_then(|index| self.chunks.get(index)) else {
            return;
        };
        let live: Vec<Record<'_>> =
            chunk.records().filter(|record| !held.is_settled(record.delta())).collect();
        if let Some(values) = self.chunks.values() {
            for record in live {
                values.enter(first_seq + Seq::from(record.delta()), &record);
            }
        }
        self.drop_duplicates();
    }

    /// Lets the duplicates go among messages that have just become ready.
    #[inline]
    pub(super) fn drop_duplicates(&mut self) {
        let Some(values) = self.chunks.values().filter(|values| !values.duplicates.is_empty()) else {
            return;
        };
        let mut duplicates = std::mem::take(&mut values.duplicates);
        // What is in the open tail cannot be settled.
        self.close_tail();
        for seq in duplicates.drain(..) {
            self.ready -= 1;
            self.ready_bytes -= self.body_bytes(seq, seq);
            self.departure_counts.duplicate += self.depart_for_good(seq, seq);
        }
        if let Some(values) = self.chunks.values() {
            values.duplicates = duplicates;
        }
    }
}
