//! The consumers of a connection, by slot.

use std::collections::VecDeque;
use std::sync::Arc;

use posthouse_amqp::deliver::DeliverPrefix;
use posthouse_model::field::FieldTable;
use posthouse_node::queue_handle::QueueHandle;
use posthouse_queue::machine::roster::ConsumerId;

use super::channel::Channel;
use super::unacked::Outstanding;

/// A consumer as its connection knows it.
#[derive(Debug)]
pub(crate) struct Consumer {
    /// Its identity at the queue.
    pub id: ConsumerId,
    /// Its channel.
    pub channel: u16,
    /// Its tag.
    pub tag: Arc<str>,
    /// Where its messages come from.
    pub queue: Arc<QueueHandle>,
    /// Deliveries are settled when they are sent.
    pub no_ack: bool,
    /// How many deliveries may be outstanding; 0 for any number.
    pub prefetch: u16,
    /// Milliseconds it has to acknowledge a delivery, where it says so itself.
    pub timeout_ms: Option<u64>,
    /// As the client sent them, to be shown.
    pub arguments: FieldTable,
    /// Its stream stores its offset.
    pub is_named: bool,
    /// Outstanding deliveries.
    pub unacked: u32,
    /// The constant part of its deliveries.
    pub prefix: DeliverPrefix,
    /// The queue was told that it cannot take.
    pub blocked: bool,
    listed: bool,
}

impl Consumer {
    /// A consumer that waits to be listed.
    pub(crate) fn new(
        id: ConsumerId,
        channel: u16,
        tag: Arc<str>,
        queue: Arc<QueueHandle>,
        no_ack: bool,
        prefetch: u16,
        arguments: FieldTable,
    ) -> Self {
        Self {
            id,
            channel,
            prefix: DeliverPrefix::new(channel, &tag),
            tag,
            queue,
            no_ack,
            prefetch,
            timeout_ms: None,
            arguments,
            is_named: false,
            unacked: 0,
            blocked: false,
            listed: false,
        }
    }

    /// How many more deliveries it may have.
    pub(crate) fn credit(&self) -> u32 {
        match self.prefetch {
            0 => u32::MAX,
            _ if self.no_ack => u32::MAX,
            prefetch => u32::from(prefetch).saturating_sub(self.unacked),
        }
    }
}

/// All consumers of a connection, and those whose queue may have messages for them.
#[derive(Debug, Default)]
pub(crate) struct Consumers {
    slots: Vec<Option<Box<Consumer>>>,
    free: Vec<u32>,
    ready: VecDeque<u32>,
}

impl Consumers {
    /// The slot that the next [`Self::insert`] will use.
    pub(crate) fn next_slot(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.slots.len() as u32)
    }

    /// Adds a consumer.
    pub(crate) fn insert(&mut self, consumer: Consumer) -> u32 {
        let slot = self.next_slot();
        if self.free.pop().is_some() {
            self.slots[slot as usize] = Some(Box::new(consumer));
        } else {
            self.slots.push(Some(Box::new(consumer)));
        }
        slot
    }

    /// Removes a consumer.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<Box<Consumer>> {
        let consumer = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        if consumer.listed {
            self.ready.retain(|&other| other != slot);
        }
        Some(consumer)
    }

    /// The consumer in a slot.
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Consumer> {
        self.slots.get_mut(slot as usize)?.as_deref_mut()
    }

    /// All consumers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Consumer> {
        self.slots.iter().flatten().map(|consumer| &**consumer)
    }

    /// Puts a consumer last in line to be served, unless it is in line.
    pub(crate) fn list(&mut self, slot: u32) {
        if let Some(consumer) = self.get_mut(slot)
            && !std::mem::replace(&mut consumer.listed, true)
        {
            self.ready.push_back(slot);
        }
    }

    /// Takes the first in line.
    pub(crate) fn next_ready(&mut self) -> Option<u32> {
        let slot = self.ready.pop_front()?;
        if let Some(consumer) = self.get_mut(slot) {
            consumer.listed = false;
        }
        Some(slot)
    }

    /// Everybody in line.
    pub(crate) fn in_line(&self) -> impl Iterator<Item = u32> + '_ {
        self.ready.iter().copied()
    }

    /// Whether anybody is in line.
    pub(crate) fn any_in_line(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes back the credit of settled or returned deliveries; the consumer is served again if it waited for it.
    pub(crate) fn credit_back_of(&mut self, channel: &mut Channel, run: &Outstanding) {
        let Some(slot) = run.consumer else { return };
        channel.consumer_unacked = channel.consumer_unacked.saturating_sub(run.count);
        let Some(consumer) = self.get_mut(slot) else { return };
        consumer.unacked = consumer.unacked.saturating_sub(run.count);
        if consumer.blocked {
            self.list(slot);
        }
    }
}
