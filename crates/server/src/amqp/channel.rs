//! The state of one channel.

use std::collections::HashMap;
use std::sync::Arc;

use posthouse_amqp::assembler::Assembler;
use posthouse_model::reply::ReplyError;

use super::confirms::Confirms;
use super::session::Failure;
use super::tx::Transaction;
use super::unacked::Unacked;

/// A message whose frames have not all come.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// The `basic.publish` method frame's payload.
    pub publish: Vec<u8>,
    /// The content header as it came, once it came.
    pub header: Vec<u8>,
    /// The body so far.
    pub body: Vec<u8>,
    /// Why the message is refused, once that is known; the rest of it is read and dropped.
    pub refused: Option<ReplyError>,
}

impl Incoming {
    /// Bytes of memory that were received for it.
    pub(crate) fn bytes(&self) -> usize {
        self.publish.len() + self.header.len() + self.body.len()
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Channel {
    /// Its number.
    pub number: u16,
    /// `channel.close` was sent: everything is dropped until `channel.close-ok`.
    pub is_closing: bool,
    /// What the next frame has to be.
    pub assembler: Assembler,
    /// The message being received.
    pub incoming: Option<Box<Incoming>>,
    /// Outstanding deliveries.
    pub unacked: Unacked,
    /// Outstanding deliveries of consumers, for the channel-wide prefetch.
    pub consumer_unacked: u32,
    /// Set in confirm mode.
    pub confirms: Option<Confirms>,
    /// Whether the session has it on its list of channels with confirms due.
    pub is_confirming: bool,
    /// Set in transactional mode.
    pub transaction: Option<Box<Transaction>>,
    /// Prefetch of consumers that are started later.
    pub prefetch: u16,
    /// Prefetch of all consumers together; 0 for any number.
    pub prefetch_global: u16,
    /// The queue that an empty name stands for.
    pub last_queue: Option<String>,
    /// The name of the queue behind `amq.rabbitmq.reply-to`, once consumed from.
    pub reply_queue: Option<String>,
    /// The slots of its consumers in the session, by tag.
    pub tags: HashMap<Arc<str>, u32>,
}

impl Channel {
    /// An open channel.
    pub(crate) fn open(number: u16) -> Self {
        Self {
            number,
            is_closing: false,
            assembler: Assembler::default(),
            incoming: None,
            unacked: Unacked::default(),
            consumer_unacked: 0,
            confirms: None,
            is_confirming: false,
            transaction: None,
            prefetch: 0,
            prefetch_global: 0,
            last_queue: None,
            reply_queue: None,
            tags: HashMap::new(),
        }
    }

    /// A channel that waits for `channel.close-ok`.
    pub(crate) fn closing(number: u16) -> Self {
        Self { is_closing: true, ..Self::open(number) }
    }

    /// How many more deliveries the channel-wide prefetch allows.
    pub(crate) fn credit(&self) -> u32 {
        match self.prefetch_global {
            0 => u32::MAX,
            limit => u32::from(limit).saturating_sub(self.consumer_unacked),
        }
    }

    /// How many consumers it has.
    pub(crate) fn consumers(&self) -> usize {
        self.tags.len()
    }

    /// The slots of its consumers, in order.
    pub(crate) fn slots(&self) -> Vec<u32> {
        let mut slots: Vec<u32> = self.tags.values().copied().collect();
        slots.sort_unstable();
        slots
    }

    /// The failure that a method frame is while content is awaited.
    pub(crate) fn unexpected_method(&mut self, payload: &[u8]) -> Option<Failure> {
        use posthouse_amqp::frame::{Frame, FrameKind};
        if self.is_closing || !self.assembler.in_content() {
            return None;
        }
        let frame = Frame { kind: FrameKind::Method, channel: self.number, payload };
        let error = self.assembler.step(&frame).err()?;
        Some(Failure { error: error.reply(), ids: error.ids() })
    }
}
