//! What a queue was asked to do with its messages: the settings of its arguments, checked and typed.
//!
//! A queue carries out a [`QueueSettings`]. It comes from the arguments of its declaration; whoever merges others into
//! it (a policy) does so in this type.

use crate::args::QueueKind;
use crate::delayed_retry::{self, DelayedRetry, RetryType};
use crate::durability::Durability;
use crate::errors::{self, Resource};
use crate::exchange_args::{CACHE_SIZE, CACHE_SIZE_ON_DISK_MAX, CACHE_TTL, SeenWindow};
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
    /// `x-cache-size`: so many values of messages that came last are remembered, whatever becomes of them, at least 1.
    pub cache_size: Option<u64>,
    /// `x-cache-ttl`: milliseconds for which values are remembered, at least 1.
    pub cache_ttl_ms: Option<u64>,
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
    /// `x-delayed-retry-type`, `-min` and `-max`: how long a message that came back must wait.
    pub delayed_retry: DelayedRetry,
    /// `x-consumer-timeout`: milliseconds after which a delivery that was not acknowledged comes back, at least 1.
    pub consumer_timeout_ms: Option<u64>,
}

/// The arguments that are settings, which two declarations of one queue must agree on.
pub const SETTINGS: [&str; 23] = [
    "x-message-ttl",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-message-deduplication",
    CACHE_SIZE,
    CACHE_TTL,
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
    delayed_retry::TYPE,
    delayed_retry::MIN,
    delayed_retry::MAX,
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
        for name in [CACHE_SIZE, CACHE_TTL] {
            if table.get(name).is_some() && !settings.unique {
                let reason = "\"expected together with 'x-message-deduplication'\"";
                return Err(errors::invalid_argument(name, queue, reason));
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
        let delayed = settings.delayed_retry.check_arguments();
        delayed.map_err(|(name, what)| errors::invalid_argument(name, queue, &format!("\"{what}\"")))?;
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
    /// smaller one, and the policy's word for what happens beyond a length, for what is promised and for what is delayed; the arguments' word
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
            overflow: policy.overflow.unwrap_or(self.overflow),
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
            delayed_retry: self.delayed_retry.under(policy.delayed_retry),
            ..self
        }
    }

    /// Which values are remembered of messages that have left; none where only those in the queue count.
    pub fn seen_window(&self) -> Option<SeenWindow> {
        if !self.unique || (self.cache_size.is_none() && self.cache_ttl_ms.is_none()) {
            return None;
        }
        let size = self.cache_size.unwrap_or(CACHE_SIZE_ON_DISK_MAX);
        Some(SeenWindow { size: size as usize, ttl_ms: self.cache_ttl_ms })
    }

    /// Which level a message's priority puts it in.
    pub fn levels(&self) -> Levels {
        let base = self.former_levels.base();
        Levels { base, max: self.max_priority, default: self.default_priority }
    }

    /// How often a message may come back; none where that is not counted. It is where delays depend on it.
    pub fn delivery_limit(&self) -> Option<u64> {
        let limit = self.delivery_limit.or(self.default_delivery_limit);
        limit.or_else(|| self.delayed_retry.is_on().then_some(u64::MAX))
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
            CACHE_SIZE => self.cache_size = Some(cache_size(value)?),
            CACHE_TTL => self.cache_ttl_ms = Some(timeout(value)?),
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
            delayed_retry::TYPE => self.delayed_retry.kind = Some(RetryType::read(long_string(value)?)?),
            delayed_retry::MIN => self.delayed_retry.min_ms = Some(timeout(value)?),
            delayed_retry::MAX => self.delayed_retry.max_ms = Some(timeout(value)?),
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

fn cache_size(value: &FieldValue) -> Result<u64, String> {
    match not_negative(value)? {
        0 => Err("{value_zero,0}".to_owned()),
        size if size > CACHE_SIZE_ON_DISK_MAX => Err(format!("{{value_too_large,{size}}}")),
        size => Ok(size),
    }
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

pub(crate) fn not_negative(value: &FieldValue) -> Result<u64, String> {
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
mod tests;
