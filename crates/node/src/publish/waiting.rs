//! Gathering messages that wait for a time: those of each slot of the schedule's wheel are gathered apart.

use std::sync::Arc;

use posthouse_model::ids::{QueueId, first_of_level};
use posthouse_model::record::{self, FLAG_PERSISTENT};
use posthouse_model::reply::ReplyError;
use posthouse_queue::machine::times::NEVER_MS;
use posthouse_queue::schedule::wheel::{self, Place};

use super::{BATCH_BYTES_MAX, Publisher, Slot, SlotId};
use crate::schedule::{Schedule, route_with_id};
use crate::vhost::VirtualHost;

/// Which messages of a schedule are gathered.
#[derive(Debug)]
pub(super) struct Waits {
    schedule: Arc<Schedule>,
    /// When the first slot begins that they are for; [`NEVER_MS`] while none is gathered.
    start_ms: u64,
    /// How many may wait in all; none for any number.
    most: Option<u64>,
}

impl Waits {
    /// Appends to `refused` the positions of those of `count` messages for which there is no room among the `waiting`.
    pub(super) fn refuse(&self, waiting: u64, count: u32, refused: &mut Vec<u32>) {
        let room = self.most.map_or(u64::MAX, |most| most.saturating_sub(waiting));
        refused.extend(u32::try_from(room).unwrap_or(u32::MAX).min(count)..count);
    }
}

/// When a message is to be delivered, and what is stored with it that its publisher did not send.
#[derive(Clone, Copy, Debug)]
pub struct Later<'a> {
    /// When it is due, in milliseconds since the Unix epoch.
    pub due_ms: u64,
    /// Whether it must survive a restart until then.
    pub persistent: bool,
    /// The keys of its `BCC` header, as short strings.
    pub hidden_keys: &'a [u8],
}

impl Publisher {
    /// Gathers one message that waits; in which slot. `header` and `body` are taken as they came.
    ///
    /// # Errors
    /// 320 when the virtual host is deleted.
    pub fn append_later(
        &mut self,
        vhost: &VirtualHost,
        later: Later<'_>,
        route: &[u8],
        header: &[u8],
        body: &[u8],
    ) -> Result<SlotId, ReplyError> {
        let schedule = match &self.schedule {
            Some(schedule) => schedule.clone(),
            None => self.schedule.insert(self.broker.schedule_of(vhost)?).clone(),
        };
        let Place { level, start_ms } = wheel::place(self.received_ms, later.due_ms);
        let id = self.schedule_slot(vhost, &schedule, level);
        let route = route_with_id(route, schedule.next_id(self.received_ms), later.hidden_keys);
        let Some(slot) = self.slots.get(id as usize) else { return Ok(id) };
        let record = record::FIXED_BYTES + route.len() + header.len() + body.len();
        let full = slot.builder.bytes().len() + record > BATCH_BYTES_MAX;
        let flips = slot.persistent != later.persistent;
        if slot.builder.is_empty() || full || flips {
            self.prepare(id, later.persistent, full || flips);
        }
        let stamp = record::stamp(later.due_ms, self.user);
        let slot = &mut self.slots[id as usize];
        let flags = if later.persistent { FLAG_PERSISTENT } else { 0 };
        slot.builder.push(flags, stamp, &route, header, body.len(), body);
        if let Some(waits) = &mut slot.waits {
            waits.start_ms = start_ms.min(waits.start_ms);
        }
        Ok(id)
    }

    /// Whether a queue of a target set keeps messages that are not persistent as if they were.
    pub fn keeps_all(&self, id: SlotId) -> bool {
        self.slots.get(id as usize).is_some_and(Slot::keeps_all)
    }

    /// The slot for a level of the schedule. A virtual host's limits are those that it had when the slot was made: they
    /// change with its epoch.
    fn schedule_slot(&mut self, vhost: &VirtualHost, schedule: &Arc<Schedule>, level: u8) -> SlotId {
        // As the log knows the level.
        let known_as: QueueId = schedule.queue().id.with_level_of(first_of_level(level));
        if let Some(&slot) = self.slot_by_queues.get(&[known_as][..]) {
            return slot;
        }
        let target = self.target_known_as(known_as, schedule.queue().clone());
        let most = vhost.max_scheduled_messages();
        let waits = Waits { schedule: schedule.clone(), start_ms: NEVER_MS, most };
        let slot = self.add_slot(&[known_as], [target].into_iter().collect(), level, Some(waits));
        self.slots[slot as usize].tracked = most.is_some();
        slot
    }

    /// Says that messages have entered slots of the schedule. Called without a lock.
    pub(super) fn tell_schedule(&mut self, ids: &[SlotId]) {
        if self.schedule.is_none() {
            return;
        }
        for &id in ids {
            let slot = &mut self.slots[id as usize];
            let level = slot.level;
            if let Some(waits) = slot.waits.as_mut().filter(|waits| waits.start_ms != NEVER_MS) {
                let start_ms = std::mem::replace(&mut waits.start_ms, NEVER_MS);
                waits.schedule.arrived(Place { level, start_ms });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start::{Keep, testing};

    #[test]
    fn messages_beyond_the_limit_are_refused() {
        let broker = testing::broker(Keep::InMemory, testing::PLENTY_BYTES);
        let vhost = broker.vhost("/").unwrap();
        let schedule = broker.schedule_of(&vhost).unwrap();
        let refused = |most, waiting, count| {
            let waits = Waits { schedule: schedule.clone(), start_ms: NEVER_MS, most };
            let mut refused = Vec::new();
            waits.refuse(waiting, count, &mut refused);
            refused
        };
        assert!(refused(None, u64::MAX, 3).is_empty());
        assert!(refused(Some(10), 7, 3).is_empty());
        assert_eq!(refused(Some(10), 8, 3), [2]);
        assert_eq!(refused(Some(10), 10, 2), [0, 1]);
        // It was lowered.
        assert_eq!(refused(Some(10), 50, 1), [0]);
        assert_eq!(refused(Some(0), 0, 1), [0]);
    }
}
