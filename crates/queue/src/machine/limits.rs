//! Length limits: which messages have no room in a queue, and which ones make room.
//!
//! Ready messages count, by number and by bytes of their bodies. A queue over its limit drops from the head, except
//! while a consumer is about to take: what a waiting consumer has credit for never counted in RabbitMQ either. Where
//! it refuses instead, it does so message by message and exactly at the limit.

use posthouse_model::chunk::Records;
use posthouse_model::ids::Seq;
use posthouse_model::queue_settings::Overflow;

use super::Queue;
use super::departures::Reason;

impl<L: Copy, W: Clone> Queue<L, W> {
    /// Appends to `refused` the positions within `records` (`count` of them) of the messages that a queue which
    /// refuses has no room for, each judged as if it arrived alone. Nothing for queues that do not refuse.
    pub fn refuse(&self, records: &[u8], count: u32, refused: &mut Vec<u32>) {
        if !self.settings.refuses() {
            return;
        }
        let most = self.settings.max_length.unwrap_or(u64::MAX);
        let most_bytes = self.settings.max_length_bytes.unwrap_or(u64::MAX);
        let (mut ready, mut bytes) = self.room_taken();
        let all_fit = ready + u64::from(count) <= most
            // Bodies are a part of the records.
            && bytes.saturating_add(records.len() as u64) <= most_bytes;
        if all_fit {
            return;
        }
        for (position, record) in (0..).zip(Records::new(records)) {
            let body = record.body().len() as u64;
            if ready < most && bytes + body <= most_bytes {
                ready += 1;
                bytes += body;
            } else {
                refused.push(position);
            }
        }
    }

    /// Messages that take room in a queue which refuses, and bytes of their bodies: those that are ready, and dead letters
    /// that stay for want of a place, which nothing else would keep from growing without end.
    fn room_taken(&self) -> (u64, u64) {
        let (letters, bytes) = match self.settings.keeps_dead_letters() {
            true => (self.leaving(), self.leaving_bytes()),
            false => self.stalled_or_tried(),
        };
        (self.ready + letters, self.ready_bytes + bytes)
    }

    /// Whether the queue would refuse any message now.
    pub fn is_full(&self) -> bool {
        let (messages, bytes) = self.room_taken();
        self.settings.refuses()
            && (self.settings.max_length.is_some_and(|most| messages >= most)
                // An empty body may still fit.
                || self.settings.max_length_bytes.is_some_and(|most| bytes > most))
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

    /// Drops messages from the head until the limits hold, unless a consumer could take them.
    pub fn enforce_limits(&mut self) {
        let settings = &self.settings;
        if (settings.max_length.is_none() && settings.max_length_bytes.is_none())
            || settings.overflow != Overflow::DropHead
            || self.roster.any_active()
        {
            return;
        }
        let most = settings.max_length.unwrap_or(u64::MAX);
        let most_bytes = settings.max_length_bytes.unwrap_or(u64::MAX);
        while self.ready > most || (self.ready_bytes > most_bytes && self.is_surveyed()) {
            let by_count = self.ready.saturating_sub(most);
            let excess = self.ready_bytes.saturating_sub(most_bytes);
            let dropped = match self.level_to_drop() {
                0 => self.drop_some(by_count, excess),
                level => self.in_level(level, |queue| queue.drop_some(by_count, excess)),
            };
            if !dropped {
                return;
            }
        }
    }

    /// Drops some of the messages that are next in line, `by_count` or what has `excess` bytes of bodies; false when
    /// there is none.
    fn drop_some(&mut self, by_count: u64, excess: u64) -> bool {
        let Some((first, last)) = self.head() else { return false };
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

    /// The ready messages that would be handed out next, as far as they follow each other within one chunk.
    fn head(&mut self) -> Option<(Seq, Seq)> {
        if let Some((first, last)) = self.returned.first() {
            let held = self.chunks.get(self.chunks.index_at_or_after(first))?;
            return Some((first, last.min(held.end_seq() - 1)));
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
        if self.returned.first().is_some_and(|(returned, _)| returned == first) {
            self.returned.drop_first(count);
        } else {
            self.cursor = last + 1;
            self.cursor_place = None;
        }
        self.ready -= count;
        self.ready_bytes -= self.body_bytes(first, last);
        self.depart(first, last, Reason::MaxLength);
    }
}
