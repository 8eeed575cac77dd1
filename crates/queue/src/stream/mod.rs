//! A stream as a deterministic machine: messages are appended, kept for as long as was declared, and read by any
//! number of readers, each at a place of its own. Nothing is settled.
//!
//! Messages are numbered in order of arrival. The newest are in the `window` in memory, the older ones in blocks in
//! segments, which the [`directory`] knows; what readers of older messages need is read back into a small `cache`.
//! The window always has what no block has yet. So memory does not grow with the stream but by a descriptor per block,
//! nor with the number of readers but by a cursor each.
//!
//! As [`crate::machine`], it knows no lock, no log and no clock: `L` is where a block lies in a segment, `W` is how a
//! reader is woken.

mod browse;
mod cache;
pub mod directory;
pub mod filter;
pub mod notes;
pub mod offsets;
pub mod publishers;
mod reader;
mod residency;
pub mod retention;
mod take;
mod window;

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;
use posthouse_model::chunk::{Chunk, ChunkBuilder};
use posthouse_model::ids::{Lsn, Seq};
use posthouse_model::queue_settings::QueueSettings;
use posthouse_model::record::Record;
use posthouse_model::shares::UserNumber;
use posthouse_model::stream_args::StreamOffset;

use crate::machine::roster::{ConsumerId, Roster, Standing};
use cache::Cache;
use directory::{Block, Directory};
use filter::Filter;
use notes::{Note, Remembered};
use offsets::{Offsets, TooManyNames, Tracking};
use publishers::Publishers;
use reader::Reader;
pub use residency::Read;
use retention::{Limits, Retention};
use window::{Recent, Window};

/// One stream. See the module's documentation.
#[derive(Debug)]
pub struct Stream<L, W> {
    /// Messages below were given up.
    floor: Seq,
    window: Window,
    blocks: Directory<L>,
    cache: Cache,
    settings: QueueSettings,
    retention: Retention,
    readers: HashMap<ConsumerId, Reader, foldhash::fast::FixedState>,
    /// Readers that something must be read for, in the order in which they came.
    waiting: VecDeque<ConsumerId>,
    /// Blocks that readers will need next.
    ahead: VecDeque<Seq>,
    /// Something may have to be read.
    has_work: bool,
    offsets: Offsets,
    publishers: Publishers,
    /// Who reads.
    pub roster: Roster<W>,
}

/// What a reader wants.
#[derive(Clone, PartialEq, Debug)]
pub struct ReaderOptions {
    /// Where it begins.
    pub start: StreamOffset,
    /// Which messages it wants; none for all.
    pub filter: Option<Filter>,
    /// The name under which its offset is stored; up to [`offsets::NAME_BYTES_MAX`] bytes. One that is stored wins
    /// over `start`.
    pub name: Option<Box<[u8]>>,
    /// It takes turns with the others of its name: one of them reads, the one at this place in the order in which they
    /// came, counted round.
    pub turn: Option<u64>,
}

/// What a stream starts with after a restart. What is in memory is newer than every block.
#[derive(Clone, Debug)]
pub struct Recovered<L> {
    /// Messages below were given up.
    pub floor: Seq,
    /// The number the next message gets.
    pub next_seq: Seq,
    /// What is in segments, in order.
    pub blocks: Vec<Block<L>>,
    /// What is in memory, in order: the number that delta 0 stands for, and the records.
    pub recent: Vec<(Seq, Arc<Chunk>)>,
}

/// Bytes of a block's filter summary.
fn filter_bytes(settings: &QueueSettings) -> u8 {
    const DEFAULT: u8 = 16;
    settings.filter_bytes.unwrap_or(DEFAULT)
}

impl<L: Copy, W: Clone> Stream<L, W> {
    /// An empty stream.
    pub fn new(settings: QueueSettings) -> Self {
        let found = Recovered { floor: 0, next_seq: 0, blocks: Vec::new(), recent: Vec::new() };
        Self::recover(settings, found)
    }

    /// A stream with what a restart found.
    pub fn recover(settings: QueueSettings, found: Recovered<L>) -> Self {
        let (limits, filter_bytes) = (Limits::of(&settings), filter_bytes(&settings));
        Self { settings, ..Self::with_limits(limits, filter_bytes, found) }
    }

    fn with_limits(limits: Limits, filter_bytes: u8, found: Recovered<L>) -> Self {
        let mut stream = Self {
            floor: found.floor,
            window: Window::starting_at(found.next_seq),
            blocks: Directory::new(filter_bytes),
            cache: Cache::default(),
            settings: QueueSettings::default(),
            retention: Retention::new(limits),
            readers: HashMap::default(),
            waiting: VecDeque::new(),
            ahead: VecDeque::new(),
            has_work: false,
            offsets: Offsets::default(),
            publishers: Publishers::default(),
            roster: Roster::default(),
        };
        for block in found.blocks {
            stream.retention.added(block.first_seq, block.bytes as usize, block.first_ms);
            stream.blocks.restore(block);
        }
        for (first_seq, chunk) in found.recent {
            for recent in without_holes(first_seq, chunk) {
                let (bytes, first_ms) = (recent.chunk.bytes().len(), recent.first_ms());
                stream.retention.added(recent.first_seq, bytes, first_ms);
                stream.window.restore(recent);
            }
        }
        stream
    }

    /// What the stream is to keep.
    pub fn settings(&self) -> &QueueSettings {
        &self.settings
    }

    /// Changes what the stream is to keep; what is too much or too old then goes with the next [`Self::retain`]. Blocks that
    /// are written from now on have filter summaries of the new size.
    pub fn set_settings(&mut self, settings: QueueSettings) {
        self.retention.set_limits(Limits::of(&settings));
        self.blocks.set_filter_bytes(filter_bytes(&settings));
        self.settings = settings;
    }

    /// The number the next message gets.
    pub fn next_seq(&self) -> Seq {
        self.window.next_seq()
    }

    /// Messages below were given up.
    pub fn floor(&self) -> Seq {
        self.floor
    }

    /// How many messages are kept.
    pub fn messages(&self) -> u64 {
        self.next_seq() - self.floor
    }

    /// Bytes of the records that are kept.
    pub fn bytes(&self) -> u64 {
        self.retention.bytes()
    }

    /// Who published how much of what is kept.
    pub fn shares(&self, mut to: impl FnMut(UserNumber, u64)) {
        let mut end = 0;
        for block in self.blocks.iter() {
            block.shares.divide(block.bytes.into(), &mut to);
            end = block.end_seq();
        }
        self.window.shares_from(end, to);
    }

    /// Bytes of memory taken by messages.
    pub fn memory_bytes(&self) -> usize {
        self.window.memory_bytes() + self.cache.memory_bytes()
    }

    /// Bytes of memory taken by what is known of blocks in segments.
    pub fn descriptor_bytes(&self) -> usize {
        self.blocks.descriptor_bytes()
    }

    /// Bytes of memory taken by the newest messages.
    pub fn window_bytes(&self) -> usize {
        self.window.memory_bytes()
    }

    /// Adds a chunk whose deltas are `0..count`, by reference; the first message's number.
    pub fn push_shared(&mut self, chunk: Arc<Chunk>, lsn: Lsn, wakes: &mut Vec<W>) -> Seq {
        let (first_seq, bytes) = (self.next_seq(), chunk.bytes().len());
        let first_ms = chunk.record_at(0).map_or(0, |record| record.received_ms());
        self.window.push_shared(chunk, lsn);
        self.arrived(first_seq, bytes, first_ms, wakes);
        first_seq
    }

    /// Adds a few records by copying them behind those that came before; the first message's number.
    pub fn push_copied(&mut self, records: &[u8], count: u32, lsn: Lsn, wakes: &mut Vec<W>) -> Seq {
        let first_seq = self.next_seq();
        let first_ms = Record::parse(records).map_or(0, |record| record.received_ms());
        self.window.push_copied(records, count, lsn);
        self.arrived(first_seq, records.len(), first_ms, wakes);
        first_seq
    }

    fn arrived(&mut self, first_seq: Seq, bytes: usize, now_ms: u64, wakes: &mut Vec<W>) {
        if self.retention.added(first_seq, bytes, now_ms) {
            self.retain(now_ms, wakes);
        }
        self.roster.wake(u64::MAX, wakes);
    }

    /// Gives up what is too much or too old at this time; readers that waited for some of it are woken.
    pub fn retain(&mut self, now_ms: u64, wakes: &mut Vec<W>) {
        self.has_work |= self.retention.unknown_time().is_some();
        let Some(floor) = self.retention.apply(now_ms) else { return };
        self.floor = floor;
        self.blocks.truncate_below(floor);
        self.window.evict(floor, 0);
        let blocks = &self.blocks;
        self.cache.forget(|first_seq| blocks.find(first_seq).is_none());
        self.ahead.retain(|first_seq| blocks.find(*first_seq).is_some());
        let gone = |claim: Option<Seq>| claim.is_some_and(|first_seq| blocks.find(first_seq).is_none());
        let freed: Vec<_> =
            self.readers.iter().filter(|(_, reader)| gone(reader.claim)).map(|(id, _)| *id).collect();
        for id in freed {
            self.resume(id, wakes);
        }
    }

    /// Takes over what was remembered before a restart; false when it has no form that is known.
    pub fn remember(&mut self, key: &[u8], value: &[u8]) -> bool {
        match notes::read(key, value) {
            Some(Remembered::Offset(name, next)) => self.offsets.restore(name, next, self.next_seq()),
            Some(Remembered::Publisher(name, id, seq)) => self.publishers.restore(name, id, seq),
            None => return false,
        }
        true
    }

    /// Notes who has published the messages of a chunk from the number `covered` on, which are not remembered
    /// otherwise. Called after [`Self::remember`], for each chunk in order.
    pub fn recall_publishers(&mut self, first_seq: Seq, chunk: &Chunk, covered: Seq) {
        self.publishers.restore_from(first_seq, chunk, covered);
    }

    /// What is to be remembered across a restart, beside messages that are not in segments.
    pub fn notes(&self) -> Vec<Note> {
        self.offsets.notes().chain(self.publishers.notes(self.covered())).collect()
    }

    /// Adds a reader. It parks at its first [`Self::take`], or is handed something. A reader whose turn this makes it is
    /// woken.
    ///
    /// # Errors
    /// When it has a name and there are too many; it is not added then.
    pub fn add_reader(
        &mut self,
        id: ConsumerId,
        waker: W,
        options: ReaderOptions,
        wakes: &mut Vec<W>,
    ) -> Result<(), TooManyNames> {
        let ReaderOptions { start, filter, name, turn } = options;
        let tracking = name.map(|name| Box::new(Tracking::new(name, turn, start)));
        self.readers.insert(id, Reader { filter, tracking, ..Reader::default() });
        self.place(id, start);
        self.roster.add(id, waker, 0, false);
        self.join(id, wakes).inspect_err(|TooManyNames| {
            self.readers.remove(&id);
            self.roster.remove(id);
        })
    }

    /// Lets a reader begin somewhere.
    fn place(&mut self, id: ConsumerId, start: StreamOffset) {
        let (floor, next_seq) = (self.floor, self.next_seq());
        let Some(reader) = self.readers.get_mut(&id) else { return };
        (reader.place, reader.seek_ms, reader.not_before_ms) = (None, None, None);
        match start {
            StreamOffset::First => reader.cursor = floor,
            StreamOffset::Last => reader.cursor = next_seq.saturating_sub(1),
            StreamOffset::Next => reader.cursor = next_seq,
            StreamOffset::Number(seq) => reader.cursor = seq,
            StreamOffset::Since(ms) => reader.seek_ms = Some(ms),
        }
    }

    /// Removes a reader; whether it was there. The next of its group gets its turn.
    pub fn remove_reader(&mut self, id: ConsumerId, wakes: &mut Vec<W>) -> bool {
        self.block(id);
        self.leave(id, wakes);
        self.readers.remove(&id);
        self.roster.remove(id)
    }

    /// A reader cannot take now.
    pub fn block(&mut self, id: ConsumerId) {
        self.roster.set(id, Standing::Blocked);
        self.waiting.retain(|other| *other != id);
        if let Some(reader) = self.readers.get_mut(&id) {
            self.has_work |= reader.claim.take().is_some() && !self.waiting.is_empty();
        }
    }

    /// Has a reader that waited try again.
    fn resume(&mut self, id: ConsumerId, wakes: &mut Vec<W>) {
        if let Some(reader) = self.readers.get_mut(&id) {
            reader.claim = reader.claim.filter(|first_seq| self.cache.has(*first_seq));
        }
        let waits = self.waiting.iter().position(|other| *other == id);
        if let Some(at) = waits {
            self.waiting.remove(at);
            wakes.extend(self.roster.run(id));
        }
    }
}

/// The runs of consecutive messages in a chunk.
fn without_holes(first_seq: Seq, chunk: Arc<Chunk>) -> Vec<Recent> {
    let last = chunk.records().last().map_or(0, |record| record.delta());
    if chunk.count() == last + 1 {
        return vec![Recent { first_seq, chunk, lsn: 0 }];
    }
    let mut found: Vec<(Seq, ChunkBuilder)> = Vec::new();
    let mut rest = chunk.bytes();
    for record in chunk.records() {
        let (bytes, after) = rest.split_at(record.len());
        rest = after;
        let seq = first_seq + Seq::from(record.delta());
        match found.last_mut() {
            Some((first, builder)) if *first + Seq::from(builder.count()) == seq => {
                builder.append_records(bytes)
            }
            _ => {
                let mut builder = ChunkBuilder::default();
                builder.append_records(bytes);
                found.push((seq, builder));
            }
        }
    }
    let recent = |(first_seq, builder): (Seq, ChunkBuilder)| Recent {
        first_seq,
        chunk: Arc::new(builder.finish()),
        lsn: 0,
    };
    found.into_iter().map(recent).collect()
}

#[cfg(test)]
mod tests;
