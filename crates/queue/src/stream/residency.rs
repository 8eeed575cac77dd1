//! What leaves memory, and what must be read back for readers of older messages.

use std::sync::Arc;

use posthouse_model::chunk::Chunk;
use posthouse_model::ids::{Lsn, Seq};

use super::Stream;
use super::directory::{Block, ToStore};
use crate::machine::roster::ConsumerId;

/// Something to be read from a segment. Each names a block by its first number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read<L> {
    /// When its first message was received: [`Stream::time_read`].
    Time(Seq, L),
    /// The summary of its filter values: [`Stream::summary_read`].
    Summary(Seq, L),
    /// All of it: [`Stream::block_read`].
    Block(Seq, L),
}

impl<L: Copy, W: Clone> Stream<L, W> {
    /// Frees memory beyond about `keep` bytes of the newest messages: what is in a segment is forgotten at once, what
    /// is not is appended to `writes`, oldest first, about `most` bytes.
    pub fn plan_spill(&mut self, keep: usize, most: usize, writes: &mut Vec<ToStore>) {
        self.window.evict(self.blocks.evictable_below(), keep);
        if self.window.memory_bytes() > keep {
            self.window.close_tail();
            self.blocks.plan(&self.window, Lsn::MAX, most, writes);
        }
    }

    /// Appends what must be written so that every message whose log record begins below `lsn` is in a segment.
    pub fn plan_migration(&mut self, lsn: Lsn, writes: &mut Vec<ToStore>) {
        self.window.close_tail_below(lsn);
        self.blocks.plan(&self.window, lsn, usize::MAX, writes);
    }

    /// A block was written with `records` records. A place that is not wanted any more is released.
    pub fn written(&mut self, first_seq: Seq, records: u32, location: L) {
        self.blocks.written(first_seq, records, location);
    }

    /// Every message below is in a segment.
    pub fn covered(&self) -> Seq {
        self.blocks.covered(&self.window)
    }

    /// Bytes of memory taken by what is in no segment yet.
    pub fn unstored_bytes(&self) -> usize {
        self.window.bytes_from(self.covered())
    }

    /// All blocks, oldest first.
    pub fn blocks(&self) -> impl Iterator<Item = &Block<L>> {
        self.blocks.iter()
    }

    /// Takes the places in segments that are no longer used.
    pub fn take_released(&mut self) -> Vec<L> {
        self.blocks.take_released()
    }

    /// Whether [`Self::next_read`] may have something.
    pub fn has_work(&self) -> bool {
        self.has_work
    }

    /// What to read next, for the reader that waited longest and can be served; readers that need nothing any more
    /// are woken.
    pub fn next_read(&mut self, wakes: &mut Vec<W>) -> Option<Read<L>> {
        let mut at = 0;
        while let Some(&id) = self.waiting.get(at) {
            match self.read_for(id) {
                Wanted::Nothing => self.resume(id, wakes),
                Wanted::Room => at += 1,
                Wanted::This(read) => return Some(read),
            }
        }
        let read = self.read_for_retention().or_else(|| self.read_for_later());
        self.has_work = read.is_some();
        read
    }

    /// The first message of a block was received at this time.
    pub fn time_read(&mut self, first_seq: Seq, ms: u64) {
        self.blocks.set_time(first_seq, ms);
        self.retention.set_time(first_seq, ms);
    }

    /// A block's summary was read; empty when it has none. Readers that want nothing in it go on to the next.
    pub fn summary_read(&mut self, first_seq: Seq, summary: &[u8]) {
        let Some(end_seq) = self.blocks.find(first_seq).map(Block::end_seq) else { return };
        let in_memory = self.window.first_seq();
        let next =
            self.blocks.at_or_after(end_seq).map(|block| block.first_seq).filter(|&seq| seq < in_memory);
        for reader in self.readers.values_mut().filter(|reader| reader.claim == Some(first_seq)) {
            if reader.filter.as_ref().is_none_or(|filter| filter.may_match(summary)) {
                reader.checked = Some(first_seq);
            } else {
                reader.through(end_seq);
                reader.claim = next;
            }
        }
    }

    /// A block was read; readers that wait for it are woken.
    pub fn block_read(&mut self, first_seq: Seq, chunk: Arc<Chunk>, wakes: &mut Vec<W>) {
        if self.blocks.find(first_seq).is_some() {
            self.cache.insert(first_seq, chunk);
        }
        for reader in self.readers.values_mut() {
            // A rewritten block may have other offsets.
            reader.place = reader.place.filter(|(of, _)| *of != first_seq);
        }
        self.resume_claimants(first_seq, wakes);
    }

    /// A block could not be read from `location`. False when it is not there any more, because it was moved or given
    /// up meanwhile.
    pub fn is_at(&self, first_seq: Seq, location: L) -> bool
    where
        L: PartialEq,
    {
        self.blocks.find(first_seq).is_some_and(|block| block.stored.is_some_and(|(at, _)| at == location))
    }

    /// A block could not be read and is given up; how many messages were lost with it.
    pub fn lost(&mut self, first_seq: Seq, wakes: &mut Vec<W>) -> u64 {
        let lost = self.blocks.remove(first_seq);
        self.resume_claimants(first_seq, wakes);
        lost.into()
    }

    /// Whether a reader has yet to find its place.
    pub(super) fn is_seeking(&self, id: ConsumerId) -> bool {
        self.readers.get(&id).is_some_and(|reader| reader.seek_ms.is_some())
    }

    /// Sets the cursor of a reader that begins at a time, or says whose time must be known first.
    pub(super) fn seek(&mut self, id: ConsumerId) -> Option<(Seq, L)> {
        let reader = self.readers.get_mut(&id)?;
        let ms = reader.seek_ms?;
        let recent = self.window.from(0).take_while(|recent| recent.first_ms() <= ms).last();
        let cursor = match recent {
            Some(recent) => recent.first_seq,
            None => {
                let (mut low, mut high) = (0, self.blocks.len());
                while low < high {
                    let middle = low.midpoint(high);
                    let block = self.blocks.get(middle)?;
                    match (block.first_ms, block.stored) {
                        (0, Some((location, _))) => return Some((block.first_seq, location)),
                        (first_ms, _) if first_ms <= ms => low = middle + 1,
                        _ => high = middle,
                    }
                }
                low.checked_sub(1).and_then(|last| self.blocks.get(last)).map_or(0, |block| block.first_seq)
            }
        };
        (reader.cursor, reader.seek_ms, reader.not_before_ms) = (cursor, None, Some(ms));
        None
    }

    fn resume_claimants(&mut self, first_seq: Seq, wakes: &mut Vec<W>) {
        let claimants = self.readers.iter().filter(|(_, reader)| reader.claim == Some(first_seq));
        let ids: Vec<_> = claimants.map(|(id, _)| *id).collect();
        for id in ids {
            self.resume(id, wakes);
        }
    }

    fn read_for(&mut self, id: ConsumerId) -> Wanted<L> {
        if self.is_seeking(id) {
            return self.seek(id).map_or(Wanted::Nothing, |(seq, at)| Wanted::This(Read::Time(seq, at)));
        }
        let Some(claim) = self.readers.get(&id).and_then(|reader| reader.claim) else {
            return Wanted::Nothing;
        };
        let Some(block) = self.blocks.find(claim) else { return Wanted::Nothing };
        let Some((location, _)) = block.stored.filter(|_| !self.cache.has(claim)) else {
            return Wanted::Nothing;
        };
        let bytes = block.bytes as usize;
        let of_block = || self.readers.values().filter(|reader| reader.claim == Some(claim));
        if of_block().all(|reader| reader.filter.is_some() && reader.checked != Some(claim)) {
            return Wanted::This(Read::Summary(claim, location));
        }
        let readers = &self.readers;
        let claimed = |seq| readers.values().any(|reader| reader.claim == Some(seq));
        match self.cache.make_room(bytes, claimed) {
            true => Wanted::This(Read::Block(claim, location)),
            false => Wanted::Room,
        }
    }

    fn read_for_retention(&mut self) -> Option<Read<L>> {
        let seq = self.retention.unknown_time()?;
        let block = self.blocks.find(seq)?;
        Some(Read::Time(seq, block.stored?.0))
    }

    fn read_for_later(&mut self) -> Option<Read<L>> {
        let readers = &self.readers;
        if self.cache.is_mostly(|seq| readers.values().any(|reader| reader.claim == Some(seq))) {
            // What was read ahead would be forgotten before it is used.
            self.ahead.clear();
        }
        while let Some(first_seq) = self.ahead.pop_front() {
            let block = self.blocks.find(first_seq).filter(|_| !self.cache.has(first_seq));
            let Some((bytes, (location, _))) = block.and_then(|b| Some((b.bytes as usize, b.stored?))) else {
                continue;
            };
            let readers = &self.readers;
            if self.cache.make_room(bytes, |seq| readers.values().any(|reader| reader.claim == Some(seq))) {
                return Some(Read::Block(first_seq, location));
            }
        }
        None
    }
}

/// What must be read for a reader.
enum Wanted<L> {
    /// Nothing any more.
    Nothing,
    /// A block for which there is no room now.
    Room,
    /// This.
    This(Read<L>),
}
