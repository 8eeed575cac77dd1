//! What a queue was asked to do with its messages: the settings of its arguments, checked and typed.
//!
//! A queue carries out a [`QueueSettings`]. It comes from the arguments of its declaration; whoever merges others into
//! it (a policy) does so in this type.

use crate::args::QueueKind;
use crate::durability::Durability;
use crate::errors::{self, Resource};
use crate::field::{FieldTable, FieldValue};
use crate::former_levels::FormerLevels;
use crate::name::Name;
use crate::policy::QueuePolicy;
use crate::priorities::{self, Levels, OverflowPriority, PriorityOrder};
use crate::reply::ReplyError;
use crate::stream_args::parse_interval;

/// What happens to a message for which a queue has no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Overflow {
    /// The messages that would be handed out next make room.
    #[default]
    DropHead,
    /// The message is refused: the publisher gets a `basic.nack` if it asked for confirms.
    RejectPublish,
    /// The same, and the refused message is dead-lettered.
    RejectPublishDlx,
}

/// What becomes of a message that is to be dead-lettered and has nowhere to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DeadLetterStrategy {
    /// It is dropped.
    #[default]
    AtMostOnce,
    /// It stays until it has.
    AtLeastOnce,
}

impl DeadLetterStrategy {
    /// Reads a name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        match name {
            b"at-most-once" => Some(Self::AtMostOnce),
            b"at-least-once" => Some(Self::AtLeastOnce),
            _ => None,
        }
    }
}

impl Overflow {
    const ALL: [Self; 3] = [Self::DropHead, Self::RejectPublish, Self::RejectPublishDlx];

    /// The name in arguments.
    pub fn name(self) -> &'static str {
        match self {
            Self::DropHead => "drop-head",
            Self::RejectPublish => "reject-publish",
            Self::RejectPublishDlx => "reject-publish-dlx",
        }
    }

    /// Reads a name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name().as_bytes() == name)
    }
}

/// See the module's documentation. Nothing set is a plain queue.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct QueueSettings {
    /// `x-message-ttl`: milliseconds that a message may wait in the queue. With 0 it is handed to a consumer that waits
    /// for it, or goes.
    pub message_ttl_ms: Option<u64>,
    /// `x-expires`: milliseconds after which the queue goes when nobody uses it, at least 1.
    pub expires_ms: Option<u64>,
    /// `x-max-length`: ready messages at most.
    pub max_length: Option<u64>,
    /// `x-max-length-bytes`: bytes of the ready messages' bodies at most.
    pub max_length_bytes: Option<u64>,
    /// `x-overflow`: what happens beyond that.
    pub overflow: Overflow,
    /// `x-message-deduplication`: a message goes when the queue has one with the same `x-deduplication-header`.
    pub unique: bool,
    /// `x-publisher-deduplication`: a message goes when its publisher has published its number before.
    pub publisher_deduplication: bool,
    /// `x-message-groups`: messages with one `x-message-group` go to one consumer at a time, in order.
    pub message_groups: bool,
    /// `x-max-age` of a stream: milliseconds a message is kept at least.
    pub max_age_ms: Option<u64>,
    /// `x-stream-max-segment-size-bytes`: bytes of a stream that are given up at once.
    pub segment_bytes: Option<u64>,
    /// `x-stream-filter-size-bytes` of a stream: bytes of a block's filter summary, 16 to 255; 16 where nobody says.
    pub filter_bytes: Option<u8>,
    /// `x-single-active-consumer`: one consumer at a time gets messages.
    pub single_active_consumer: bool,
    /// `x-durability`: when its persistent messages count as kept, if it is durable.
    pub durability: Durability,
    /// `x-max-priority`: the highest priority; 0 for a queue without priorities.
    pub max_priority: u8,
    /// The priority of messages that say none.
    pub default_priority: u8,
    /// The levels it had under other types.
    pub former_levels: FormerLevels,
    /// `x-priority-order`: how the priorities share the consumers.
    pub priority_order: PriorityOrder,
    /// `x-overflow-priority`: which priority makes room.
    pub overflow_priority: OverflowPriority,
    /// `x-dead-letter-exchange`: where messages go that are rejected or leave by themselves.
    pub dead_letter_exchange: Option<Name>,
    /// `x-dead-letter-routing-key`: what they are published with there, if not with their own keys.
    pub dead_letter_routing_key: Option<Name>,
    /// `x-dead-letter-strategy`: what becomes of those that have nowhere to go.
    pub dead_letter_strategy: Option<DeadLetterStrategy>,
    /// `x-delivery-limit`: how often a message may come back. The largest number is for no limit, though it is counted.
    pub delivery_limit: Option<u64>,
    /// The same where nobody says.
    pub default_delivery_limit: Option<u64>,
    /// `x-consumer-timeout`: milliseconds after which a delivery that was not acknowledged comes back, at least 1.
    pub consumer_timeout_ms: Option<u64>,
}

/// The arguments that are settings, which two declarations of one queue must agree on.
pub const SETTINGS: [&str; 18] = [
    "x-message-ttl",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-message-deduplication",
    "x-message-groups",
    "x-publisher-deduplication",
    "x-overflow",
    "x-max-priority",
    "x-priority-order",
    "x-overflow-priority",
    "x-single-active-consumer",
    "x-durability",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-delivery-limit",
    "x-consumer-timeout",
];

/// The settings that only streams have.
pub(crate) const STREAM_SETTINGS: [&str; 3] =
    ["x-max-age", "x-stream-max-segment-size-bytes", "x-stream-filter-size-bytes"];

/// The longest time to live of anything: ten years, in milliseconds.
pub const MAX_TTL_MS: u64 = 10 * 365 * 86_400_000;

/// The sizes that a stream's filter summaries may have.
pub(crate) const FILTER_BYTES: std::ops::RangeInclusive<u8> = 16..=255;

/// What RabbitMQ's quorum queues have without being told.
const QUORUM_MAX_PRIORITY: u8 = 31;
const QUORUM_DEFAULT_PRIORITY: u8 = 4;
const QUORUM_DELIVERY_LIMIT: u64 = 20;

impl QueueSettings {
    /// What a queue of that type is to do without being told.
    fn of_kind(kind: QueueKind) -> Self {
        match kind {
            QueueKind::Classic | QueueKind::Stream => Self::default(),
            QueueKind::Quorum => Self {
                max_priority: QUORUM_MAX_PRIORITY,
                default_priority: QUORUM_DEFAULT_PRIORITY,
                default_delivery_limit: Some(QUORUM_DELIVERY_LIMIT),
                ..Self::default()
            },
        }
    }

    /// Reads the settings among a queue's arguments: 406 with RabbitMQ's reason for a value that makes no sense.
    pub fn parse(table: &FieldTable, queue: Resource<'_>) -> Result<Self, ReplyError> {
        let mut settings = Self::of_kind(QueueKind::of_declared(table));
        for name in SETTINGS {
            if let Some(value) = table.get(name) {
                let set = settings.set(name, value);
                set.map_err(|reason| errors::invalid_argument(name, queue, &reason))?;
            }
        }
        if let Some(exchange) = table.get("x-dead-letter-exchange")
            && settings.dead_letter_exchange.is_none()
        {
            let type_name = exchange.type_name();
            return Err(errors::invalid_argument_type("x-dead-letter-exchange", queue, type_name));
        }
        if settings.dead_letter_routing_key.is_some() && settings.dead_letter_exchange.is_none() {
            let reason = "routing_key_but_no_dlx_defined";
            return Err(errors::invalid_argument("x-dead-letter-routing-key", queue, reason));
        }
        Ok(settings)
    }

    /// Reads the settings among arguments that were checked when their queue was declared. What is wrong is left out.
    pub fn of_declared(table: &FieldTable) -> Self {
        let mut settings = Self::of_kind(QueueKind::of_declared(table));
        for name in SETTINGS.into_iter().chain(STREAM_SETTINGS) {
            if let Some(value) = table.get(name) {
                // Checked then; a value that is refused today was not set before either.
                let _ = settings.set(name, value);
            }
        }
        settings
    }

    /// What the queue is to do when these settings are its arguments' and a policy applies to it: of two numbers the
    /// smaller one, and the policy's word for what happens beyond a length and for what is promised; the arguments' word
    /// for dead-lettering.
    #[must_use]
    pub fn under(self, policy: &QueuePolicy) -> Self {
        let smaller = |declared: Option<u64>, said: Option<u64>| match (declared, said) {
            (Some(declared), Some(said)) => Some(declared.min(said)),
            (declared, said) => declared.or(said),
        };
        Self {
            message_ttl_ms: smaller(self.message_ttl_ms, policy.message_ttl_ms),
            expires_ms: smaller(self.expires_ms, policy.expires_ms),
            max_length: smaller(self.max_length, policy.max_length),
            max_length_bytes: smaller(self.max_length_bytes, policy.max_length_bytes),
            // A publisher that numbers its messages goes on from the one that was refused; it would be taken for an old one.
            overflow: policy.overflow.filter(|_| !self.publisher_deduplication).unwrap_or(self.overflow),
            max_age_ms: smaller(self.max_age_ms, policy.max_age_ms),
            segment_bytes: smaller(self.segment_bytes, policy.segment_bytes),
            filter_bytes: self.filter_bytes.or(policy.filter_bytes),
            durability: policy.durability.unwrap_or(self.durability),
            priority_order: policy.priority_order.unwrap_or(self.priority_order),
            overflow_priority: policy.overflow_priority.unwrap_or(self.overflow_priority),
            dead_letter_exchange: self.dead_letter_exchange.or_else(|| policy.dead_letter_exchange.clone()),
            dead_letter_routing_key: self
                .dead_letter_routing_key
                .or_else(|| policy.dead_letter_routing_key.clone()),
            dead_letter_strategy: self.dead_letter_strategy.or(policy.dead_letter_strategy),
            consumer_timeout_ms: smaller(self.consumer_timeout_ms, policy.consumer_timeout_ms),
            delivery_limit: smaller(self.delivery_limit, policy.delivery_limit.map(limit)),
            ..self
        }
    }

    /// Which level a message's priority puts it in.
    pub fn levels(&self) -> Levels {
        let base = self.former_levels.base();
        Levels { base, max: self.max_priority, default: self.default_priority }
    }

    /// How often a message may come back; none where that is not counted.
    pub fn delivery_limit(&self) -> Option<u64> {
        self.delivery_limit.or(self.default_delivery_limit)
    }

    /// Whether messages can be refused for want of room.
    pub fn refuses(&self) -> bool {
        self.overflow != Overflow::DropHead && (self.max_length.is_some() || self.max_length_bytes.is_some())
    }

    /// Whether a message that is refused for want of room is dead-lettered.
    pub fn dead_letters_refused(&self) -> bool {
        self.overflow == Overflow::RejectPublishDlx && self.dead_letter_exchange.is_some()
    }

    /// Whether messages stay that are to be dead-lettered and have nowhere to go. As in RabbitMQ only together with
    /// `reject-publish`: nothing else keeps such a queue from growing.
    pub fn keeps_dead_letters(&self) -> bool {
        self.dead_letter_strategy == Some(DeadLetterStrategy::AtLeastOnce)
            && self.overflow == Overflow::RejectPublish
    }

    /// Takes an argument over, or says why not.
    pub(crate) fn set(&mut self, name: &str, value: &FieldValue) -> Result<(), String> {
        match name {
            "x-message-ttl" => self.message_ttl_ms = Some(time_to_live(value)?),
            "x-expires" => self.expires_ms = Some(timeout(value)?),
            "x-max-length" => self.max_length = Some(not_negative(value)?),
            "x-max-length-bytes" => self.max_length_bytes = Some(not_negative(value)?),
            "x-overflow" => {
                let name = long_string(value)?;
                self.overflow = Overflow::from_name(name).ok_or_else(|| "invalid_overflow".to_owned())?;
            }
            "x-message-deduplication" => match value {
                FieldValue::Bool(unique) => self.unique = *unique,
                other => return Err(format!("\"expected bool, got {}\"", other.type_name())),
            },
            "x-message-groups" => self.message_groups = boolean(value)?,
            "x-publisher-deduplication" => self.publisher_deduplication = boolean(value)?,
            "x-max-age" => {
                let age = parse_interval(long_string(value)?);
                self.max_age_ms = Some(age.ok_or_else(|| "invalid_max_age".to_owned())?);
            }
            "x-stream-max-segment-size-bytes" => self.segment_bytes = Some(not_negative(value)?),
            "x-stream-filter-size-bytes" => {
                let bytes = integer(value)?;
                let fits = u8::try_from(bytes).ok().filter(|bytes| FILTER_BYTES.contains(bytes));
                self.filter_bytes = Some(fits.ok_or_else(|| format!("{{value_out_of_range,{bytes}}}"))?);
            }
            "x-consumer-timeout" => self.consumer_timeout_ms = Some(timeout(value)?),
            "x-delivery-limit" => self.delivery_limit = Some(limit(integer(value)?)),
            "x-single-active-consumer" => self.single_active_consumer = boolean(value)?,
            "x-durability" => {
                let name = long_string(value)?;
                let known = Durability::from_name(name);
                self.durability = known.ok_or_else(|| {
                    let got = String::from_utf8_lossy(name);
                    format!("\"expected sync, relaxed or memory, got '{got}'\"")
                })?;
            }
            "x-max-priority" => self.max_priority = priorities::max_priority(not_negative(value)?)?,
            "x-priority-order" => self.priority_order = PriorityOrder::read(long_string(value)?)?,
            "x-overflow-priority" => self.overflow_priority = OverflowPriority::read(long_string(value)?)?,
            "x-dead-letter-exchange" => {
                // The text of a wrong type is another one.
                if let FieldValue::LongStr(name) = value {
                    self.dead_letter_exchange = Some(short_name(name)?);
                }
            }
            "x-dead-letter-routing-key" => {
                self.dead_letter_routing_key = Some(short_name(long_string(value)?)?);
            }
            "x-dead-letter-strategy" => {
                let strategy = DeadLetterStrategy::from_name(long_string(value)?);
                self.dead_letter_strategy = Some(strategy.ok_or_else(|| "invalid_dlx_strategy".to_owned())?);
            }
            _ => {}
        }
        Ok(())
    }
}

fn boolean(value: &FieldValue) -> Result<bool, String> {
    match value {
        FieldValue::Bool(flag) => Ok(*flag),
        other => Err(format!("{{unacceptable_type,{}}}", other.type_name())),
    }
}

/// What fits into an AMQP short string.
fn short_name(bytes: &[u8]) -> Result<Name, String> {
    let text = str::from_utf8(bytes).map_err(|_| "\"expected UTF-8, got other bytes\"".to_owned())?;
    Name::new(text).map_err(|error| format!("\"expected at most 255 bytes, got {}\"", error.bytes))
}

fn integer(value: &FieldValue) -> Result<i64, String> {
    value.as_int().ok_or_else(|| format!("\"expected integer, got {}\"", value.type_name()))
}

/// A time in milliseconds that is no time at all when it is 0.
pub(crate) fn timeout(value: &FieldValue) -> Result<u64, String> {
    match time_to_live(value)? {
        0 => Err("{value_zero,0}".to_owned()),
        ms => Ok(ms),
    }
}

/// A limit of which a negative value means that there is none.
fn limit(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

fn not_negative(value: &FieldValue) -> Result<u64, String> {
    let number = integer(value)?;
    u64::try_from(number).map_err(|_| format!("{{value_negative,{number}}}"))
}

fn time_to_live(value: &FieldValue) -> Result<u64, String> {
    match not_negative(value)? {
        ms if ms <= MAX_TTL_MS => Ok(ms),
        ms => Err(format!("{{value_too_large,{ms}}}")),
    }
}

fn long_string(value: &FieldValue) -> Result<&[u8], String> {
    match value {
        FieldValue::LongStr(bytes) => Ok(bytes),
        other => Err(format!("{{unacceptable_type,{}}}", other.type_name())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q: Resource<'static> = Resource { kind: errors::ResourceKind::Queue, vhost: "/", name: "q" };

    fn parse(entries: &[(&str, FieldValue)]) -> Result<QueueSettings, String> {
        let table = FieldTable(entries.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect());
        QueueSettings::parse(&table, Q).map_err(|error| error.text)
    }

    #[test]
    fn values_are_read_whatever_their_integer_type() {
        let settings = parse(&[
            ("x-max-length", FieldValue::I32(10)),
            ("x-max-length-bytes", FieldValue::I64(1 << 40)),
            ("x-overflow", FieldValue::string("reject-publish")),
            ("x-message-ttl", FieldValue::I8(0)),
            ("x-expires", FieldValue::I64(315_360_000_000)),
            ("x-other", FieldValue::Void),
        ])
        .unwrap();
        assert_eq!((settings.max_length, settings.max_length_bytes), (Some(10), Some(1 << 40)));
        assert_eq!((settings.message_ttl_ms, settings.expires_ms), (Some(0), Some(MAX_TTL_MS)));
        assert!(settings.refuses());
        assert!(!parse(&[("x-overflow", FieldValue::string("reject-publish"))]).unwrap().refuses());
    }

    #[test]
    fn policies_tighten_lengths_and_times_and_choose_what_happens() {
        let declared = QueueSettings {
            message_ttl_ms: Some(5),
            max_length: Some(5),
            overflow: Overflow::RejectPublish,
            segment_bytes: Some(8),
            max_priority: 4,
            ..QueueSettings::default()
        };
        assert_eq!(declared.clone().under(&QueuePolicy::default()), declared);
        for (said, expected) in [(3, 3), (9, 5)] {
            let policy = QueuePolicy {
                message_ttl_ms: Some(said),
                expires_ms: Some(said),
                max_length: Some(said),
                max_length_bytes: Some(7),
                overflow: Some(Overflow::DropHead),
                max_age_ms: Some(11),
                segment_bytes: Some(9),
                filter_bytes: Some(99),
                durability: Some(Durability::Relaxed),
                ..QueuePolicy::default()
            };
            let settings = declared.clone().under(&policy);
            assert_eq!((settings.max_length, settings.max_length_bytes), (Some(expected), Some(7)));
            assert_eq!((settings.message_ttl_ms, settings.expires_ms), (Some(expected), Some(said)));
            assert_eq!((settings.overflow, settings.durability), (Overflow::DropHead, Durability::Relaxed));
            assert_eq!((settings.max_age_ms, settings.segment_bytes), (Some(11), Some(8)));
            assert_eq!(settings.filter_bytes, Some(99));
            let own = QueueSettings { filter_bytes: Some(20), ..declared.clone() };
            assert_eq!(own.under(&policy).filter_bytes, Some(20));
            assert_eq!((settings.overflow, settings.max_priority), (Overflow::DropHead, 4));
        }
        let policy = QueuePolicy {
            priority_order: Some(PriorityOrder::Weighted),
            overflow_priority: Some(OverflowPriority::Highest),
            ..QueuePolicy::default()
        };
        let settings = declared.under(&policy);
        assert_eq!(settings.priority_order, PriorityOrder::Weighted);
        assert_eq!(settings.overflow_priority, OverflowPriority::Highest);
    }

    #[test]
    fn refusals_are_rabbitmqs() {
        let text = |name: &str, value| parse(&[(name, value)]).unwrap_err();
        let invalid =
            |name: &str, reason: &str| format!("invalid arg '{name}' for queue 'q' in vhost '/': {reason}");
        for (name, value, reason) in [
            ("x-max-length", FieldValue::I32(-1), "{value_negative,-1}"),
            ("x-max-length", FieldValue::string("1"), "\"expected integer, got longstr\""),
            ("x-max-length-bytes", FieldValue::Bool(true), "\"expected integer, got bool\""),
            ("x-message-ttl", FieldValue::I32(-5), "{value_negative,-5}"),
            ("x-message-ttl", FieldValue::I64(315_360_000_001), "{value_too_large,315360000001}"),
            ("x-message-ttl", FieldValue::string("1"), "\"expected integer, got longstr\""),
            ("x-expires", FieldValue::I32(0), "{value_zero,0}"),
            ("x-expires", FieldValue::I64(315_360_000_001), "{value_too_large,315360000001}"),
            ("x-overflow", FieldValue::string("nonsense"), "invalid_overflow"),
            ("x-overflow", FieldValue::I32(1), "{unacceptable_type,signedint}"),
            ("x-single-active-consumer", FieldValue::string("true"), "{unacceptable_type,longstr}"),
            ("x-message-groups", FieldValue::I32(1), "{unacceptable_type,signedint}"),
            ("x-durability", FieldValue::I32(1), "{unacceptable_type,signedint}"),
            ("x-durability", FieldValue::string("no"), "\"expected sync, relaxed or memory, got 'no'\""),
            ("x-max-priority", FieldValue::I32(256), "{max_value_exceeded,256}"),
            ("x-max-priority", FieldValue::I32(-1), "{value_negative,-1}"),
            ("x-max-priority", FieldValue::string("5"), "\"expected integer, got longstr\""),
            (
                "x-priority-order",
                FieldValue::string("fair"),
                "\"expected 'strict' or 'weighted', got 'fair'\"",
            ),
            ("x-overflow-priority", FieldValue::string(""), "\"expected 'lowest' or 'highest', got ''\""),
            ("x-consumer-timeout", FieldValue::I32(0), "{value_zero,0}"),
            ("x-consumer-timeout", FieldValue::I32(-1), "{value_negative,-1}"),
            ("x-consumer-timeout", FieldValue::I64(1 << 40), "{value_too_large,1099511627776}"),
            ("x-consumer-timeout", FieldValue::string("1s"), "\"expected integer, got longstr\""),
            ("x-delivery-limit", FieldValue::string("3"), "\"expected integer, got longstr\""),
        ] {
            assert_eq!(text(name, value), invalid(name, reason));
        }
    }
}
