//! The older messages of a stream: which block of which segment has them. A descriptor per block, and nothing else in
//! memory.

use std::collections::VecDeque;
use std::sync::Arc;

use posthouse_model::bitmap::SeqBitmap;
use posthouse_model::chunk::{Chunk, ChunkBuilder};
use posthouse_model::ids::{Lsn, Seq};
use posthouse_model::shares::{self, Shares};

use super::window::{Recent, Window};

/// Small chunks are joined to blocks of about this size.
const BLOCK_BYTES: usize = 256 << 10;

/// A chunk of this size is a block by itself, so that it need not be copied.
const ALONE_BYTES: usize = 128 << 10;

/// The newest block is written again with what came since, as long as it is smaller. A slow stream would otherwise
/// get a block with every checkpoint.
const EXTEND_BYTES: usize = 64 << 10;

/// Consecutive messages that are in a segment, or will be soon and are still in the window.
#[derive(Clone, Debug)]
pub struct Block<L> {
    /// The first number it covers.
    pub first_seq: Seq,
    /// How many numbers it covers.
    pub span: u32,
    /// Bytes of its records.
    pub bytes: u32,
    /// When its first message was received, in milliseconds since the Unix epoch; 0 while nobody has looked.
    pub first_ms: u64,
    /// The numbers, less the first, that are not there; as a restart found them.
    pub settled: Option<Box<SeqBitmap>>,
    /// Who published how much of it.
    pub shares: Shares,
    /// Where it is, and how many of its numbers are there: less than all while a longer one is being written.
    pub stored: Option<(L, u32)>,
}

impl<L: Copy> Block<L> {
    /// The number after the last it covers.
    pub fn end_seq(&self) -> Seq {
        self.first_seq + Seq::from(self.span)
    }

    /// The number after the last that is in a segment.
    pub fn stored_end(&self) -> Seq {
        self.first_seq + self.stored.map_or(0, |(_, span)| Seq::from(span))
    }

    /// Lets it cover the chunk that follows, too.
    fn add(&mut self, chunk: &Chunk) {
        let bytes = chunk.bytes().len() as u32;
        self.shares = shares::joined(&self.shares, chunk.shares(), (self.bytes, bytes));
        self.span += chunk.count();
        self.bytes += bytes;
    }
}

/// A block to be written to a segment.
#[derive(Clone, Debug)]
pub struct ToStore {
    /// Identifies it within its stream.
    pub first_seq: Seq,
    /// Its records, in order; [`join`] makes one chunk of them.
    pub pieces: Vec<Arc<Chunk>>,
    /// Bytes of the summary of its filter values.
    pub filter_bytes: u8,
}

/// Joins chunks without holes to one; a single one is not copied.
pub fn join(pieces: &[Arc<Chunk>]) -> Arc<Chunk> {
    if let [single] = pieces {
        return single.clone();
    }
    let mut builder = ChunkBuilder::with_room(pieces.iter().map(|piece| piece.bytes().len()).sum());
    for piece in pieces {
        builder.append_records(piece.bytes());
    }
    Arc::new(builder.finish())
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(super) struct Directory<L> {
    filter_bytes: u8,
    blocks: VecDeque<Block<L>>,
    /// Every block that ends at or below is stored whole.
    stored_below: Seq,
    released: Vec<L>,
}

impl<L: Copy> Directory<L> {
    /// Of an empty stream, whose blocks have summaries of so many bytes.
    pub(super) fn new(filter_bytes: u8) -> Self {
        Self { filter_bytes, blocks: VecDeque::new(), stored_below: 0, released: Vec::new() }
    }

    /// Changes the size of the summaries of blocks that are written later.
    pub(super) fn set_filter_bytes(&mut self, filter_bytes: u8) {
        self.filter_bytes = filter_bytes;
    }

    /// Adds a block that a restart found.
    pub(super) fn restore(&mut self, block: Block<L>) {
        debug_assert!(self.blocks.back().is_none_or(|last| last.end_seq() <= block.first_seq));
        self.stored_below = block.end_seq();
        self.blocks.push_back(block);
    }

    /// All blocks, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Block<L>> {
        self.blocks.iter()
    }

    /// Blocks from the first that ends after `seq`.
    pub(super) fn from(&self, seq: Seq) -> impl Iterator<Item = &Block<L>> {
        self.blocks.range(self.index_at_or_after(seq)..)
    }

    /// Bytes of memory taken by the descriptors. Bitmaps of blocks with holes are left out.
    pub(super) fn descriptor_bytes(&self) -> usize {
        self.blocks.capacity() * size_of::<Block<L>>()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// The block at an index.
    pub(super) fn get(&self, index: usize) -> Option<&Block<L>> {
        self.blocks.get(index)
    }

    /// Index of the first block that ends after `seq`.
    pub(super) fn index_at_or_after(&self, seq: Seq) -> usize {
        self.blocks.partition_point(|block| block.end_seq() <= seq)
    }

    /// The first block that ends after `seq`.
    pub(super) fn at_or_after(&self, seq: Seq) -> Option<&Block<L>> {
        self.blocks.get(self.index_at_or_after(seq))
    }

    /// The block that begins at exactly `first_seq`.
    pub(super) fn find(&self, first_seq: Seq) -> Option<&Block<L>> {
        self.index_of(first_seq).and_then(|index| self.blocks.get(index))
    }

    /// Every message below is in a segment; `window` has the others.
    pub(super) fn covered(&self, window: &Window) -> Seq {
        let open = self.blocks.range(self.index_at_or_after(self.stored_below)..);
        let unstored = open.map(Block::stored_end).next();
        unstored.unwrap_or_else(|| window.next_at_or_after(self.stored_below))
    }

    /// What the window may forget: below it every block is in a segment whole.
    pub(super) fn evictable_below(&self) -> Seq {
        self.at_or_after(self.stored_below).map_or(self.stored_below, |open| open.first_seq)
    }

    /// Appends what is to be written so that the messages of every chunk in the window that begins below `lsn` are
    /// in a segment, up to about `most` bytes; a block that is written already by somebody else included.
    pub(super) fn plan(&mut self, window: &Window, lsn: Lsn, most: usize, writes: &mut Vec<ToStore>) {
        let mut planned = self.extend_last(window, lsn);
        let mut index = self.index_at_or_after(self.stored_below);
        loop {
            if index == self.blocks.len() && (planned >= most || !self.begin(window, lsn)) {
                return;
            }
            let Some(block) = self.blocks.get(index) else { return };
            if block.stored.is_none_or(|(_, span)| span < block.span) {
                let within = window.within(block.first_seq, block.end_seq());
                let pieces: Vec<_> = within.map(|recent| recent.chunk.clone()).collect();
                planned += block.bytes as usize;
                let (first_seq, filter_bytes) = (block.first_seq, self.filter_bytes);
                writes.push(ToStore { first_seq, pieces, filter_bytes });
            }
            index += 1;
        }
    }

    /// Lets the newest block grow by what came since, while it is small and in memory; by how many bytes.
    fn extend_last(&mut self, window: &Window, lsn: Lsn) -> usize {
        let Some(last) = self.blocks.back_mut() else { return 0 };
        if last.bytes as usize >= EXTEND_BYTES || window.first_seq() > last.first_seq {
            return 0;
        }
        let before = last.bytes;
        for recent in window.from(last.end_seq()) {
            let bytes = recent.chunk.bytes().len();
            if recent.lsn >= lsn || last.bytes as usize + bytes > BLOCK_BYTES {
                break;
            }
            if recent.first_seq != last.end_seq() {
                break;
            }
            last.add(&recent.chunk);
        }
        let grown = last.bytes - before;
        if grown > 0 {
            self.stored_below = self.stored_below.min(last.stored_end());
        }
        grown as usize
    }

    /// Begins a block with the chunks of the window that follow the last one; false when there are none.
    fn begin(&mut self, window: &Window, lsn: Lsn) -> bool {
        let from = self.blocks.back().map_or(0, Block::end_seq);
        let mut found: Option<Block<L>> = None;
        for recent in window.from(from).take_while(|recent| recent.lsn < lsn) {
            let bytes = recent.chunk.bytes().len();
            match &mut found {
                None => found = Some(starting_with(recent)),
                Some(block) => {
                    let too_large = bytes >= ALONE_BYTES || block.bytes as usize + bytes > BLOCK_BYTES;
                    if too_large || recent.first_seq != block.end_seq() {
                        break;
                    }
                    block.add(&recent.chunk);
                }
            }
            if bytes >= ALONE_BYTES {
                break;
            }
        }
        let Some(block) = found else { return false };
        self.blocks.push_back(block);
        true
    }

    /// A block, or the first `records` of it, was written to `location`. A place that is not wanted any more is
    /// released.
    pub(super) fn written(&mut self, first_seq: Seq, records: u32, location: L) {
        let Some(index) = self.index_of(first_seq) else { return self.released.push(location) };
        let block = &mut self.blocks[index];
        // A block with holes was stored whole from the beginning.
        let span = if block.settled.is_some() { block.span } else { records };
        match block.stored {
            Some((_, longer)) if longer > span => return self.released.push(location),
            Some((former, _)) => self.released.push(former),
            None => {}
        }
        block.stored = Some((location, span));
        let mut index = self.index_at_or_after(self.stored_below);
        while let Some(block) = self.blocks.get(index).filter(|b| b.stored_end() == b.end_seq()) {
            self.stored_below = block.end_seq();
            index += 1;
        }
    }

    /// Notes when the first message of a block was received.
    pub(super) fn set_time(&mut self, first_seq: Seq, ms: u64) {
        if let Some(index) = self.index_of(first_seq) {
            self.blocks[index].first_ms = ms.max(1);
        }
    }

    /// Gives up a block; how many numbers it covered.
    pub(super) fn remove(&mut self, first_seq: Seq) -> u32 {
        let removed = self.index_of(first_seq).and_then(|index| self.blocks.remove(index));
        let Some(block) = removed else { return 0 };
        self.released.extend(block.stored.map(|(location, _)| location));
        block.span
    }

    /// Gives up every block that ends at or below `floor`.
    pub(super) fn truncate_below(&mut self, floor: Seq) {
        while let Some(block) = self.blocks.front().filter(|block| block.end_seq() <= floor) {
            self.released.extend(block.stored.map(|(location, _)| location));
            self.blocks.pop_front();
        }
        self.stored_below = self.stored_below.max(floor);
    }

    /// Takes the places in segments that are no longer used.
    pub(super) fn take_released(&mut self) -> Vec<L> {
        std::mem::take(&mut self.released)
    }

    fn index_of(&self, first_seq: Seq) -> Option<usize> {
        let index = self.blocks.partition_point(|block| block.first_seq < first_seq);
        (self.blocks.get(index)?.first_seq == first_seq).then_some(index)
    }
}

fn starting_with<L>(recent: &Recent) -> Block<L> {
    Block {
        first_seq: recent.first_seq,
        span: recent.chunk.count(),
        bytes: recent.chunk.bytes().len() as u32,
        first_ms: recent.first_ms().max(1),
        settled: None,
        shares: recent.chunk.shares().clone(),
        stored: None,
    }
}
