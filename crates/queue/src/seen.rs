//! Which values were seen within a window: what duplicates are found by after their first message is gone.
//!
//! A value is remembered from when a message with it came, for a time or for ever, and until so many others came that it
//! must make room. It is kept as a hash of 128 bits, with about 100 bytes of memory.
//!
//! A value goes through up to three states. While its message is *on its way*, nobody knows yet whether that will have a
//! place, so a duplicate cannot be answered either. When it has one, the value is *here*; and where the log keeps the
//! message, the value is *logged*: the log has it in one record with the message ([`SeenValues::log`]), and every checkpoint
//! has it, too ([`SeenValues::notes`]). A checkpoint has no value of which the log may still lose the message.

use std::collections::VecDeque;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use posthouse_model::exchange_args::SeenWindow;
use posthouse_model::ids::Lsn;

use crate::stream::notes::{KeptValue, Note};
use crate::topology::seen::Seen;

/// Values that are gone are cleared out of the order when there are more of them than of others, and so many.
const GONE_MAX: usize = 64;

/// Of a value that is remembered for ever.
const NEVER_MS: u64 = u64::MAX;

/// Values that a checkpoint has in one note.
const VALUES_PER_NOTE: usize = 4096;

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct SeenValues {
    by_value: HashMap<u128, Entry, RandomState>,
    /// The values in the order of their stamps; some may be gone, or have got another one.
    order: VecDeque<(u128, Stamp)>,
    next_stamp: Stamp,
    /// Stamps from which on values are logged at or after a position that the log may not have on disk yet, and the position
    /// after them; the oldest first. It is [`Lsn::MAX`] until it is known.
    unproven: VecDeque<(Stamp, Lsn)>,
}

/// Tells the times apart that one value came.
pub type Stamp = u64;

#[derive(Clone, Copy, Debug)]
struct Entry {
    until_ms: u64,
    stamp: Stamp,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    OnItsWay,
    Here,
    Logged,
}

impl SeenValues {
    /// A message comes: none when its value was seen and is remembered, else the stamp to say with what has become of it:
    /// [`Self::forget`], [`Self::arrived`] or [`Self::log`].
    pub fn enter(&mut self, message: Seen, window: SeenWindow, now_ms: u64) -> Option<Stamp> {
        if self.is_known(message.value, now_ms) {
            return None;
        }
        let ttl_ms = message.ttl_ms.or(window.ttl_ms);
        let until_ms = ttl_ms.map_or(NEVER_MS, |ttl_ms| now_ms.saturating_add(ttl_ms));
        let stamp = self.stamp(message.value);
        self.by_value.insert(message.value, Entry { until_ms, stamp, state: State::OnItsWay });
        self.make_room(window.size, now_ms);
        Some(stamp)
    }

    /// Whether a value was seen and is remembered.
    pub fn is_known(&self, value: u128, now_ms: u64) -> bool {
        self.by_value.get(&value).is_some_and(|entry| entry.until_ms > now_ms)
    }

    /// The stamp of the message that has a value, while it is not known whether that will have a place.
    pub fn on_its_way(&self, value: u128) -> Option<Stamp> {
        let entry = self.by_value.get(&value).filter(|entry| entry.state == State::OnItsWay)?;
        Some(entry.stamp)
    }

    /// The message that came with this stamp counts as not seen.
    pub fn forget(&mut self, value: u128, stamp: Stamp) {
        if self.entry(value, stamp).is_some() {
            self.by_value.remove(&value);
        }
    }

    /// The message that came with this stamp has a place.
    pub fn arrived(&mut self, value: u128, stamp: Stamp) {
        if let Some(entry) = self.entry(value, stamp) {
            entry.state = State::Here;
        }
    }

    /// The messages that came with these stamps have a place, and the log is about to get them: what it must be told of them
    /// in one record with them, if anything. Then [`Self::logged`] must follow.
    pub fn log(&mut self, arrived: impl IntoIterator<Item = (u128, Stamp)>) -> Option<Note> {
        let first = self.next_stamp;
        let mut kept = Vec::new();
        for (value, stamp) in arrived {
            if self.entry(value, stamp).is_none() {
                continue;
            }
            // As the log has them in order.
            let stamp = self.stamp(value);
            if let Some(entry) = self.by_value.get_mut(&value) {
                (entry.stamp, entry.state) = (stamp, State::Logged);
                kept.push(KeptValue { stamp, value, until_ms: entry.until_ms });
            }
        }
        if kept.is_empty() {
            return None;
        }
        self.unproven.push_back((first, Lsn::MAX));
        self.clear_order();
        Some(Note::new_values(&kept))
    }

    /// What [`Self::log`] said last is in the log up to `until`, and the log is on disk up to `durable`.
    pub fn logged(&mut self, until: Lsn, durable: Lsn) {
        for (_, last) in self.unproven.iter_mut().rev().take_while(|(_, last)| *last == Lsn::MAX) {
            *last = until;
        }
        while self.unproven.pop_front_if(|(_, until)| *until <= durable).is_some() {}
    }

    /// What a checkpoint must remember when the log is on disk up to `durable`.
    pub fn notes(&self, durable: Lsn, now_ms: u64) -> Vec<Note> {
        let unproven = self.unproven.iter().find(|(_, until)| *until > durable);
        let end = unproven.map_or(Stamp::MAX, |(first, _)| *first);
        let kept: Vec<KeptValue> = self
            .order
            .iter()
            .take_while(|(_, stamp)| *stamp < end)
            .filter_map(|&(value, stamp)| {
                let entry = self.by_value.get(&value).filter(|entry| entry.stamp == stamp)?;
                let is_kept = entry.state == State::Logged && entry.until_ms > now_ms;
                is_kept.then_some(KeptValue { stamp, value, until_ms: entry.until_ms })
            })
            .collect();
        kept.chunks(VALUES_PER_NOTE).map(Note::kept_values).collect()
    }

    /// Takes over what a start found in the log and in a checkpoint; how many notes have no form that is known. To be called
    /// before anything else.
    pub fn remember<'a>(
        &mut self,
        notes: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        window: SeenWindow,
        now_ms: u64,
    ) -> usize {
        let (mut kept, mut new, mut unknown) = (Vec::new(), Vec::new(), 0);
        for (key, value) in notes {
            match Note::read_values(key, value) {
                Some((true, values)) => new.extend(values),
                Some((false, values)) => kept.extend(values),
                None => unknown += 1,
            }
        }
        kept.sort_unstable_by_key(|value| value.stamp);
        // What the checkpoint does not have of what came before its last value had made room.
        let from = kept.last().map_or(0, |last| last.stamp + 1);
        new.retain(|value| value.stamp >= from);
        new.sort_unstable_by_key(|value| value.stamp);
        for KeptValue { stamp, value, until_ms } in kept.into_iter().chain(new) {
            self.by_value.insert(value, Entry { until_ms, stamp, state: State::Logged });
            self.order.push_back((value, stamp));
            self.next_stamp = stamp + 1;
            self.make_room(window.size, now_ms);
        }
        unknown
    }

    /// Lets the oldest values go of which there are more than `size`, after a start that did not know how many there may be.
    pub fn limit(&mut self, size: usize) {
        self.make_room(size, 0);
    }

    /// How many values are remembered.
    pub fn len(&self) -> usize {
        self.by_value.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.by_value.is_empty()
    }

    /// Bytes of memory they take.
    pub fn memory_bytes(&self) -> usize {
        self.by_value.capacity() * (size_of::<(u128, Entry)>() + 1)
            + self.order.capacity() * size_of::<(u128, Stamp)>()
            + self.unproven.capacity() * size_of::<(Stamp, Lsn)>()
    }

    fn entry(&mut self, value: u128, stamp: Stamp) -> Option<&mut Entry> {
        self.by_value.get_mut(&value).filter(|entry| entry.stamp == stamp)
    }

    /// The next stamp, for this value.
    fn stamp(&mut self, value: u128) -> Stamp {
        let stamp = self.next_stamp;
        self.next_stamp += 1;
        self.order.push_back((value, stamp));
        stamp
    }

    /// Lets the oldest values go whose time is over, or of which there are more than `size`.
    fn make_room(&mut self, size: usize, now_ms: u64) {
        while let Some(&(value, stamp)) = self.order.front() {
            let current = self.by_value.get(&value).filter(|entry| entry.stamp == stamp);
            if current.is_some_and(|entry| entry.until_ms > now_ms && self.by_value.len() <= size) {
                break;
            }
            if current.is_some() {
                self.by_value.remove(&value);
            }
            self.order.pop_front();
        }
        self.clear_order();
    }

    fn clear_order(&mut self) {
        if self.order.len() > GONE_MAX + 2 * self.by_value.len() {
            // One that stays would keep all that are gone.
            let by_value = &self.by_value;
            self.order
                .retain(|(value, stamp)| by_value.get(value).is_some_and(|entry| entry.stamp == *stamp));
        }
    }
}

#[cfg(test)]
mod tests;
