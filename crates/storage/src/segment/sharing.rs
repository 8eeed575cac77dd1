//! Writing a chunk that several queues hold once: which of these chunks have been written, and where.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use posthouse_model::chunk::Chunk;

use super::writer::Appender;
use super::{BlockIn, Location, SegmentStore, lock};
use crate::error::StorageError;

/// The shared blocks of one class whose chunk somebody still has in memory. A chunk is known by its address, which is
/// not used again as long as the weak reference here is there.
#[derive(Default)]
pub(super) struct Shared {
    by_address: HashMap<usize, (Weak<Chunk>, Location)>,
    /// Entries from which on those are dropped whose chunk is gone.
    sweep_at: usize,
}

impl Shared {
    /// Where a chunk was written, if it was. The block may be dead.
    fn find(&self, chunk: &Arc<Chunk>) -> Option<Location> {
        self.by_address.get(&address(chunk)).map(|(_, location)| *location)
    }

    fn note(&mut self, chunk: &Arc<Chunk>, location: Location) {
        /// Fewer entries are not worth a look.
        const SWEEP_MIN: usize = 256;
        self.by_address.insert(address(chunk), (Arc::downgrade(chunk), location));
        if self.by_address.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.by_address.retain(|_, (chunk, _)| chunk.strong_count() > 0);
            self.by_address.shrink_to(2 * self.by_address.len());
            self.sweep_at = 2 * self.by_address.len();
        }
    }
}

fn address(chunk: &Arc<Chunk>) -> usize {
    Arc::as_ptr(chunk) as usize
}

/// Where a block is to be.
enum Place {
    /// Where it is already; counted.
    Found(Location),
    /// Where the block of this index among those to be written will be.
    Written(usize),
    /// The same, once more.
    Again(usize),
}

impl Appender {
    /// Appends those blocks that are not there already, and says where all of them are; after an error `placed` has
    /// what is to be released, in any order.
    pub(super) fn place(
        &mut self,
        store: &SegmentStore,
        blocks: &[BlockIn],
        placed: &mut Vec<Location>,
    ) -> Result<(), StorageError> {
        if !blocks.iter().any(BlockIn::is_shared) {
            return self.append(store, &blocks.iter().collect::<Vec<_>>(), placed);
        }
        let (places, fresh) = self.plan(store, blocks);
        let mut written = Vec::with_capacity(fresh.len());
        let result = self.append(store, &fresh, &mut written);
        if result.is_err() {
            let found = places.iter().filter_map(|place| match place {
                Place::Found(location) => Some(*location),
                Place::Written(_) | Place::Again(_) => None,
            });
            placed.extend(found.chain(written));
            return result;
        }
        for (block, location) in fresh.iter().zip(&written).filter(|(block, _)| block.is_shared()) {
            self.shared.note(&block.chunk, *location);
        }
        let mut files = lock(&store.files);
        placed.extend(places.into_iter().map(|place| match place {
            Place::Found(location) => location,
            Place::Written(at) => written[at],
            Place::Again(at) => {
                files.add(&written[at]);
                written[at]
            }
        }));
        Ok(())
    }

    /// Decides where each block is to be, and which of them must be written.
    fn plan<'a>(&self, store: &SegmentStore, blocks: &'a [BlockIn]) -> (Vec<Place>, Vec<&'a BlockIn>) {
        let mut fresh = Vec::new();
        let mut fresh_by_address = HashMap::new();
        let places = blocks.iter().map(|block| {
            let next = fresh.len();
            if block.is_shared() {
                let found = self.shared.find(&block.chunk);
                if let Some(location) = found.filter(|location| lock(&store.files).share(location)) {
                    return Place::Found(location);
                }
                let at = *fresh_by_address.entry(address(&block.chunk)).or_insert(next);
                if at < next {
                    return Place::Again(at);
                }
            }
            fresh.push(block);
            Place::Written(next)
        });
        (places.collect(), fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Class, SegmentId};
    use super::*;

    #[test]
    fn chunks_that_are_gone_are_forgotten() {
        let mut shared = Shared::default();
        let location = Location {
            file: SegmentId(1),
            class: Class::Durable,
            shared: true,
            offset: 24,
            len: 99,
            records: 1,
        };
        let kept: Vec<_> = (0..300).map(|_| Arc::new(Chunk::default())).collect();
        kept.iter().for_each(|chunk| shared.note(chunk, location));
        for _ in 0..10_000 {
            shared.note(&Arc::new(Chunk::default()), location);
        }
        assert!(kept.iter().all(|chunk| shared.find(chunk) == Some(location)));
        assert!(shared.by_address.len() <= 2 * kept.len(), "{} entries", shared.by_address.len());
    }
}
