//! A queue of either kind, as what holds queues sees it.

use std::sync::Arc;

use posthouse_model::attempts::AttemptRange;
use posthouse_model::chunk::Chunk;
use posthouse_model::delays::DelayRange;
use posthouse_model::ids::{Lsn, Seq};
use posthouse_model::queue_settings::QueueSettings;

use crate::machine::browse::Glimpse;
use crate::machine::chunks::{Persistence, Settled};
use crate::machine::delays::Back;
use crate::machine::departures::{Departed, DepartureCounts, Reason};
use crate::machine::limits::Room;
use crate::machine::roster::{ConsumerId, Roster, Standing};
use crate::machine::single_active::Activity;
use crate::machine::times::NEVER_MS;
use crate::machine::{Limits, Queue, Run, TakeEnd};
use crate::stream::Stream;

/// A classic queue or a stream: what both can do. Callers that need what only one can look inside.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "classic queues are many, and should not cost one more pointer to follow"
)]
pub enum Machine<L, W> {
    /// Messages are taken by one consumer each and go when they are settled.
    Classic(Queue<L, W>),
    /// Messages stay and are read by everyone.
    Stream(Box<Stream<L, W>>),
}

impl<L: Copy, W: Clone> Default for Machine<L, W> {
    fn default() -> Self {
        Self::Classic(Queue::default())
    }
}

impl<L: Copy, W: Clone> Machine<L, W> {
    /// The classic queue; none for a stream.
    #[inline]
    pub fn classic(&mut self) -> Option<&mut Queue<L, W>> {
        match self {
            Self::Classic(queue) => Some(queue),
            Self::Stream(_) => None,
        }
    }

    /// The stream; none for a classic queue.
    #[inline]
    pub fn stream(&mut self) -> Option<&mut Stream<L, W>> {
        match self {
            Self::Classic(_) => None,
            Self::Stream(stream) => Some(stream),
        }
    }

    /// Who consumes.
    pub fn roster(&self) -> &Roster<W> {
        match self {
            Self::Classic(queue) => &queue.roster,
            Self::Stream(stream) => &stream.roster,
        }
    }

    /// What the queue is to do.
    pub fn settings(&self) -> &QueueSettings {
        match self {
            Self::Classic(queue) => queue.settings(),
            Self::Stream(stream) => stream.settings(),
        }
    }

    /// Milliseconds a delivery may take; none where they may take any time, as those of a stream.
    pub fn consumer_timeout_ms(&self) -> Option<u64> {
        match self {
            Self::Classic(queue) => queue.settings().consumer_timeout_ms,
            Self::Stream(_) => None,
        }
    }

    /// Changes what the queue is to do, with effect on what is in it.
    pub fn set_settings(&mut self, settings: QueueSettings) {
        match self {
            Self::Classic(queue) => queue.set_settings(settings),
            Self::Stream(stream) => stream.set_settings(settings),
        }
    }

    /// Whether a consumer is given messages.
    pub fn activity(&self, id: ConsumerId) -> Activity {
        match self {
            Self::Classic(queue) => queue.roster.activity(id),
            Self::Stream(stream) => stream.activity(id),
        }
    }

    /// Messages that can be handed out; of a stream all that are kept.
    pub fn ready(&self) -> u64 {
        match self {
            Self::Classic(queue) => queue.ready(),
            Self::Stream(stream) => stream.messages(),
        }
    }

    /// Messages handed out and not settled; none of a stream, which settles nothing.
    pub fn unacked(&self) -> u64 {
        match self {
            Self::Classic(queue) => queue.unacked(),
            Self::Stream(_) => 0,
        }
    }

    /// The number the next message of each level gets that ever had one.
    pub fn next_seqs(&self) -> Vec<Seq> {
        match self {
            Self::Classic(queue) => queue.levels().map(Queue::next_seq).collect(),
            Self::Stream(stream) => vec![stream.next_seq()],
        }
    }

    /// Bytes of memory taken by messages.
    pub fn memory_bytes(&self) -> usize {
        match self {
            Self::Classic(queue) => queue.memory_bytes(),
            Self::Stream(stream) => stream.memory_bytes(),
        }
    }

    /// Bytes of memory taken by what is known of messages that are on disk or in memory.
    pub fn descriptor_bytes(&self) -> usize {
        match self {
            Self::Classic(queue) => queue.descriptor_bytes(),
            Self::Stream(stream) => stream.descriptor_bytes(),
        }
    }

    /// Appends to `refused` which of some messages there is no room for; see [`Queue::refuse`]. Streams refuse none.
    pub fn refuse(&self, records: &[u8], count: u32, refused: &mut Vec<u32>) {
        if let Self::Classic(queue) = self {
            queue.refuse(records, count, refused);
        }
    }

    /// How much would be let in now; see [`Queue::room`]. Streams refuse nothing.
    pub fn room(&self) -> Room {
        match self {
            Self::Classic(queue) => queue.room(),
            Self::Stream(_) => Room::UNLIMITED,
        }
    }

    /// Keeps room for messages that are about to come; see [`Queue::reserve`].
    pub fn reserve(&mut self, room: Room) {
        if let Self::Classic(queue) = self {
            queue.reserve(room);
        }
    }

    /// The messages are here, or do not come; see [`Queue::end_reservation`].
    pub fn end_reservation(&mut self, room: Room) {
        if let Self::Classic(queue) = self {
            queue.end_reservation(room);
        }
    }

    /// Whether a message with so large a body will never be let in; see [`Queue::is_too_small_for`].
    pub fn is_too_small_for(&self, body_bytes: u64) -> bool {
        match self {
            Self::Classic(queue) => queue.is_too_small_for(body_bytes),
            Self::Stream(_) => false,
        }
    }

    /// Adds a chunk whose deltas are `0..count`, by reference, to a level; the first message's number. A stream has level 0
    /// only.
    pub fn push_shared(
        &mut self,
        level: u8,
        chunk: Arc<Chunk>,
        persistence: Persistence,
        lsn: Lsn,
        wakes: &mut Vec<W>,
    ) -> Seq {
        match self {
            Self::Classic(queue) => queue.push_shared_at(level, chunk, persistence, lsn, wakes),
            Self::Stream(stream) => stream.push_shared(chunk, lsn, wakes),
        }
    }

    /// Adds a few records to a level by copying them behind those that came before; the first message's number.
    pub fn push_copied(
        &mut self,
        level: u8,
        records: &[u8],
        count: u32,
        persistence: Persistence,
        lsn: Lsn,
        wakes: &mut Vec<W>,
    ) -> Seq {
        match self {
            Self::Classic(queue) => queue.push_copied_at(level, records, count, persistence, lsn, wakes),
            Self::Stream(stream) => stream.push_copied(records, count, lsn, wakes),
        }
    }

    /// Takes messages for a consumer, appending to `runs`; see [`Queue::take`] and [`Stream::take`].
    pub fn take(
        &mut self,
        consumer: ConsumerId,
        limits: Limits,
        settle: bool,
        runs: &mut Vec<Run>,
        wakes: &mut Vec<W>,
    ) -> (TakeEnd, Settled) {
        match self {
            Self::Classic(queue) => queue.take(consumer, limits, settle, runs, wakes),
            Self::Stream(stream) => (stream.take(consumer, limits, runs), Settled::default()),
        }
    }

    /// When something may expire next; see [`Queue::next_due_ms`]. Nothing in a stream does by a message's time.
    #[inline]
    pub fn next_due_ms(&self) -> u64 {
        match self {
            Self::Classic(queue) => queue.next_due_ms(),
            Self::Stream(_) => NEVER_MS,
        }
    }

    /// Whether messages may have to be let go of by time, now or later.
    #[inline]
    pub fn may_expire(&self) -> bool {
        match self {
            Self::Classic(queue) => queue.may_expire(),
            Self::Stream(_) => false,
        }
    }

    /// Lets messages go that have expired; whether there may be more. See [`Queue::expire`].
    #[inline]
    pub fn expire(&mut self, now_ms: u64) -> bool {
        match self {
            Self::Classic(queue) => queue.expire(now_ms),
            Self::Stream(_) => false,
        }
    }

    /// Settles `first..=last`, which were handed out. A stream only counts them.
    pub fn settle(&mut self, first: Seq, last: Seq) -> Settled {
        match self {
            Self::Classic(queue) => queue.settle(first, last),
            Self::Stream(_) => Settled { count: last - first + 1, persistent: false },
        }
    }

    /// Wakes the consumer that takes over because of what was settled; see [`Queue::wake_after_settling`].
    pub fn wake_after_settling(&mut self, wakes: &mut Vec<W>) {
        if let Self::Classic(queue) = self {
            queue.wake_after_settling(wakes);
        }
    }

    /// Takes back `first..=last`, which were handed out and not settled; see [`Queue::take_back`]. A stream has them
    /// anyway.
    pub fn take_back(&mut self, first: Seq, last: Seq, back: Back, wakes: &mut Vec<W>) {
        if let Self::Classic(queue) = self {
            queue.take_back(first, last, back, wakes);
        }
    }

    /// Whether messages that come back may have to wait for a time; see [`Queue::delays_retries`].
    pub fn delays_retries(&self) -> bool {
        match self {
            Self::Classic(queue) => queue.delays_retries(),
            Self::Stream(_) => false,
        }
    }

    /// Whether messages have become ready since somebody was woken for it; see [`Queue::has_freed`].
    pub fn has_freed(&self) -> bool {
        match self {
            Self::Classic(queue) => queue.has_freed(),
            Self::Stream(_) => false,
        }
    }

    /// Messages that came back and wait for a time.
    pub fn delayed(&self) -> u64 {
        match self {
            Self::Classic(queue) => queue.delayed(),
            Self::Stream(_) => 0,
        }
    }

    /// Appends to `attempts` what is known of messages that came back; see [`Queue::note_attempts`].
    pub fn note_attempts(&self, first: Seq, last: Seq, attempts: &mut Vec<AttemptRange>) {
        if let Self::Classic(queue) = self {
            queue.note_attempts(first, last, attempts);
        }
    }

    /// Appends to `delays` which of some messages are delayed; see [`Queue::note_delays`].
    pub fn note_delays(&self, first: Seq, last: Seq, delays: &mut Vec<DelayRange>) {
        if let Self::Classic(queue) = self {
            queue.note_delays(first, last, delays);
        }
    }

    /// A consumer cannot take now and leaves its turn to others.
    pub fn block(&mut self, consumer: ConsumerId, wakes: &mut Vec<W>) {
        match self {
            Self::Classic(queue) => {
                queue.roster.set(consumer, Standing::Blocked);
                wake_others(queue, wakes);
                // Nobody may be about to take any more.
                queue.enforce_limits();
            }
            Self::Stream(stream) => stream.block(consumer),
        }
    }

    /// Removes a consumer; whether it was the last.
    pub fn remove_consumer(&mut self, consumer: ConsumerId, wakes: &mut Vec<W>) -> bool {
        let removed = match self {
            Self::Classic(queue) => {
                let removed = queue.roster.remove(consumer);
                wake_others(queue, wakes);
                queue.enforce_limits();
                removed
            }
            Self::Stream(stream) => stream.remove_reader(consumer, wakes),
        };
        removed && self.roster().is_empty()
    }

    /// Whether messages have left without having been acknowledged since [`Self::take_departed`], so that the log must
    /// be told. What leaves a stream needs no telling.
    pub fn has_departed(&self) -> bool {
        match self {
            Self::Classic(queue) => queue.has_departed(),
            Self::Stream(_) => false,
        }
    }

    /// What has left without having been acknowledged since the last call.
    pub fn take_departed(&mut self) -> Departed {
        match self {
            Self::Classic(queue) => queue.take_departed(),
            Self::Stream(_) => Departed::default(),
        }
    }

    /// How many have left without having been acknowledged, and why; what retention gives up is not counted.
    pub fn departure_counts(&self) -> DepartureCounts {
        match self {
            Self::Classic(queue) => queue.departure_counts(),
            Self::Stream(_) => DepartureCounts::default(),
        }
    }

    /// A consumer does not want `first..=last`, which were handed out; see [`Queue::reject`]. A stream has them anyway.
    pub fn reject(&mut self, first: Seq, last: Seq, reason: Reason) {
        if let Self::Classic(queue) = self {
            queue.reject(first, last, reason);
        }
    }

    /// Messages that have just arrived had no room; see [`Queue::turn_away`]. A stream has room.
    pub fn turn_away(&mut self, first: Seq, count: u32) {
        if let Self::Classic(queue) = self {
            queue.turn_away(first, count);
        }
    }

    /// Whether messages wait to be moved to other queues.
    pub fn has_leaving(&self) -> bool {
        match self {
            Self::Classic(queue) => queue.has_leaving(),
            Self::Stream(_) => false,
        }
    }

    /// Whether messages are dropped faster than they are moved; see [`Queue::has_too_many_drops`].
    pub fn has_too_many_drops(&self) -> bool {
        match self {
            Self::Classic(queue) => queue.has_too_many_drops(),
            Self::Stream(_) => false,
        }
    }

    /// Messages that are neither ready nor handed out and not yet settled.
    pub fn leaving(&self) -> u64 {
        match self {
            Self::Classic(queue) => queue.leaving(),
            Self::Stream(_) => 0,
        }
    }

    /// The number of the ready message that `skip` others precede; `None` when there are not so many.
    pub fn nth_ready(&mut self, skip: u64) -> Option<Seq> {
        match self {
            Self::Classic(queue) => queue.nth_ready(skip),
            Self::Stream(stream) => stream.nth(skip),
        }
    }

    /// The next chunks with messages to look at; see [`Queue::glimpse`].
    pub fn glimpse(&mut self, from: Seq, most: usize, bytes_of: impl Fn(L) -> usize) -> Vec<Glimpse<L>> {
        match self {
            Self::Classic(queue) => queue.glimpse(from, most, bytes_of),
            Self::Stream(stream) => stream.glimpse(from, most),
        }
    }

    /// The places in segments that are in use.
    pub fn locations(&self) -> Vec<L> {
        match self {
            Self::Classic(queue) => {
                let held = queue.levels().flat_map(Queue::held);
                held.filter_map(|held| held.residence.location()).collect()
            }
            Self::Stream(stream) => {
                stream.blocks().filter_map(|block| block.stored).map(|(location, _)| location).collect()
            }
        }
    }

    /// Takes the places in segments that are no longer used.
    pub fn take_released(&mut self) -> Vec<L> {
        match self {
            Self::Classic(queue) => queue.take_released(),
            Self::Stream(stream) => stream.take_released(),
        }
    }
}

/// What was one consumer's turn is now another's.
fn wake_others<L: Copy, W: Clone>(queue: &mut Queue<L, W>, wakes: &mut Vec<W>) {
    if queue.ready() > 0 {
        queue.wake(wakes);
    }
}
