//! Blocks that were read back for readers of old messages: a few, whatever the number of readers.
//!
//! A block that a reader waits for, or is in the middle of, is *claimed*: it stays until that reader has taken it.
//! While claimed blocks fill the cache nothing more is read, so readers take turns instead of evicting each other's
//! blocks.

use std::sync::Arc;

use posthouse_model::chunk::Chunk;
use posthouse_model::ids::Seq;

/// Bytes of blocks that may be kept. One block is kept even if it is larger.
const CACHE_BYTES: usize = 4 << 20;

#[derive(Clone, Debug)]
struct Entry {
    first_seq: Seq,
    chunk: Arc<Chunk>,
    /// When it was last of use, counted in uses.
    used: u64,
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(super) struct Cache {
    entries: Vec<Entry>,
    memory_bytes: usize,
    uses: u64,
}

impl Cache {
    /// Bytes of memory taken.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Whether a block is there.
    pub(super) fn has(&self, first_seq: Seq) -> bool {
        self.entries.iter().any(|entry| entry.first_seq == first_seq)
    }

    /// A block's records.
    pub(super) fn get(&mut self, first_seq: Seq) -> Option<&Arc<Chunk>> {
        self.uses += 1;
        let entry = self.entries.iter_mut().find(|entry| entry.first_seq == first_seq)?;
        entry.used = self.uses;
        Some(&entry.chunk)
    }

    /// Keeps a block.
    pub(super) fn insert(&mut self, first_seq: Seq, chunk: Arc<Chunk>) {
        self.forget(|seq| seq == first_seq);
        self.uses += 1;
        self.memory_bytes += chunk.memory_bytes();
        self.entries.push(Entry { first_seq, chunk, used: self.uses });
    }

    /// Forgets the blocks that were not of use for longest and that nobody claims, until `bytes` more fit in; whether
    /// they do.
    pub(super) fn make_room(&mut self, bytes: usize, claimed: impl Fn(Seq) -> bool) -> bool {
        while !self.entries.is_empty() && self.memory_bytes + bytes > CACHE_BYTES {
            let unclaimed = self.entries.iter().filter(|entry| !claimed(entry.first_seq));
            let Some(oldest) = unclaimed.min_by_key(|entry| entry.used).map(|entry| entry.first_seq) else {
                return false;
            };
            self.forget(|seq| seq == oldest);
        }
        true
    }

    /// Whether most of what may be kept is claimed.
    pub(super) fn is_mostly(&self, claimed: impl Fn(Seq) -> bool) -> bool {
        let claimed = self.entries.iter().filter(|entry| claimed(entry.first_seq));
        claimed.map(|entry| entry.chunk.memory_bytes()).sum::<usize>() * 2 > CACHE_BYTES
    }

    /// Forgets the blocks of which `which` is true.
    pub(super) fn forget(&mut self, which: impl Fn(Seq) -> bool) {
        self.entries.retain(|entry| {
            let gone = which(entry.first_seq);
            if gone {
                self.memory_bytes -= entry.chunk.memory_bytes();
            }
            !gone
        });
    }
}
