//! Every method of AMQP 0-9-1 and RabbitMQ's extensions: one table, from which decoding, encoding, ids and names come.
//!
//! ```text
//! method frame's payload = class id u16 | method id u16 | fields (see `wire`)
//! ```
//!
//! Text is borrowed from the payload. Reserved fields (tickets, `out-of-band`, `insist` and the like) are read, not
//! kept, and written as zero or empty. Knows nothing of channels, states or permissions.

use std::fmt;

use posthouse_model::field::FieldTable;
use posthouse_model::reply::{ReplyCode, ReplyError};

use crate::frame::{self, FrameKind};
use crate::octets::Octets;
use crate::wire::{Reader, Wire, WireError, Writer};

/// Why a method frame's payload is not a method.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// Fields cut short, malformed, or followed by more bytes.
    Malformed {
        /// Class id; 0 when not even the ids are there.
        class: u16,
        /// Method id.
        method: u16,
        /// The fields' first octets.
        fields: Octets,
    },
    /// A short string is not UTF-8.
    BadUtf8,
    /// No method has these ids.
    Unknown {
        /// Class id.
        class: u16,
        /// Method id.
        method: u16,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { fields, .. } => write!(f, "cannot decode {fields}"),
            Self::BadUtf8 => f.write_str("Malformed UTF-8 in shortstr"),
            Self::Unknown { class, method } => write!(f, "unknown method {class}.{method}"),
        }
    }
}

impl std::error::Error for DecodeError {}

impl DecodeError {
    /// What the client is told. RabbitMQ resets the connection after an unknown method; we say 540 first.
    pub fn reply(&self) -> ReplyError {
        let code = match self {
            Self::Malformed { .. } | Self::BadUtf8 => ReplyCode::FrameError,
            Self::Unknown { .. } => ReplyCode::NotImplemented,
        };
        ReplyError::new(code, self.to_string())
    }

    /// The class and method ids to close with. RabbitMQ gives none for text that is not UTF-8.
    pub fn ids(&self) -> (u16, u16) {
        match *self {
            Self::Malformed { class, method, .. } | Self::Unknown { class, method } => (class, method),
            Self::BadUtf8 => (0, 0),
        }
    }
}

/// Makes the enum and everything that goes by the table. A row is
/// `Variant(class, method, "name") [reserved fields before] { fields } [reserved fields after]`.
macro_rules! methods {
    ($(
        $variant:ident($class:literal, $method:literal, $name:literal)
        [$($before:ty),*] { $($field:ident: $kind:ty),* } [$($after:ty),*];
    )*) => {
        /// A method with its fields, named as in the specification.
        #[derive(Clone, PartialEq, Debug)]
        #[expect(missing_docs, reason = "the specification's names, in wire order")]
        pub enum Method<'a> {
            $($variant { $($field: $kind),* },)*
        }

        impl<'a> Method<'a> {
            /// Reads a method frame's payload.
            pub fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
                let malformed = || DecodeError::Malformed { class: 0, method: 0, fields: Octets::new(payload) };
                let (ids, fields) = payload.split_first_chunk::<4>().ok_or_else(malformed)?;
                let class = u16::from_be_bytes([ids[0], ids[1]]);
                let method = u16::from_be_bytes([ids[2], ids[3]]);
                let mut from = Reader::new(fields);
                match Self::read_fields(class, method, &mut from) {
                    Ok(Some(method)) if from.is_at_end() => Ok(method),
                    Ok(None) => Err(DecodeError::Unknown { class, method }),
                    Err(WireError::BadUtf8) => Err(DecodeError::BadUtf8),
                    Ok(Some(_)) | Err(WireError::Truncated | WireError::Table(_)) => {
                        Err(DecodeError::Malformed { class, method, fields: Octets::new(fields) })
                    }
                }
            }

            fn read_fields(class: u16, method: u16, from: &mut Reader<'a>) -> Result<Option<Self>, WireError> {
                Ok(Some(match (class, method) {
                    $(($class, $method) => {
                        $(<$before as Wire<'a>>::read(from)?;)*
                        $(let $field = <$kind as Wire<'a>>::read(from)?;)*
                        $(<$after as Wire<'a>>::read(from)?;)*
                        Self::$variant { $($field),* }
                    })*
                    _ => return Ok(None),
                }))
            }

            /// Appends the payload of its method frame. A text of more than 255 bytes is cut.
            pub fn encode_into(&self, out: &mut Vec<u8>) {
                let (class, method) = self.ids();
                out.extend_from_slice(&class.to_be_bytes());
                out.extend_from_slice(&method.to_be_bytes());
                let to = &mut Writer::new(out);
                match self {
                    $(Self::$variant { $($field),* } => {
                        $(<$before>::default().write(to);)*
                        $($field.write(to);)*
                        $(<$after>::default().write(to);)*
                    })*
                }
            }

            /// Class id and method id.
            #[inline]
            pub fn ids(&self) -> (u16, u16) {
                match self {
                    $(Self::$variant { .. } => ($class, $method),)*
                }
            }

            /// The specification's name, such as `queue.declare`.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $name,)*
                }
            }
        }

        /// All methods: class id, method id, name.
        pub const ALL: &[(u16, u16, &str)] = &[$(($class, $method, $name)),*];
    };
}

methods! {
    ConnectionStart(10, 10, "connection.start") [] {
        version_major: u8, version_minor: u8, server_properties: FieldTable, mechanisms: &'a [u8], locales: &'a [u8]
    } [];
    ConnectionStartOk(10, 11, "connection.start-ok") [] {
        client_properties: FieldTable, mechanism: &'a str, response: &'a [u8], locale: &'a str
    } [];
    ConnectionSecure(10, 20, "connection.secure") [] { challenge: &'a [u8] } [];
    ConnectionSecureOk(10, 21, "connection.secure-ok") [] { response: &'a [u8] } [];
    ConnectionTune(10, 30, "connection.tune") [] { channel_max: u16, frame_max: u32, heartbeat: u16 } [];
    ConnectionTuneOk(10, 31, "connection.tune-ok") [] { channel_max: u16, frame_max: u32, heartbeat: u16 } [];
    ConnectionOpen(10, 40, "connection.open") [] { vhost: &'a str } [&'a str, bool];
    ConnectionOpenOk(10, 41, "connection.open-ok") [] {} [&'a str];
    ConnectionClose(10, 50, "connection.close") [] {
        reply_code: u16, reply_text: &'a str, class_id: u16, method_id: u16
    } [];
    ConnectionCloseOk(10, 51, "connection.close-ok") [] {} [];
    ConnectionBlocked(10, 60, "connection.blocked") [] { reason: &'a str } [];
    ConnectionUnblocked(10, 61, "connection.unblocked") [] {} [];
    ConnectionUpdateSecret(10, 70, "connection.update-secret") [] { new_secret: &'a [u8], reason: &'a str } [];
    ConnectionUpdateSecretOk(10, 71, "connection.update-secret-ok") [] {} [];

    ChannelOpen(20, 10, "channel.open") [&'a str] {} [];
    ChannelOpenOk(20, 11, "channel.open-ok") [&'a [u8]] {} [];
    ChannelFlow(20, 20, "channel.flow") [] { active: bool } [];
    ChannelFlowOk(20, 21, "channel.flow-ok") [] { active: bool } [];
    ChannelClose(20, 40, "channel.close") [] {
        reply_code: u16, reply_text: &'a str, class_id: u16, method_id: u16
    } [];
    ChannelCloseOk(20, 41, "channel.close-ok") [] {} [];

    AccessRequest(30, 10, "access.request") [] {
        realm: &'a str, exclusive: bool, passive: bool, active: bool, write: bool, read: bool
    } [];
    AccessRequestOk(30, 11, "access.request-ok") [] { ticket: u16 } [];

    ExchangeDeclare(40, 10, "exchange.declare") [u16] {
        exchange: &'a str, exchange_type: &'a str, passive: bool, durable: bool, auto_delete: bool, internal: bool,
        nowait: bool, arguments: FieldTable
    } [];
    ExchangeDeclareOk(40, 11, "exchange.declare-ok") [] {} [];
    ExchangeDelete(40, 20, "exchange.delete") [u16] { exchange: &'a str, if_unused: bool, nowait: bool } [];
    ExchangeDeleteOk(40, 21, "exchange.delete-ok") [] {} [];
    ExchangeBind(40, 30, "exchange.bind") [u16] {
        destination: &'a str, source: &'a str, routing_key: &'a str, nowait: bool, arguments: FieldTable
    } [];
    ExchangeBindOk(40, 31, "exchange.bind-ok") [] {} [];
    ExchangeUnbind(40, 40, "exchange.unbind") [u16] {
        destination: &'a str, source: &'a str, routing_key: &'a str, nowait: bool, arguments: FieldTable
    } [];
    ExchangeUnbindOk(40, 51, "exchange.unbind-ok") [] {} [];

    QueueDeclare(50, 10, "queue.declare") [u16] {
        queue: &'a str, passive: bool, durable: bool, exclusive: bool, auto_delete: bool, nowait: bool,
        arguments: FieldTable
    } [];
    QueueDeclareOk(50, 11, "queue.declare-ok") [] { queue: &'a str, message_count: u32, consumer_count: u32 } [];
    QueueBind(50, 20, "queue.bind") [u16] {
        queue: &'a str, exchange: &'a str, routing_key: &'a str, nowait: bool, arguments: FieldTable
    } [];
    QueueBindOk(50, 21, "queue.bind-ok") [] {} [];
    QueuePurge(50, 30, "queue.purge") [u16] { queue: &'a str, nowait: bool } [];
    QueuePurgeOk(50, 31, "queue.purge-ok") [] { message_count: u32 } [];
    QueueDelete(50, 40, "queue.delete") [u16] {
        queue: &'a str, if_unused: bool, if_empty: bool, nowait: bool
    } [];
    QueueDeleteOk(50, 41, "queue.delete-ok") [] { message_count: u32 } [];
    QueueUnbind(50, 50, "queue.unbind") [u16] {
        queue: &'a str, exchange: &'a str, routing_key: &'a str, arguments: FieldTable
    } [];
    QueueUnbindOk(50, 51, "queue.unbind-ok") [] {} [];

    BasicQos(60, 10, "basic.qos") [] { prefetch_size: u32, prefetch_count: u16, global: bool } [];
    BasicQosOk(60, 11, "basic.qos-ok") [] {} [];
    BasicConsume(60, 20, "basic.consume") [u16] {
        queue: &'a str, consumer_tag: &'a str, no_local: bool, no_ack: bool, exclusive: bool, nowait: bool,
        arguments: FieldTable
    } [];
    BasicConsumeOk(60, 21, "basic.consume-ok") [] { consumer_tag: &'a str } [];
    BasicCancel(60, 30, "basic.cancel") [] { consumer_tag: &'a str, nowait: bool } [];
    BasicCancelOk(60, 31, "basic.cancel-ok") [] { consumer_tag: &'a str } [];
    BasicPublish(60, 40, "basic.publish") [u16] {
        exchange: &'a str, routing_key: &'a str, mandatory: bool, immediate: bool
    } [];
    BasicReturn(60, 50, "basic.return") [] {
        reply_code: u16, reply_text: &'a str, exchange: &'a str, routing_key: &'a str
    } [];
    BasicDeliver(60, 60, "basic.deliver") [] {
        consumer_tag: &'a str, delivery_tag: u64, redelivered: bool, exchange: &'a str, routing_key: &'a str
    } [];
    BasicGet(60, 70, "basic.get") [u16] { queue: &'a str, no_ack: bool } [];
    BasicGetOk(60, 71, "basic.get-ok") [] {
        delivery_tag: u64, redelivered: bool, exchange: &'a str, routing_key: &'a str, message_count: u32
    } [];
    BasicGetEmpty(60, 72, "basic.get-empty") [] {} [&'a str];
    BasicAck(60, 80, "basic.ack") [] { delivery_tag: u64, multiple: bool } [];
    BasicReject(60, 90, "basic.reject") [] { delivery_tag: u64, requeue: bool } [];
    BasicRecoverAsync(60, 100, "basic.recover-async") [] { requeue: bool } [];
    BasicRecover(60, 110, "basic.recover") [] { requeue: bool } [];
    BasicRecoverOk(60, 111, "basic.recover-ok") [] {} [];
    BasicNack(60, 120, "basic.nack") [] { delivery_tag: u64, multiple: bool, requeue: bool } [];

    ConfirmSelect(85, 10, "confirm.select") [] { nowait: bool } [];
    ConfirmSelectOk(85, 11, "confirm.select-ok") [] {} [];

    TxSelect(90, 10, "tx.select") [] {} [];
    TxSelectOk(90, 11, "tx.select-ok") [] {} [];
    TxCommit(90, 20, "tx.commit") [] {} [];
    TxCommitOk(90, 21, "tx.commit-ok") [] {} [];
    TxRollback(90, 30, "tx.rollback") [] {} [];
    TxRollbackOk(90, 31, "tx.rollback-ok") [] {} [];
}

impl Method<'_> {
    /// The class id.
    pub fn class_id(&self) -> u16 {
        self.ids().0
    }

    /// The method id within its class.
    pub fn method_id(&self) -> u16 {
        self.ids().1
    }
}

/// Appends a whole method frame.
pub fn write_method(out: &mut Vec<u8>, channel: u16, method: &Method<'_>) {
    frame::write_frame_with(out, FrameKind::Method, channel, |out| method.encode_into(out));
}

/// The name of a method by its ids, for logs and errors.
pub fn name_of(class: u16, method: u16) -> Option<&'static str> {
    ALL.iter().find(|(c, m, _)| (*c, *m) == (class, method)).map(|(_, _, name)| *name)
}

#[cfg(test)]
#[path = "method_tests.rs"]
mod tests;
