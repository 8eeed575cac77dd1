//! Length limits: which messages have no room in a queue, and which ones make room.
//!
//! Ready messages count, by number and by bytes of their bodies, and so do delayed ones. A queue over its limit drops from
//! the head, except while a consumer is about to take: what a waiting consumer has credit for never counted in RabbitMQ
//! either. Then only delayed messages count, which nobody can take. Where it refuses instead, it does so message by message
//! and exactly at the limit.

use posthouse_model::chunk::Records;
use posthouse_model::ids::Seq;
use posthouse_model::queue_settings::Overflow;

use super::Queue;
use super::departures::Reason;

/// Messages, and bytes of their bodies.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Room {
    /// Messages.
    pub messages: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
}

impl Room {
    /// For more than there ever is.
    pub const UNLIMITED: Self = Self { messages: u64::MAX, bytes: u64::MAX };

    /// Whether one more message with so large a body has room.
    pub fn has_place_for(self, body_bytes: u64) -> bool {
        self.messages > 0 && self.bytes >= body_bytes
    }

    fn fits(self, messages: u64, bytes: u64) -> bool {
        self.messages >= messages && self.bytes >= bytes
    }

    /// Takes one message's place, as far as there is one.
    pub fn take_up(&mut self, body_bytes: u64) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(body_bytes);
    }

    /// Takes the room of a message with a body of so many bytes, if there is any.
    pub(super) fn take(&mut self, body_bytes: u64) -> bool {
        let fits = self.fits(1, body_bytes);
        if fits {
            self.take_up(body_bytes);
        }
        fits
    }
}

impl<L: Copy, W: Clone> Queue<L, W> {
    /// Appends to `refused` the positions within `records` (`count` of them) of the messages that a queue which
    /// refuses has no room for, each judged as if it arrived alone. Nothing for queues that do not refuse.
    pub fn refuse(&self, records: &[u8], count: u32, refused: &mut Vec<u32>) {
        let Some(mut room) = self.room_of_refusing() else { return };
        // Bodies are a part of the records.
        if room.fits(u64::from(count), records.len() as u64) {
            return;
        }
        for (position, record) in (0..).zip(Records::new(records)) {
            if !room.take(record.body().len() as u64) {
                refused.push(position);
            }
        }
    }

    /// The room in a queue that refuses.
    pub(super) fn room_of_refusing(&self) -> Option<Room> {
        self.settings.refuses().then(|| self.room())
    }

    /// Messages that take room in a queue which refuses, and bytes of their bodies: those that wait, those that are about to
    /// come, and dead letters that stay for want of a place, which nothing else would keep from growing without end.
    fn room_taken(&self) -> (u64, u64) {
        let (letters, bytes) = match self.settings.keeps_dead_letters() {
            true => (self.leaving(), self.leaving_bytes()),
            false => self.stalled_or_tried(),
        };
        let (messages, bytes) = (letters + self.reserved.messages, bytes + self.reserved.bytes);
        (self.ready + self.delayed + messages, self.ready_bytes + self.delayed_bytes + bytes)
    }

    /// How much has room now: what a queue that refuses would not. Unlimited where it does not.
    pub fn room(&self) -> Room {
        if !self.settings.refuses() {
            return Room::UNLIMITED;
        }
        let (messages, bytes) = self.room_taken();
        let left = |most: Option<u64>, taken| most.map_or(Some(u64::MAX), |most| most.checked_sub(taken));
        match (left(self.settings.max_length, messages), left(self.settings.max_length_bytes, bytes)) {
            (Some(messages), Some(bytes)) => Room { messages, bytes },
            // Above a limit, which was set later, an empty message has no place either.
            _ => Room::default(),
        }
    }

    /// Keeps room for messages that are about to come, until [`Self::end_reservation`]: for whoever must know that they
    /// will have some before they do. That there is so much, who calls has found out.
    pub fn reserve(&mut self, room: Room) {
        self.reserved.messages += room.messages;
        self.reserved.bytes += room.bytes;
    }

    /// The messages are here, or do not come.
    pub fn end_reservation(&mut self, room: Room) {
        // A queue that is deleted meanwhile is empty, and knows of none.
        self.reserved.messages = self.reserved.messages.saturating_sub(room.messages);
        self.reserved.bytes = self.reserved.bytes.saturating_sub(room.bytes);
    }

    /// Whether the queue would refuse a message with so large a body even if it were empty.
    pub fn is_too_small_for(&self, body_bytes: u64) -> bool {
        self.settings.refuses() && self.settings.max_length_bytes.is_some_and(|most| body_bytes > most)
    }

    /// `count` messages that have just arrived, the first one numbered `first`, have no room: they leave.
    pub fn turn_away(&mut self, first: Seq, count: u32) {
        match self.level_of(first) {
            Some(level) => self.in_level(level, |queue| queue.turn_away_line(first, count)),
            None => self.turn_away_line(first, count),
        }
    }

    fn turn_away_line(&mut self, first: Seq, count: u32) {
        self.close_tail();
        let last = first + Seq::from(count) - 1;
        // Duplicates among them have left already.
        let mut from = first;
        while let Some((live, to)) = self.live_within(from, last) {
            self.ready -= to - live + 1;
            self.ready_bytes -= self.body_bytes(live, to);
            self.depart(live, to, Reason::MaxLength);
            from = to + 1;
        }
    }

    /// The first messages among `first..=last` that are not done with, as far as they follow each other in one chunk.
    fn live_within(&self, first: Seq, last: Seq) -> Option<(Seq, Seq)> {
        let mut from = first;
        loop {
            let held = self.chunks.get(self.chunks.index_at_or_after(from))?;
            let Some((live, to)) = held.next_live(from.saturating_sub(held.first_seq) as u32) else {
                from = held.end_seq();
                continue;
            };
            let (live, to) = (held.first_seq + Seq::from(live), held.first_seq + Seq::from(to));
            return (live <= last).then(|| (live, to.min(last)));
        }
    }

    /// Drops messages from the head until the limits hold. While a consumer could take, ready ones neither count nor go.
    pub fn enforce_limits(&mut self) {
        let settings = &self.settings;
        if (settings.max_length.is_none() && settings.max_length_bytes.is_none())
            || settings.overflow != Overflow::DropHead
        {
            return;
        }
        let delayed_only = self.roster.any_active();
        let most = settings.max_length.unwrap_or(u64::MAX);
        let most_bytes = settings.max_length_bytes.unwrap_or(u64::MAX);
        loop {
            let (ready, ready_bytes) = if delayed_only { (0, 0) } else { (self.ready, self.ready_bytes) };
            let by_count = (self.delayed + ready).saturating_sub(most);
            let excess = (self.delayed_bytes + ready_bytes).saturating_sub(most_bytes);
            if by_count == 0 && (excess == 0 || !self.is_surveyed()) {
                return;
            }
            let dropped = match self.level_to_drop(delayed_only) {
                0 => self.drop_some(by_count, excess, delayed_only),
                level => self.in_level(level, |queue| queue.drop_some(by_count, excess, delayed_only)),
            };
            if !dropped {
                return;
            }
        }
    }

    /// Drops some of the messages that are first in line, `by_count` or what has `excess` bytes of bodies; false when
    /// there is none.
    fn drop_some(&mut self, by_count: u64, excess: u64, delayed_only: bool) -> bool {
        let head = if delayed_only { self.delayed_head() } else { self.head() };
        let Some((first, last)) = head else { return false };
        let by_bytes = if excess > 0 { self.messages_of_bytes(first, excess) } else { 0 };
        let count = by_count.max(by_bytes).clamp(1, last - first + 1);
        self.drop_head(first, count);
        true
    }

    /// How many messages from `first` on have `bytes` of bodies.
    fn messages_of_bytes(&self, first: Seq, bytes: u64) -> u64 {
        let held = self.chunks.get(self.chunks.index_at_or_after(first));
        let Some((held, details)) = held.and_then(|held| Some((held, held.details.as_ref()?))) else {
            return 0;
        };
        u64::from(details.messages_of((first - held.first_seq) as u32, bytes))
    }

    /// The first delayed messages, as far as they follow each other within one chunk.
    fn delayed_head(&self) -> Option<(Seq, Seq)> {
        let range = self.delays.as_ref()?.first()?;
        self.within_chunk(range.first, range.last)
    }

    /// As much of `first..=last` as is in one chunk.
    fn within_chunk(&self, first: Seq, last: Seq) -> Option<(Seq, Seq)> {
        let held = self.chunks.get(self.chunks.index_at_or_after(first))?;
        Some((first, last.min(held.end_seq() - 1)))
    }

    /// The ready messages that would be handed out next, or the delayed ones before them, as far as they follow each other
    /// within one chunk.
    fn head(&mut self) -> Option<(Seq, Seq)> {
        let (returned, delayed) = (self.returned.first(), self.delayed_head());
        if let Some((first, last)) = returned.filter(|returned| delayed.is_none_or(|d| returned.0 < d.0)) {
            return self.within_chunk(first, last);
        }
        if delayed.is_some() {
            return delayed;
        }
        loop {
            let index = self.chunks.index_at_or_after(self.cursor);
            if index == self.chunks.len() {
                self.close_tail();
            }
            let held = self.chunks.get(index)?;
            let from = self.cursor.saturating_sub(held.first_seq) as u32;
            match held.next_live(from) {
                Some((first, last)) => {
                    return Some((held.first_seq + Seq::from(first), held.first_seq + Seq::from(last)));
                }
                None => self.cursor = held.end_seq(),
            }
        }
    }

    /// Drops `count` messages from `first` on, which is where [`Self::head`] says.
    fn drop_head(&mut self, first: Seq, count: u64) {
        let last = first + count - 1;
        if first >= self.cursor {
            self.cursor = last + 1;
            self.cursor_place = None;
        }
        self.wait_no_more(first, last);
        self.depart(first, last, Reason::MaxLength);
    }
}
