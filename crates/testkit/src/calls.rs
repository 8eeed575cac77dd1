//! What a client does, with the answer expected when all is well.

use std::time::Instant;

use posthouse_amqp::content::write_content;
use posthouse_amqp::method::{Method, write_method};
use posthouse_model::field::FieldTable;
use posthouse_model::props::Properties;

use crate::content::Received;
use crate::peer::Peer;
use crate::{TIMEOUT, expect_method};

/// A queue declaration: everything off unless said otherwise.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the specification's names")]
pub struct Queue<'a> {
    pub queue: &'a str,
    pub passive: bool,
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    pub nowait: bool,
    pub arguments: FieldTable,
}

impl<'a> Queue<'a> {
    /// Neither durable nor exclusive.
    pub fn named(queue: &'a str) -> Self {
        Self { queue, ..Self::default() }
    }

    /// Durable.
    pub fn durable(queue: &'a str) -> Self {
        Self { queue, durable: true, ..Self::default() }
    }

    /// Gone with its connection.
    pub fn exclusive(queue: &'a str) -> Self {
        Self { queue, exclusive: true, ..Self::default() }
    }

    /// Only looks whether it is there.
    pub fn passive(queue: &'a str) -> Self {
        Self { queue, passive: true, ..Self::default() }
    }

    /// As a method.
    pub fn method(&self) -> Method<'a> {
        let Self { queue, passive, durable, exclusive, auto_delete, nowait, .. } = *self;
        let arguments = self.arguments.clone();
        Method::QueueDeclare { queue, passive, durable, exclusive, auto_delete, nowait, arguments }
    }
}

/// An exchange declaration: everything off unless said otherwise.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the specification's names")]
pub struct Exchange<'a> {
    pub exchange: &'a str,
    pub exchange_type: &'a str,
    pub passive: bool,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub nowait: bool,
    pub arguments: FieldTable,
}

impl<'a> Exchange<'a> {
    /// Of that type, not durable.
    pub fn named(exchange: &'a str, exchange_type: &'a str) -> Self {
        Self { exchange, exchange_type, ..Self::default() }
    }

    /// As a method.
    pub fn method(&self) -> Method<'a> {
        let Self { exchange, exchange_type, passive, durable, auto_delete, internal, nowait, .. } = *self;
        let arguments = self.arguments.clone();
        Method::ExchangeDeclare {
            exchange,
            exchange_type,
            passive,
            durable,
            auto_delete,
            internal,
            nowait,
            arguments,
        }
    }
}

/// A consumer: with acknowledgements, everything off unless said otherwise.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the specification's names")]
pub struct Consume<'a> {
    pub queue: &'a str,
    pub consumer_tag: &'a str,
    pub no_ack: bool,
    pub exclusive: bool,
    pub nowait: bool,
    pub arguments: FieldTable,
}

impl<'a> Consume<'a> {
    /// With acknowledgements.
    pub fn from(queue: &'a str) -> Self {
        Self { queue, ..Self::default() }
    }

    /// Without acknowledgements.
    pub fn no_ack(queue: &'a str) -> Self {
        Self { queue, no_ack: true, ..Self::default() }
    }

    /// As a method.
    pub fn method(&self) -> Method<'a> {
        let Self { queue, consumer_tag, no_ack, exclusive, nowait, .. } = *self;
        let arguments = self.arguments.clone();
        Method::BasicConsume { queue, consumer_tag, no_local: false, no_ack, exclusive, nowait, arguments }
    }
}

/// A message to publish: no properties and an empty body unless said otherwise.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the specification's names")]
pub struct Publish<'a> {
    pub exchange: &'a str,
    pub routing_key: &'a str,
    pub mandatory: bool,
    pub immediate: bool,
    pub properties: Properties,
    pub body: &'a [u8],
}

impl<'a> Publish<'a> {
    /// To that exchange with that routing key.
    pub fn to(exchange: &'a str, routing_key: &'a str) -> Self {
        Self { exchange, routing_key, ..Self::default() }
    }

    /// The method.
    pub fn method(&self) -> Method<'a> {
        let Self { exchange, routing_key, mandatory, immediate, .. } = *self;
        Method::BasicPublish { exchange, routing_key, mandatory, immediate }
    }

    /// Method, header and body as frames of at most `frame_max` bytes.
    pub fn write(&self, channel: u16, frame_max: u32, out: &mut Vec<u8>) {
        let mut header = Vec::new();
        self.properties.encode(self.body.len() as u64, &mut header);
        write_method(out, channel, &self.method());
        write_content(out, channel, &header, self.body, frame_max);
    }
}

/// A persistent message's properties.
pub fn persistent() -> Properties {
    Properties { delivery_mode: Some(2), ..Properties::default() }
}

impl Peer {
    /// Opens a channel.
    #[track_caller]
    pub fn open_channel(&mut self, channel: u16) {
        self.send(channel, &Method::ChannelOpen {});
        expect_method!(self, channel, Method::ChannelOpenOk {});
    }

    /// Closes a channel.
    #[track_caller]
    pub fn close_channel(&mut self, channel: u16) {
        let close = Method::ChannelClose { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 };
        self.send(channel, &close);
        loop {
            let frame = self.frame(channel);
            if matches!(Method::decode(&frame.payload), Ok(Method::ChannelCloseOk {})) {
                return;
            }
        }
    }

    /// Closes the connection and waits for the close-ok.
    #[track_caller]
    pub fn close(mut self) {
        let close = Method::ConnectionClose { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 };
        self.send(0, &close);
        expect_method!(self, 0, Method::ConnectionCloseOk {});
    }

    /// Declares a queue: its name, ready messages and consumers.
    #[track_caller]
    pub fn declare(&mut self, channel: u16, queue: &Queue<'_>) -> (String, u32, u32) {
        self.send(channel, &queue.method());
        expect_method!(self, channel, Method::QueueDeclareOk { queue, message_count, consumer_count } => {
            (queue.to_owned(), message_count, consumer_count)
        })
    }

    /// An exclusive queue that the broker names.
    #[track_caller]
    pub fn server_named(&mut self, channel: u16) -> String {
        self.declare(channel, &Queue::exclusive("")).0
    }

    /// Deletes a queue: the ready messages it had.
    #[track_caller]
    pub fn delete(&mut self, channel: u16, queue: &str) -> u32 {
        let delete = Method::QueueDelete { queue, if_unused: false, if_empty: false, nowait: false };
        self.send(channel, &delete);
        expect_method!(self, channel, Method::QueueDeleteOk { message_count } => message_count)
    }

    /// A queue's ready messages and consumers.
    #[track_caller]
    pub fn counts(&mut self, channel: u16, queue: &str) -> (u32, u32) {
        let (_, messages, consumers) = self.declare(channel, &Queue::passive(queue));
        (messages, consumers)
    }

    /// Asks until a queue has these counts, for what another connection does.
    #[track_caller]
    pub fn await_counts(&mut self, channel: u16, queue: &str, expected: (u32, u32)) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let counts = self.counts(channel, queue);
            if counts == expected {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "expected {expected:?} messages and consumers, got {counts:?}"
            );
        }
    }

    /// Declares an exchange.
    #[track_caller]
    pub fn declare_exchange(&mut self, channel: u16, exchange: &Exchange<'_>) {
        self.send(channel, &exchange.method());
        expect_method!(self, channel, Method::ExchangeDeclareOk {});
    }

    /// Binds a queue.
    #[track_caller]
    pub fn bind(&mut self, channel: u16, queue: &str, exchange: &str, routing_key: &str) {
        self.bind_with(channel, queue, exchange, routing_key, FieldTable::default());
    }

    /// Binds a queue with arguments.
    #[track_caller]
    pub fn bind_with(&mut self, channel: u16, queue: &str, exchange: &str, key: &str, arguments: FieldTable) {
        let bind = Method::QueueBind { queue, exchange, routing_key: key, nowait: false, arguments };
        self.send(channel, &bind);
        expect_method!(self, channel, Method::QueueBindOk {});
    }

    /// Unbinds a queue.
    #[track_caller]
    pub fn unbind(&mut self, channel: u16, queue: &str, exchange: &str, routing_key: &str) {
        let arguments = FieldTable::default();
        self.send(channel, &Method::QueueUnbind { queue, exchange, routing_key, arguments });
        expect_method!(self, channel, Method::QueueUnbindOk {});
    }

    /// Binds the exchange `destination` to `source`.
    #[track_caller]
    pub fn bind_exchange(&mut self, channel: u16, destination: &str, source: &str, routing_key: &str) {
        let arguments = FieldTable::default();
        self.send(
            channel,
            &Method::ExchangeBind { destination, source, routing_key, nowait: false, arguments },
        );
        expect_method!(self, channel, Method::ExchangeBindOk {});
    }

    /// Publishes a text.
    #[track_caller]
    pub fn publish(&mut self, channel: u16, exchange: &str, routing_key: &str, body: &str) {
        self.publish_with(channel, &Publish { body: body.as_bytes(), ..Publish::to(exchange, routing_key) });
    }

    /// Publishes a message.
    #[track_caller]
    pub fn publish_with(&mut self, channel: u16, publish: &Publish<'_>) {
        let mut out = Vec::new();
        publish.write(channel, self.frame_max, &mut out);
        self.send_bytes(&out);
    }

    /// Turns confirms on.
    #[track_caller]
    pub fn select_confirms(&mut self, channel: u16) {
        self.send(channel, &Method::ConfirmSelect { nowait: false });
        expect_method!(self, channel, Method::ConfirmSelectOk {});
    }

    /// Takes one message from a queue, or `None` when it is empty.
    #[track_caller]
    pub fn get(&mut self, channel: u16, queue: &str, no_ack: bool) -> Option<Received> {
        let method = self.call(channel, &Method::BasicGet { queue, no_ack });
        match method.get() {
            Method::BasicGetEmpty {} => None,
            _ => Some(self.message_after(channel, &method)),
        }
    }

    /// Takes every message from a queue without acknowledgement: their texts.
    #[track_caller]
    pub fn drain(&mut self, channel: u16, queue: &str) -> Vec<String> {
        std::iter::from_fn(|| self.get(channel, queue, true)).map(|message| message.text()).collect()
    }

    /// Starts a consumer: its tag.
    #[track_caller]
    pub fn consume(&mut self, channel: u16, consume: &Consume<'_>) -> String {
        self.send(channel, &consume.method());
        expect_method!(self, channel, Method::BasicConsumeOk { consumer_tag } => consumer_tag.to_owned())
    }

    /// Ends a consumer. Deliveries under way are dropped.
    #[track_caller]
    pub fn cancel(&mut self, channel: u16, consumer_tag: &str) {
        self.send(channel, &Method::BasicCancel { consumer_tag, nowait: false });
        loop {
            let frame = self.frame(channel);
            if matches!(Method::decode(&frame.payload), Ok(Method::BasicCancelOk { .. })) {
                return;
            }
        }
    }

    /// Sets the prefetch limit.
    #[track_caller]
    pub fn prefetch(&mut self, channel: u16, prefetch_count: u16, global: bool) {
        self.send(channel, &Method::BasicQos { prefetch_size: 0, prefetch_count, global });
        expect_method!(self, channel, Method::BasicQosOk {});
    }

    /// Acknowledges one delivery.
    #[track_caller]
    pub fn ack(&mut self, channel: u16, delivery_tag: u64) {
        self.send(channel, &Method::BasicAck { delivery_tag, multiple: false });
    }

    /// Sends a method that the broker must refuse by closing the channel, and opens the channel again.
    #[track_caller]
    pub fn refused(&mut self, channel: u16, method: &Method<'_>, code: u16, text: &str) {
        self.send(channel, method);
        self.expect_channel_close(channel, code, text, method.ids());
        self.open_channel(channel);
    }
}
