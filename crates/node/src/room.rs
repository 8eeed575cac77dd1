//! Room in queues that refuse what is too much: who waits until there is some, and what is kept for messages that are
//! about to come.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use posthouse_model::ids::QueueId;
use posthouse_queue::machine::limits::Room;

use crate::dead_letters::Waker;
use crate::queue_handle::{Machine, QueueHandle, QueueState};
use crate::schedule::Schedule;
use crate::vhost::VirtualHost;

/// Who moves messages to a queue once it has room for them.
#[derive(Clone, Debug)]
pub(crate) enum Mover {
    /// The thread for dead letters, those of this queue.
    DeadLetters(Waker, Weak<QueueHandle>),
    /// The thread for schedules, what waits in this one.
    Schedule(Weak<Schedule>),
}

/// That somebody waits for room in a queue. It is told once.
#[derive(Debug)]
pub(crate) struct Awaits {
    mover: Mover,
    /// The queue.
    queue: QueueId,
    /// The body of the message that is to come first; 0 where that is not known.
    body_bytes: u64,
}

impl Mover {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::DeadLetters(_, one), Self::DeadLetters(_, other)) => one.ptr_eq(other),
            (Self::Schedule(one), Self::Schedule(other)) => one.ptr_eq(other),
            _ => false,
        }
    }

    fn is_gone(&self) -> bool {
        match self {
            Self::DeadLetters(_, source) => source.strong_count() == 0,
            Self::Schedule(schedule) => schedule.strong_count() == 0,
        }
    }

    fn tell(&self, queue: QueueId) {
        match self {
            Self::DeadLetters(waker, source) => {
                if let Some(source) = source.upgrade() {
                    waker.has_room(source, queue);
                }
            }
            Self::Schedule(schedule) => {
                if let Some(schedule) = schedule.upgrade() {
                    schedule.has_room(queue);
                }
            }
        }
    }
}

/// Has a mover told when a queue has room for a message with so large a body, or is gone: at once if that is so now.
pub(crate) fn await_room(vhost: &VirtualHost, queue: QueueId, body_bytes: u64, mover: &Mover) {
    let Some(target) = vhost.queue_by_id(queue) else { return mover.tell(queue) };
    let mut state = target.lock();
    state.awaiting_room.retain(|awaits| !awaits.mover.is(mover) && !awaits.mover.is_gone());
    state.awaiting_room.push(Awaits { mover: mover.clone(), queue, body_bytes });
    // When the lock is released it is seen whether there is room.
}

/// Called when a queue's lock is about to be released and somebody waits for room in it.
pub(crate) fn tell_of_room(state: &mut QueueState) {
    let QueueState { machine, awaiting_room, deleted, .. } = state;
    let room = if *deleted { Room::UNLIMITED } else { machine.room() };
    awaiting_room.retain(|awaits| {
        // What will never have room, because the limit was lowered, waits for nothing.
        let is_over = room.has_place_for(awaits.body_bytes) || machine.is_too_small_for(awaits.body_bytes);
        if is_over {
            awaits.mover.tell(awaits.queue);
        }
        !is_over
    });
}

/// Room that is kept in queues, until it is used or this goes.
#[derive(Debug, Default)]
pub(crate) struct Reservations(BTreeMap<QueueId, (Arc<QueueHandle>, Room)>);

impl Reservations {
    /// Keeps room in a locked queue.
    pub(crate) fn keep(&mut self, queue: &Arc<QueueHandle>, machine: &mut Machine, room: Room) {
        machine.reserve(room);
        let (_, kept) = self.0.entry(queue.id).or_insert_with(|| (queue.clone(), Room::default()));
        kept.messages += room.messages;
        kept.bytes += room.bytes;
    }

    /// Whether room is kept in a queue.
    pub(crate) fn has(&self, queue: QueueId) -> bool {
        self.0.contains_key(&queue)
    }

    /// Some of what is kept in a locked queue is used, or not needed.
    pub(crate) fn end(&mut self, queue: QueueId, machine: &mut Machine, room: Room) {
        if let Some((_, kept)) = self.0.get_mut(&queue) {
            // Less is kept for messages that came when the queue did not refuse.
            let (messages, bytes) = (room.messages.min(kept.messages), room.bytes.min(kept.bytes));
            let room = Room { messages, bytes };
            machine.end_reservation(room);
            kept.messages -= room.messages;
            kept.bytes -= room.bytes;
        }
    }
}

impl Drop for Reservations {
    fn drop(&mut self) {
        for (queue, room) in std::mem::take(&mut self.0).into_values() {
            if room != Room::default() {
                queue.lock().machine.end_reservation(room);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use posthouse_model::queue_settings::{Overflow, QueueSettings};

    use super::*;
    use crate::declare::QueueDeclaration;
    use crate::start::Keep;
    use crate::start::testing::{PLENTY_BYTES, broker};

    #[test]
    fn nobody_waits_for_room_that_will_never_be() {
        let broker = broker(Keep::InMemory, PLENTY_BYTES);
        let vhost = broker.vhost("/").unwrap();
        let declaration = QueueDeclaration { name: "q".into(), ..QueueDeclaration::default() };
        let queue = broker.declare_queue(&vhost, declaration, 0).unwrap().queue;
        let limit = |messages, bytes| {
            let (max_length, max_length_bytes) = (Some(messages), Some(bytes));
            let overflow = Overflow::RejectPublish;
            let settings =
                QueueSettings { max_length, max_length_bytes, overflow, ..QueueSettings::default() };
            queue.lock().machine.set_settings(settings);
        };
        let waiting = || queue.lock().awaiting_room.len();
        limit(0, 10);
        let schedule = broker.schedule_of(&vhost).unwrap();
        await_room(&vhost, queue.id, 10, &Mover::Schedule(Arc::downgrade(&schedule)));
        assert_eq!(waiting(), 1);
        limit(0, 9);
        assert_eq!(waiting(), 0);
        // Nor does who is gone.
        for _ in 0..3 {
            await_room(&vhost, queue.id, 0, &Mover::Schedule(Weak::new()));
        }
        await_room(&vhost, queue.id, 0, &Mover::Schedule(Arc::downgrade(&schedule)));
        assert_eq!(waiting(), 1);
    }
}
