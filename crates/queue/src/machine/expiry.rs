//! Messages whose time to live is over leave, wherever they stand.
//!
//! A message expires when it has waited for as long as the queue's `x-message-ttl` says, or its own `expiration`,
//! whichever is shorter, counted from when the broker received it. It cannot expire while it is handed out; given back,
//! it may be due at once.
//!
//! No message has a timer. A chunk is noted with the time at which the first of its messages may expire, and looked at
//! then: for the queue's time to live it is enough to know when the chunk's first and last message were received, and
//! only the chunk that lies across the line needs the time of each of its messages. Messages with a time to live of their
//! own have theirs in the chunk's [details](super::details).
//!
//! A consumer that waits gets what arrives, however short it may live; RabbitMQ hands such a message over without looking
//! at its time. Here the consumer's session takes it a moment later, so a message that nobody has had yet is spared for
//! [`GRACE_MS`] while a consumer is about to take.

use posthouse_model::chunk::Received;
use posthouse_model::ids::Seq;

use super::Queue;
use super::chunks::Held;
use super::departures::Reason;
use super::times::NEVER_MS;

/// How long a message is spared, from when it was received, for a consumer that is about to take.
pub const GRACE_MS: u64 = 100;

/// A chunk on disk whose messages were received within so little time expires as a whole, with its last message.
const WHOLE_MS: u64 = 20;

/// Chunks looked at in one go, and about as many runs of messages may leave by it.
const CHUNKS_AT_ONCE: usize = 64;
const RUNS_AT_ONCE: usize = 4096;

/// What the settings say at one moment of messages of one kind: handed out before, or not.
#[derive(Clone, Copy)]
struct Rule {
    now_ms: u64,
    /// The queue's time to live.
    ttl_ms: Option<u64>,
    /// Messages are kept so long at least.
    grace_ms: u64,
}

impl Rule {
    /// When a message received then expires by the queue's time to live.
    fn by_queue_ms(self, received_ms: u64) -> u64 {
        self.ttl_ms.map_or(NEVER_MS, |ttl_ms| received_ms.saturating_add(ttl_ms.max(self.grace_ms)))
    }

    /// When the message with this delta expires. Where it is not known when it was received, it was with the last.
    fn due_ms<L>(self, held: &Held<L>, delta: u32) -> u64 {
        let details = held.details.as_deref();
        let received_ms = details.and_then(|details| details.received_ms(delta));
        let by_queue_ms = self.by_queue_ms(received_ms.unwrap_or(held.received.last_ms));
        let own = details.and_then(|details| details.deadline(delta));
        let by_itself_ms = own.map_or(NEVER_MS, |own| own.at_ms + if own.short { self.grace_ms } else { 0 });
        by_queue_ms.min(by_itself_ms)
    }
}

/// What a look at a level, or at all, leaves to be done.
#[derive(Clone, Copy, Default)]
struct Rest {
    /// There may be more that has expired.
    more: bool,
    /// Messages are kept only for a consumer that is about to take.
    spares: bool,
    /// Messages have waited long enough.
    freed: bool,
}

impl<L: Copy, W: Clone> Queue<L, W> {
    /// When something may expire or is ready again next, in milliseconds since the Unix epoch: [`NEVER_MS`] when nothing will.
    #[inline]
    pub fn next_due_ms(&self) -> u64 {
        let above_ms = self.levels.as_ref().map_or(NEVER_MS, |levels| levels.due_ms);
        above_ms.min(self.line_due_ms())
    }

    /// The same of this level alone.
    #[inline]
    pub(super) fn line_due_ms(&self) -> u64 {
        self.chunks.next_due_ms().min(self.tail_due_ms).min(self.delays_due_ms())
    }

    /// Whether messages may have to be let go of by time, or be ready again, now or later.
    #[inline]
    pub fn may_expire(&self) -> bool {
        self.spares || self.next_due_ms() != NEVER_MS
    }

    /// Lets messages go that have expired, and those be ready that have waited long enough. Whether there may be more: the work of one call is bounded.
    #[inline]
    pub fn expire(&mut self, now_ms: u64) -> bool {
        if self.spares && !self.roster.any_active() {
            self.spares = false;
            self.in_levels(|level| level.spare_no_more(now_ms));
            self.spare_no_more(now_ms);
        }
        self.next_due_ms() <= now_ms && self.expire_due(now_ms)
    }

    #[cold]
    fn expire_due(&mut self, now_ms: u64) -> bool {
        let grace_ms = if self.roster.any_active() { GRACE_MS } else { 0 };
        let mut rest = self.expire_in_line(now_ms, grace_ms);
        self.in_levels(|level| {
            let Rest { more, spares, freed } = level.expire_in_line(now_ms, grace_ms);
            rest.more |= more;
            rest.spares |= spares;
            rest.freed |= freed;
        });
        self.review_levels_due();
        self.spares |= rest.spares;
        self.freed |= rest.freed;
        rest.more
    }

    /// Lets go what has expired of this level, and be ready what is.
    fn expire_in_line(&mut self, now_ms: u64, grace_ms: u64) -> Rest {
        let freed = self.end_delays(now_ms);
        if self.tail_due_ms <= now_ms {
            self.close_tail();
        }
        let mut spares = false;
        for _ in 0..CHUNKS_AT_ONCE {
            let Some(index) = self.chunks.pop_due(now_ms) else { break };
            spares |= self.expire_in_chunk(index, now_ms, grace_ms);
            if self.departed.ranges.len() >= RUNS_AT_ONCE {
                break;
            }
        }
        Rest { more: self.line_due_ms() <= now_ms, spares, freed }
    }

    /// Looks at one chunk; whether it may have messages that are spared.
    fn expire_in_chunk(&mut self, index: usize, now_ms: u64, grace_ms: u64) -> bool {
        self.learn_received(index, now_ms, grace_ms);
        let looks = self.chunks.take_looks(index);
        let Some(held) = self.chunks.get(index) else { return false };
        let ttl_ms = self.settings.message_ttl_ms;
        let has_deadlines = held.details.as_ref().is_some_and(|details| details.has_deadlines());
        let spares = grace_ms > 0 && (has_deadlines || ttl_ms.is_some_and(|ttl_ms| ttl_ms < GRACE_MS));
        let (first, last) = (held.first_seq, held.span - 1);
        let rule = Rule { now_ms, ttl_ms, grace_ms };
        let mut expired = Vec::new();
        let next_ms = match looks.map(|looks| looks.of(held.span)) {
            None => self.look_within(held, 0, last, rule, &mut expired),
            Some(mut looks) => {
                let look = |from, to| self.look_within(held, from, to, rule, &mut expired);
                let next_ms = looks.look(held.span, now_ms, look);
                self.chunks.set_looks(index, looks);
                next_ms
            }
        };
        self.chunks.set_due(index, next_ms);
        for (from, to) in expired {
            let (from, to) = (first + Seq::from(from), first + Seq::from(to));
            self.wait_no_more(from, to);
            self.depart(from, to, Reason::Expired);
        }
        self.pass_over_departed();
        spares
    }

    /// Looks at `from..=to` of a chunk and appends what has expired; when the next one of them does.
    fn look_within(
        &self,
        held: &Held<L>,
        from: u32,
        to: u32,
        rule: Rule,
        expired: &mut Vec<(u32, u32)>,
    ) -> u64 {
        let first = held.first_seq;
        let (from_seq, to_seq) = (first + Seq::from(from), first + Seq::from(to));
        let mut next_ms = NEVER_MS;
        // Nobody is spared who was handed out before.
        let strict = Rule { grace_ms: 0, ..rule };
        let delayed = self.delayed_within(from_seq, to_seq).map(|range| (range.first, range.last));
        for (from, to) in self.returned.within(from_seq, to_seq).chain(delayed) {
            let due_ms = look_at(held, (from - first) as u32, (to - first) as u32, strict, expired);
            next_ms = next_ms.min(due_ms);
        }
        let mut next = (self.cursor.clamp(from_seq, to_seq + 1) - first) as u32;
        while let Some((live, end)) = held.next_live(next).filter(|&(live, _)| live <= to) {
            next_ms = next_ms.min(look_at(held, live, end.min(to), rule, expired));
            next = end.min(to) + 1;
        }
        next_ms
    }

    /// `first..=last`, all of which are ready or delayed, are neither any more; none of them is before the cursor and was
    /// never handed out.
    pub(super) fn wait_no_more(&mut self, first: Seq, last: Seq) {
        self.returned.take_within(first, last);
        let (delayed, delayed_bytes) = self.take_delayed(first, last);
        self.ready -= last - first + 1 - delayed;
        self.ready_bytes -= self.body_bytes(first, last) - delayed_bytes;
    }

    /// Moves the cursor on when all that is left of its chunk is handed out: it needs not be read then.
    fn pass_over_departed(&mut self) {
        let at = self.chunks.index_at_or_after(self.cursor);
        let Some(held) = self.chunks.get(at).filter(|held| held.first_seq <= self.cursor) else { return };
        if held.next_live((self.cursor - held.first_seq) as u32).is_none() {
            self.cursor = held.end_seq();
            self.cursor_place = None;
        }
    }

    /// Sees to it that of a chunk that lies across the line it is known, now or after a survey, when each of its messages
    /// was received.
    fn learn_received(&mut self, index: usize, now_ms: u64, grace_ms: u64) {
        let Some(held) = self.chunks.get(index) else { return };
        let Some(ttl_ms) = self.settings.message_ttl_ms else { return };
        let Received { first_ms, last_ms } = held.received;
        let is_across = first_ms.saturating_add(ttl_ms) <= now_ms
            && last_ms.saturating_add(ttl_ms.max(grace_ms)) > now_ms
            && first_ms != last_ms;
        let in_memory = held.residence.chunk().cloned();
        if !is_across || (in_memory.is_none() && last_ms - first_ms <= WHOLE_MS) {
            return;
        }
        self.chunks.want_received(index, true);
        if let Some(chunk) = in_memory {
            self.note_details(index, &chunk);
        }
    }

    /// When a chunk that is pushed must be looked at first.
    pub(super) fn due_of(&self, held: &Held<L>) -> u64 {
        let own = held.details.as_ref();
        let own_ms = own.map_or(NEVER_MS, |own| own.earliest_deadline_ms(0, held.span.saturating_sub(1)));
        self.due_by_queue_ms(held.received).min(own_ms)
    }

    /// When the first of some messages expires by the queue's time to live.
    #[inline]
    pub(super) fn due_by_queue_ms(&self, received: Received) -> u64 {
        self.settings.message_ttl_ms.map_or(NEVER_MS, |ttl_ms| received.first_ms.saturating_add(ttl_ms))
    }

    /// Notes anew when a chunk must be looked at.
    pub(super) fn note_chunk_due(&mut self, index: usize) {
        if let Some(held) = self.chunks.get(index) {
            let due_ms = self.due_of(held);
            self.chunks.take_looks(index);
            self.chunks.note_due(index, due_ms);
        }
    }

    /// Messages of a chunk were given back, `first..=last`: some may be due.
    pub(super) fn note_returned(&mut self, index: usize, first: Seq, last: Seq) {
        let Some(held) = self.chunks.get(index) else { return };
        let (from, to) = ((first - held.first_seq) as u32, (last - held.first_seq) as u32);
        let own_ms = held.details.as_ref().map_or(NEVER_MS, |own| own.earliest_deadline_ms(from, to));
        let due_ms = self.due_by_queue_ms(held.received).min(own_ms);
        if let Some(mut looks) = self.chunks.take_looks(index) {
            looks.note(from, to, due_ms);
            self.chunks.set_looks(index, looks);
        }
        self.chunks.note_due(index, due_ms);
    }

    /// Notes anew when each chunk of this level must be looked at, because the settings have changed.
    pub(super) fn review_due(&mut self) {
        self.review_levels_due();
        for index in 0..self.chunks.len() {
            let Some(held) = self.chunks.get(index) else { break };
            let due_ms = self.due_of(held);
            self.chunks.take_looks(index);
            self.chunks.set_due(index, due_ms);
        }
    }

    /// Nobody is about to take any more: what was spared is due. It was received a moment ago.
    #[cold]
    fn spare_no_more(&mut self, now_ms: u64) {
        for index in (0..self.chunks.len()).rev() {
            let young = |held: &Held<L>| held.received.last_ms.saturating_add(2 * GRACE_MS) > now_ms;
            if !self.chunks.get(index).is_some_and(young) {
                return;
            }
            self.note_chunk_due(index);
        }
    }
}

/// Looks at `from..=to` of a chunk, which are ready and of the kind that the rule is for, and appends what has expired;
/// when the next one does.
fn look_at<L>(held: &Held<L>, from: u32, to: u32, rule: Rule, expired: &mut Vec<(u32, u32)>) -> u64 {
    let first_ms = rule.by_queue_ms(held.received.first_ms);
    if rule.by_queue_ms(held.received.last_ms) <= rule.now_ms {
        add(expired, from, to);
        return NEVER_MS;
    }
    let mut next_ms = NEVER_MS;
    if first_ms > rule.now_ms {
        next_ms = first_ms;
        if !held.details.as_ref().is_some_and(|details| details.has_deadlines()) {
            return next_ms;
        }
    }
    for delta in from..=to {
        let due_ms = rule.due_ms(held, delta);
        if due_ms > rule.now_ms {
            next_ms = next_ms.min(due_ms);
        } else {
            add(expired, delta, delta);
        }
    }
    next_ms
}

/// Appends a run, or lets the last one go on with it.
fn add(runs: &mut Vec<(u32, u32)>, from: u32, to: u32) {
    match runs.last_mut() {
        Some(last) if last.1 + 1 == from => last.1 = to,
        _ => runs.push((from, to)),
    }
}
