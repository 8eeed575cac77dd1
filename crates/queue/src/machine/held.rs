//! One chunk of a queue: where its bytes are, and which of its messages are settled.

use std::sync::Arc;

use posthouse_model::bitmap::SeqBitmap;
use posthouse_model::chunk::{Chunk, Received};
use posthouse_model::ids::{Lsn, Seq};
use posthouse_model::record::FLAG_EXPIRES;
use posthouse_model::shares::Shares;

use super::details::{Details, Wanted};
use super::times::NEVER_MS;

/// Which of a chunk's messages must survive a restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Persistence {
    /// None of them.
    Transient,
    /// All of them.
    Persistent,
}

/// Where a chunk's bytes are.
#[derive(Clone, Debug)]
pub enum Residence<L> {
    /// In memory only.
    Memory(Arc<Chunk>),
    /// In memory and in a segment.
    Both(Arc<Chunk>, L),
    /// In a segment only.
    Stored(L),
    /// In a segment, and being read.
    Loading(L),
}

impl<L: Copy> Residence<L> {
    /// The bytes, where they are in memory.
    pub fn chunk(&self) -> Option<&Arc<Chunk>> {
        match self {
            Self::Memory(chunk) | Self::Both(chunk, _) => Some(chunk),
            Self::Stored(_) | Self::Loading(_) => None,
        }
    }

    /// The place in a segment, where there is one.
    pub fn location(&self) -> Option<L> {
        match self {
            Self::Memory(_) => None,
            Self::Both(_, location) | Self::Stored(location) | Self::Loading(location) => Some(*location),
        }
    }

    /// Bytes of memory the chunk takes.
    pub fn memory_bytes(&self) -> usize {
        self.chunk().map_or(0, |chunk| chunk.memory_bytes())
    }
}

/// One chunk of a queue.
#[derive(Clone, Debug)]
pub struct Held<L> {
    /// Sequence number of delta 0.
    pub first_seq: Seq,
    /// How many sequence numbers it covers, settled ones included.
    pub span: u32,
    /// Messages from the start that are all settled.
    pub prefix: u32,
    /// Messages that are not settled.
    pub live: u32,
    /// Settled messages after the prefix; absent while there are none.
    pub settled: Option<Box<SeqBitmap>>,
    /// Where the bytes are.
    pub residence: Residence<L>,
    /// Which messages survive a restart.
    pub persistence: Persistence,
    /// The log position at which its first message's record starts.
    pub lsn: Lsn,
    /// What is kept of each message; absent where the queue needs nothing, or where it is not known yet.
    pub details: Option<Box<Details>>,
    /// When its messages were received.
    pub received: Received,
    /// Whether a message in it may have a time to live of its own.
    pub expires: bool,
    /// Who published how much of it.
    pub shares: Shares,
    /// Whether it is to be known of each message when it was received.
    pub(super) wants_received: bool,
    /// When it must be looked at, because messages may have expired; in milliseconds since the Unix epoch.
    pub(super) due_ms: u64,
}

impl<L: Copy> Held<L> {
    /// The sequence number after its last.
    pub fn end_seq(&self) -> Seq {
        self.first_seq + Seq::from(self.span)
    }

    /// Whether the message of that delta is settled.
    pub fn is_settled(&self, delta: u32) -> bool {
        delta < self.prefix || self.settled.as_ref().is_some_and(|bits| bits.get(delta))
    }

    /// The first run of messages at or after `from` that are not settled: deltas, inclusive.
    pub fn next_live(&self, from: u32) -> Option<(u32, u32)> {
        let first = from.max(self.prefix);
        let Some(bits) = &self.settled else { return (first < self.span).then(|| (first, self.span - 1)) };
        let first = bits.next_unset(first)?;
        Some((first, bits.next_set(first).unwrap_or(self.span) - 1))
    }

    /// Whether any message after the prefix is settled.
    pub fn has_holes(&self) -> bool {
        self.settled.is_some()
    }

    /// Every settled message, prefix and those that leave included; none when there are none.
    pub fn settled_bitmap(&self) -> Option<SeqBitmap> {
        let mut bits = match &self.settled {
            Some(bits) => (**bits).clone(),
            None if self.prefix == 0 => return None,
            None => SeqBitmap::new(self.span),
        };
        bits.set_range(0, self.prefix);
        Some(bits)
    }

    /// A chunk as a push makes it, none of whose messages is settled.
    pub fn new(first_seq: Seq, chunk: Arc<Chunk>, persistence: Persistence, lsn: Lsn) -> Self {
        let (received, expires) = (chunk.received(), chunk.flags() & FLAG_EXPIRES != 0);
        let (shares, residence) = (chunk.shares().clone(), Residence::Memory(chunk.clone()));
        Self {
            persistence,
            lsn,
            received,
            expires,
            shares,
            ..Self::recovered(first_seq, chunk.count(), None, residence)
        }
    }

    /// The same chunk, whose messages were received then; `expires` says that one may have a time to live of its own.
    #[must_use]
    pub fn with_times(self, received: Received, expires: bool) -> Self {
        Self { received, expires, ..self }
    }

    /// The same chunk, whose messages were published by these.
    #[must_use]
    pub fn with_shares(self, shares: Shares) -> Self {
        Self { shares, ..self }
    }

    /// A chunk as a restart finds it. Nothing is known of when its messages were received, and by whom they were published.
    pub fn recovered(first_seq: Seq, span: u32, settled: Option<SeqBitmap>, residence: Residence<L>) -> Self {
        let mut held = Self {
            first_seq,
            span,
            prefix: 0,
            live: span - settled.as_ref().map_or(0, SeqBitmap::count),
            settled: settled.map(Box::new),
            residence,
            persistence: Persistence::Persistent,
            lsn: 0,
            details: None,
            received: Received::UNKNOWN,
            expires: false,
            shares: Shares::default(),
            wants_received: false,
            due_ms: NEVER_MS,
        };
        held.absorb_bits();
        held
    }

    /// What is to be kept of its messages; `bodies` where the queue asks for sizes.
    pub(super) fn wanted(&self, bodies: bool) -> Wanted {
        Wanted { bodies, deadlines: self.expires, received: self.wants_received }
    }

    pub(super) fn lacks(&self, wanted: Wanted) -> bool {
        !wanted.is_nothing() && !self.details.as_ref().is_some_and(|details| details.has(wanted))
    }

    /// Settles `from..=to` (deltas) and says how many of them were not settled before.
    pub(super) fn settle(&mut self, from: u32, to: u32) -> u32 {
        let before = self.live;
        if from <= self.prefix {
            let end = to + 1;
            if end > self.prefix {
                let already = match &self.settled {
                    Some(bits) => (self.prefix..end).filter(|&d| bits.get(d)).count() as u32,
                    None => 0,
                };
                self.live -= end - self.prefix - already;
                self.prefix = end;
                self.absorb_bits();
            }
        } else {
            let span = self.span;
            let bits = self.settled.get_or_insert_with(|| Box::new(SeqBitmap::new(span)));
            for delta in from..=to {
                if bits.set(delta) {
                    self.live -= 1;
                }
            }
        }
        before - self.live
    }

    /// Lets the prefix run over settled bits that it has reached.
    fn absorb_bits(&mut self) {
        if let Some(bits) = &self.settled {
            while self.prefix < self.span && bits.get(self.prefix) {
                self.prefix += 1;
            }
            if self.live == self.span - self.prefix {
                self.settled = None;
            }
        }
    }
}
