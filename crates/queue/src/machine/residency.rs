//! Which chunks are in memory: what to write to segments, what to read back, what a checkpoint needs.

use std::sync::Arc;

use posthouse_model::bitmap::SeqBitmap;
use posthouse_model::chunk::Chunk;
use posthouse_model::ids::{Lsn, Seq};
use posthouse_model::shares::UserNumber;

use super::Queue;
use super::chunks::{Chunks, Held, Persistence, Residence};

/// A chunk to be written to a segment.
#[derive(Clone, Debug)]
pub struct ToWrite {
    /// Identifies it within its queue.
    pub first_seq: Seq,
    /// Its bytes.
    pub chunk: Arc<Chunk>,
    /// Which class of segment it belongs to.
    pub persistence: Persistence,
    /// Which of its messages are settled for good.
    pub settled: Option<SeqBitmap>,
}

impl ToWrite {
    fn new<L: Copy>(chunks: &Chunks<L>, held: &Held<L>, chunk: &Arc<Chunk>) -> Self {
        let (first_seq, persistence) = (held.first_seq, held.persistence);
        Self { first_seq, chunk: chunk.clone(), persistence, settled: chunks.settled_for_good(held) }
    }
}

impl<L: Copy, W: Clone> Queue<L, W> {
    /// Frees memory beyond `keep` bytes of what is next to be handed out: chunks that are in a segment already
    /// lose their copy in memory at once, others are appended to `writes`, up to `most` bytes, in queue order.
    pub fn plan_spill(&mut self, keep: usize, most: usize, writes: &mut Vec<ToWrite>) {
        if self.has_levels() {
            return self.plan_spill_of_levels(keep, most, writes);
        }
        let (mut keep, mut most) = (keep, most);
        self.plan_spill_of_line(keep / 4, &mut keep, &mut most, writes);
    }

    /// The same of one level: an open tail of `tail_most` bytes is closed, `keep` and `most` are what is left of them.
    pub(super) fn plan_spill_of_line(
        &mut self,
        tail_most: usize,
        keep: &mut usize,
        most: &mut usize,
        writes: &mut Vec<ToWrite>,
    ) {
        if self.tail.bytes().len() >= tail_most {
            self.close_tail();
        }
        let cursor = self.cursor;
        let mut evicted = Vec::new();
        for (index, held) in self.chunks.resident() {
            let bytes = held.residence.memory_bytes();
            if held.end_seq() > cursor && *keep > 0 {
                *keep = keep.saturating_sub(bytes);
                continue;
            }
            match &held.residence {
                Residence::Both(_, location) => evicted.push((index, *location)),
                Residence::Memory(chunk) if *most > 0 => {
                    *most = most.saturating_sub(bytes);
                    writes.push(ToWrite::new(&self.chunks, held, chunk));
                }
                // The rest is for the next turn.
                _ => break,
            }
        }
        for (index, location) in evicted {
            self.chunks.set_residence(index, Residence::Stored(location));
        }
    }

    /// Bytes of memory taken by messages ahead of the cursor: what consumers that keep up would have taken.
    pub fn waiting_bytes(&mut self) -> usize {
        let here = self.chunks.bytes_ahead(self.cursor) + self.tail.bytes().len();
        here + self.levels_above_mut().map(Self::waiting_bytes).sum::<usize>()
    }

    /// Who published how much of the messages of one level, in memory or on disk, where `bytes_of` tells a place's size: of
    /// chunks that have a message that is not settled.
    pub fn shares(&self, bytes_of: impl Fn(L) -> u64, mut to: impl FnMut(UserNumber, u64)) {
        for held in self.chunks.iter() {
            let bytes = match &held.residence {
                Residence::Memory(chunk) | Residence::Both(chunk, _) => chunk.bytes().len() as u64,
                Residence::Stored(location) | Residence::Loading(location) => bytes_of(*location),
            };
            held.shares.divide(bytes, &mut to);
        }
        self.tail.shares().divide(self.tail.bytes().len() as u64, to);
    }

    /// A chunk was written. With `evict` its copy in memory goes. A chunk that died meanwhile releases its place.
    pub fn written(&mut self, first_seq: Seq, location: L, evict: bool) {
        match self.level_of(first_seq) {
            // What is written for a level that is not there was deleted with its queue.
            Some(level) if self.level(level).is_none() => self.chunks.release(location),
            Some(level) => self.in_level(level, |queue| queue.written_in_line(first_seq, location, evict)),
            None => self.written_in_line(first_seq, location, evict),
        }
    }

    fn written_in_line(&mut self, first_seq: Seq, location: L, evict: bool) {
        let held = self.chunks.index_of(first_seq).and_then(|index| Some((index, self.chunks.get(index)?)));
        let Some((index, held)) = held else { return self.chunks.release(location) };
        let residence = match &held.residence {
            Residence::Memory(_) if evict => Residence::Stored(location),
            Residence::Memory(chunk) => Residence::Both(chunk.clone(), location),
            Residence::Both(chunk, old) => {
                let (chunk, old) = (chunk.clone(), *old);
                self.chunks.release(old);
                if evict { Residence::Stored(location) } else { Residence::Both(chunk, location) }
            }
            Residence::Stored(old) | Residence::Loading(old) => {
                let old = *old;
                self.chunks.release(old);
                Residence::Stored(location)
            }
        };
        self.chunks.set_residence(index, residence);
    }

    /// The chunks to read so that the next messages can be handed out, up to `most` bytes of records where
    /// `bytes_of` tells a place's size. They count as being read until [`Self::loaded`] or [`Self::lost`].
    pub fn plan_load(&mut self, most: usize, bytes_of: impl Fn(L) -> usize) -> Vec<(Seq, L)> {
        let (mut plan, mut left) = (Vec::new(), most);
        if let Some(seq) = self.groups.as_mut().and_then(|groups| groups.take_wanted()) {
            // Of what comes before it there may be any amount that nobody can take now.
            match self.level_of(seq) {
                Some(level) => self.in_level(level, |queue| {
                    queue.plan_load_from(seq, &mut left, &bytes_of, &mut plan);
                }),
                None => self.plan_load_from(seq, &mut left, &bytes_of, &mut plan),
            }
        } else if self.has_levels() {
            for level in self.serving_order() {
                self.in_line(level, |queue| queue.plan_load_of_line(&mut left, &bytes_of, &mut plan));
            }
        } else {
            self.plan_load_of_line(&mut left, &bytes_of, &mut plan);
        }
        plan
    }

    /// The same of one level; `left` is how many bytes are left of `most`.
    fn plan_load_of_line(
        &mut self,
        left: &mut usize,
        bytes_of: &impl Fn(L) -> usize,
        plan: &mut Vec<(Seq, L)>,
    ) {
        let next = self.returned.first().map_or(self.cursor, |(first, _)| first);
        self.plan_load_from(next, left, bytes_of, plan);
    }

    fn plan_load_from(
        &mut self,
        next: Seq,
        left: &mut usize,
        bytes_of: &impl Fn(L) -> usize,
        plan: &mut Vec<(Seq, L)>,
    ) {
        let mut index = self.chunks.index_at_or_after(next);
        self.evict_before(index);
        while let Some(held) = self.chunks.get(index) {
            if *left == 0 {
                break;
            }
            let bytes = match held.residence {
                // All of it leaves, and whoever moves it reads it; or it was handed out.
                Residence::Stored(_) if held.live == 0 || !self.may_be_taken(held) => 0,
                Residence::Stored(location) => {
                    plan.push((held.first_seq, location));
                    self.chunks.set_residence(index, Residence::Loading(location));
                    bytes_of(location)
                }
                Residence::Loading(location) => bytes_of(location),
                _ => held.residence.memory_bytes(),
            };
            *left = left.saturating_sub(bytes);
            index += 1;
        }
    }

    /// Whether a chunk has messages that are ready.
    fn may_be_taken(&self, held: &Held<L>) -> bool {
        held.end_seq() > self.cursor || self.returned.touches(held.first_seq, held.end_seq() - 1)
    }

    /// Frees the memory of chunks before `end` that are in a segment: all of them were handed out, and a consumer
    /// that reads a long backlog without settling it must not bring all of it into memory. Goes back as far as the
    /// last call had come.
    fn evict_before(&mut self, end: usize) {
        for index in (0..end).rev() {
            let Some(held) = self.chunks.get(index) else { return };
            match &held.residence {
                // Passed over, and somebody may be about to take it.
                _ if self.groups.is_some() && self.may_be_taken(held) => {}
                Residence::Both(_, location) => {
                    let residence = Residence::Stored(*location);
                    self.chunks.set_residence(index, residence);
                }
                Residence::Memory(_) => {}
                _ => return,
            }
        }
    }

    /// A chunk could not be read from `location`: it counts as not being read again. False when it is not there
    /// any more, because it was moved or settled meanwhile.
    pub fn not_loaded(&mut self, first_seq: Seq, location: L) -> bool
    where
        L: PartialEq,
    {
        if let Some(groups) = &mut self.groups {
            groups.want(first_seq);
        }
        if let Some(level) = self.level_of(first_seq) {
            return self.in_level(level, |queue| queue.not_loaded_in_line(first_seq, location));
        }
        self.not_loaded_in_line(first_seq, location)
    }

    fn not_loaded_in_line(&mut self, first_seq: Seq, location: L) -> bool
    where
        L: PartialEq,
    {
        let Some(index) = self.chunks.index_of(first_seq) else { return false };
        match self.chunks.get(index).map(|held| &held.residence) {
            Some(Residence::Loading(current)) if *current == location => {
                self.chunks.set_residence(index, Residence::Stored(location));
                true
            }
            _ => false,
        }
    }

    /// Whether the chunk that begins at `first_seq` lies at `location`.
    pub fn lies_at(&self, first_seq: Seq, location: L) -> bool
    where
        L: PartialEq,
    {
        let line = self.level_of(first_seq).map_or(Some(self), |level| self.level(level));
        let held = line.and_then(|line| line.chunks.get(line.chunks.index_of(first_seq)?));
        held.is_some_and(|held| held.residence.location() == Some(location))
    }

    /// A chunk was read; consumers that wait for it are woken.
    pub fn loaded(&mut self, first_seq: Seq, chunk: Arc<Chunk>, wakes: &mut Vec<W>) {
        match self.level_of(first_seq) {
            Some(level) => self.in_level(level, |queue| queue.loaded_in_line(first_seq, chunk)),
            None => self.loaded_in_line(first_seq, chunk),
        }
        self.wake_all_waited_for(wakes);
    }

    fn loaded_in_line(&mut self, first_seq: Seq, chunk: Arc<Chunk>) {
        let Some(index) = self.chunks.index_of(first_seq) else { return };
        // A rewritten chunk may have other offsets.
        self.cursor_place = None;
        self.surveyed_in_line(first_seq, &chunk);
        if let Some(Residence::Loading(location)) = self.chunks.get(index).map(|held| &held.residence) {
            let residence = Residence::Both(chunk, *location);
            self.chunks.set_residence(index, residence);
            self.note_chunk_due(index);
        }
    }

    /// A chunk could not be read and is given up; how many messages were lost with it.
    pub fn lost(&mut self, first_seq: Seq, wakes: &mut Vec<W>) -> u64 {
        let lost = match self.level_of(first_seq) {
            Some(level) => self.in_level(level, |queue| queue.lost_in_line(first_seq)),
            None => self.lost_in_line(first_seq),
        };
        self.wake_all_waited_for(wakes);
        lost
    }

    fn lost_in_line(&mut self, first_seq: Seq) -> u64 {
        let Some(index) = self.chunks.index_of(first_seq) else { return 0 };
        let Some(held) = self.chunks.get(index) else { return 0 };
        let (first, last, live) = (held.first_seq, held.end_seq() - 1, u64::from(held.live));
        let leaving: u64 = self.chunks.leaving().within(first, last).map(|(from, to)| to - from + 1).sum();
        self.ready_bytes -= self.ready_bytes_of(index);
        let handed_out = self.cursor.clamp(first, last + 1) - first;
        let returned = self.returned.take_within(first, last);
        self.attempts.forget(first, last);
        if let Some(groups) = &mut self.groups {
            groups.forget(first, last);
        }
        let settled_before_cursor =
            (0..handed_out as u32).filter(|&delta| held.is_settled(delta)).count() as u64;
        let (delayed, _) = self.take_delayed(first, last);
        let unacked = handed_out - settled_before_cursor - returned - delayed;
        self.unacked -= unacked;
        self.ready -= live - unacked - delayed;
        self.chunks.remove(index);
        self.cursor_place = None;
        live + leaving
    }

    /// Closes the tail if it begins below `lsn`, and appends every persistent chunk that does and is not in a
    /// segment.
    pub fn plan_migration(&mut self, lsn: Lsn, writes: &mut Vec<ToWrite>) {
        self.in_levels(|queue| queue.plan_migration(lsn, writes));
        if !self.tail.is_empty() && self.tail_lsn < lsn {
            self.close_tail();
        }
        for held in self.chunks.iter() {
            if held.persistence == Persistence::Persistent
                && held.lsn < lsn
                && let Residence::Memory(chunk) = &held.residence
            {
                writes.push(ToWrite::new(&self.chunks, held, chunk));
            }
        }
    }

    /// Every persistent message below that is not settled lies in a segment.
    pub fn covered(&self) -> Seq {
        let open = self
            .chunks
            .iter()
            .find(|held| held.persistence == Persistence::Persistent && held.residence.location().is_none());
        match open {
            Some(held) => held.first_seq,
            None if !self.tail.is_empty() => self.tail_first,
            None => self.next_seq,
        }
    }

    /// Which of a chunk's messages a restart must know to be settled.
    pub fn settled_for_good(&self, held: &Held<L>) -> Option<SeqBitmap> {
        self.chunks.settled_for_good(held)
    }

    /// All chunks of level 0 in order, without the open tail.
    pub fn held(&self) -> impl Iterator<Item = &Held<L>> {
        self.chunks.iter()
    }

    /// Takes the places in segments that are no longer used by any level.
    pub fn take_released(&mut self) -> Vec<L> {
        self.chunks.take_released()
    }
}
