//! Rewriting: what is live in a segment file that is mostly dead is copied to another one, so that a message that
//! nobody settles does not hold the space of those around it.
//!
//! Durable files are rewritten after a checkpoint, which knows what is live in each of them. Spill files are looked at
//! by themselves, now and then. Both are bounded per turn, and no lock is held while anything is copied.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use posthouse_model::bitmap::SeqBitmap;
use posthouse_model::ids::{QueueId, Seq};

use super::MessageStore;
use super::cycle::{LiveChunk, QueueOwner};
use super::recovered::without_settled;
use crate::checkpoint::BlockRef;
use crate::error::StorageError;
use crate::segment::{BlockIn, Class, Location, SegmentId, is_gone};

/// Bytes of chunks that are gathered for one write.
const BATCH_BYTES: usize = 8 << 20;

/// Live bytes from which on no further file is rewritten in the same turn.
const TURN_BYTES: u64 = 16 << 20;

/// What was live in each spill file when [`MessageStore::rewrite_spill`] last looked.
#[derive(Debug, Default)]
pub struct SpillSurvey(HashMap<SegmentId, u64>);

/// What a turn of rewriting did.
#[derive(Debug, Default)]
pub struct Rewritten {
    /// Bytes of messages copied.
    pub bytes: u64,
    /// Damaged blocks met. They stay where they are, and their files as they are.
    pub damages: Vec<StorageError>,
}

impl MessageStore {
    /// Copies what is live in closed durable files that are mostly dead, given what is live in each. The old blocks
    /// stay named by the checkpoint just written; when the next one no longer names them, their files go.
    pub(super) fn rewrite_durable(
        &self,
        owner: &dyn QueueOwner,
        live: &HashMap<SegmentId, u64>,
    ) -> Result<Rewritten, StorageError> {
        let files = for_one_turn(self.segments.mostly_dead(Class::Durable, live), live);
        let mut blocks = Vec::new();
        if !files.is_empty() {
            owner.states(&mut |state| {
                let in_files = state.blocks.into_iter().filter(|block| files.contains(&block.location.file));
                blocks.extend(in_files.map(|block| (state.id, block)));
            });
        }
        self.copy_live(owner, Class::Durable, blocks)
    }

    /// Copies what is live in closed spill files that are mostly dead, and in which as much was live when it last
    /// looked: what consumers are at empties by itself. A file is deleted as its last block is released.
    ///
    /// # Errors
    /// When a block cannot be read or written; nothing is lost, and it may be tried again.
    pub fn rewrite_spill(
        &self,
        owner: &dyn QueueOwner,
        survey: &mut SpillSurvey,
    ) -> Result<Rewritten, StorageError> {
        let mut live = LiveBytes::default();
        owner.spilled(&mut |_, block| live.add(&block));
        let before = std::mem::replace(&mut survey.0, live.by_file());
        let live = &survey.0;
        let mut files = self.segments.mostly_dead(Class::Spill, live);
        files.retain(|file| live.contains_key(file) && before.get(file) == live.get(file));
        let files = for_one_turn(files, live);
        let mut blocks = Vec::new();
        if !files.is_empty() {
            owner.spilled(&mut |queue, block| {
                if files.contains(&block.location.file) {
                    blocks.push((queue, block));
                }
            });
        }
        self.copy_live(owner, Class::Spill, blocks)
    }

    fn copy_live(
        &self,
        owner: &dyn QueueOwner,
        class: Class,
        blocks: Vec<(QueueId, BlockRef)>,
    ) -> Result<Rewritten, StorageError> {
        let mut damages = Vec::new();
        let mut mover = Mover::new(self, owner, class);
        for Referred { block, queue, others } in by_block(blocks) {
            match self.segments.read_with_summary(&block.location, queue, block.first_seq) {
                Ok((chunk, summary)) => {
                    let chunk = Arc::new(chunk.for_queues(1 + others.len()));
                    let (first_seq, settled) = (block.first_seq, block.settled);
                    mover.add_for(LiveChunk { queue, first_seq, chunk, settled, summary }, others)?;
                }
                // Released meanwhile.
                Err(error) if is_gone(&error) => {}
                Err(error @ StorageError::Corrupt { .. }) => {
                    // Once is enough to say so, and others are to be rewritten as well.
                    self.segments.set_aside(block.location.file);
                    damages.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Rewritten { bytes: mover.finish()?, damages })
    }
}

/// The first files, up to the bytes of one turn; at least one.
fn for_one_turn(files: Vec<SegmentId>, live: &HashMap<SegmentId, u64>) -> HashSet<SegmentId> {
    let mut bytes = 0;
    let fits = |file: &SegmentId| {
        let before = bytes;
        bytes += live.get(file).copied().unwrap_or(0);
        before < TURN_BYTES
    };
    files.into_iter().take_while(fits).collect()
}

/// A block's bytes, less the share of its records that are settled.
fn live_bytes(location: &Location, span: u32, settled: Option<&SeqBitmap>) -> u64 {
    let live = u64::from(span.saturating_sub(settled.map_or(0, SeqBitmap::count)));
    let records = u64::from(location.records);
    u64::from(location.len) * live.min(records) / records.max(1)
}

/// How many bytes of each file are live, by what queues say of their blocks. What is live in a shared block is what one
/// of its queues has not settled, so these are kept until all queues were heard.
#[derive(Default)]
pub(super) struct LiveBytes {
    by_file: HashMap<SegmentId, u64>,
    /// How many numbers each covers, and what all queues so far have settled of it.
    shared: HashMap<Location, (u32, Option<SeqBitmap>)>,
}

impl LiveBytes {
    pub(super) fn add(&mut self, block: &BlockRef) {
        let (location, settled) = (&block.location, block.settled.as_ref());
        if !location.shared {
            *self.by_file.entry(location.file).or_insert(0) += live_bytes(location, block.span, settled);
            return;
        }
        match self.shared.entry(*location) {
            Entry::Occupied(entry) => merge(&mut entry.into_mut().1, settled),
            Entry::Vacant(entry) => drop(entry.insert((block.span, settled.cloned()))),
        }
    }

    pub(super) fn by_file(self) -> HashMap<SegmentId, u64> {
        let mut by_file = self.by_file;
        for (location, (span, settled)) in &self.shared {
            *by_file.entry(location.file).or_insert(0) += live_bytes(location, *span, settled.as_ref());
        }
        by_file
    }
}

/// Leaves of what some queues have settled of a block what another one has settled as well.
fn merge(settled: &mut Option<SeqBitmap>, other: Option<&SeqBitmap>) {
    let both = settled.take().zip(other).map(|(mut settled, other)| {
        settled.retain(other);
        settled
    });
    *settled = both.filter(|settled| settled.count() > 0);
}

/// A block to be copied, and who refers to it.
struct Referred {
    /// As the first queue names it, but that only those are settled that all queues have settled.
    block: BlockRef,
    queue: QueueId,
    others: Vec<(QueueId, Seq)>,
}

/// Puts what several queues say of a shared block together. The order is that of the first of them.
fn by_block(blocks: Vec<(QueueId, BlockRef)>) -> Vec<Referred> {
    let mut referred: Vec<Referred> = Vec::with_capacity(blocks.len());
    let mut shared = HashMap::new();
    for (queue, block) in blocks {
        let next = referred.len();
        let at = if block.location.shared { *shared.entry(block.location).or_insert(next) } else { next };
        match referred.get_mut(at) {
            Some(known) => {
                merge(&mut known.block.settled, block.settled.as_ref());
                known.others.push((queue, block.first_seq));
            }
            None => referred.push(Referred { block, queue, others: Vec::new() }),
        }
    }
    referred
}

/// Writes chunks to segments of a class in batches and tells the owner.
pub(super) struct Mover<'a> {
    store: &'a MessageStore,
    owner: &'a dyn QueueOwner,
    class: Class,
    batch: Vec<BlockIn>,
    /// More queues that refer to a block of the batch: its index, whose messages, and from which number on.
    others: Vec<(usize, QueueId, Seq)>,
    batch_bytes: usize,
    moved: u64,
}

impl<'a> Mover<'a> {
    pub(super) fn new(store: &'a MessageStore, owner: &'a dyn QueueOwner, class: Class) -> Self {
        Self { store, owner, class, batch: Vec::new(), others: Vec::new(), batch_bytes: 0, moved: 0 }
    }

    /// Takes a chunk of one queue. What it has settled of one that other queues hold is written nevertheless, since they
    /// may need it, and are to find it there.
    pub(super) fn add(&mut self, mut live: LiveChunk) -> Result<(), StorageError> {
        live.settled.take_if(|_| live.chunk.is_fanned_out());
        self.add_for(live, Vec::new())
    }

    /// Takes a chunk for all queues that are to refer to it, without what is settled.
    fn add_for(&mut self, live: LiveChunk, others: Vec<(QueueId, Seq)>) -> Result<(), StorageError> {
        let chunk = match &live.settled {
            Some(settled) if settled.count() > 0 => {
                Arc::new(without_settled(&live.chunk, settled).for_queues(1 + others.len()))
            }
            _ => live.chunk,
        };
        if chunk.count() == 0 {
            return Ok(());
        }
        let at = self.batch.len();
        self.others.extend(others.into_iter().map(|(queue, first_seq)| (at, queue, first_seq)));
        self.batch_bytes += chunk.bytes().len();
        let (queue, first_seq, summary) = (live.queue, live.first_seq, live.summary);
        self.batch.push(BlockIn { queue, first_seq, chunk, summary });
        if self.batch_bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        let locations = self.store.segments.write(self.class, &self.batch)?;
        // All of them before anybody releases the block.
        self.others.iter().for_each(|&(at, ..)| self.store.segments.refer(&locations[at]));
        for (at, queue, first_seq) in self.others.drain(..) {
            self.owner.relocated(queue, first_seq, locations[at]);
        }
        for (block, location) in self.batch.drain(..).zip(locations) {
            self.owner.relocated(block.queue, block.first_seq, location);
        }
        self.moved += self.batch_bytes as u64;
        self.batch_bytes = 0;
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<u64, StorageError> {
        self.flush()?;
        Ok(self.moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_has_at_least_one_file_and_ends_after_so_many_bytes() {
        let live = |bytes: &[u64]| (0..).map(SegmentId).zip(bytes.iter().copied()).collect::<HashMap<_, _>>();
        let files = |count| (0..count).map(SegmentId).collect::<Vec<_>>();
        assert_eq!(for_one_turn(files(3), &live(&[TURN_BYTES * 9, 1, 1])).len(), 1);
        assert_eq!(for_one_turn(files(3), &live(&[TURN_BYTES - 1, 1, 1])).len(), 2);
        assert_eq!(
            for_one_turn(files(3), &live(&[1, 1])).len(),
            3,
            "one of which nothing is known has nothing"
        );
        assert!(for_one_turn(files(0), &live(&[])).is_empty());
    }
}
