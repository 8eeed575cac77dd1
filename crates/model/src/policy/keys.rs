//! The keys of a policy's definition: one table of their names, values and merge rules.
//!
//! A key that nobody knows is refused, as in RabbitMQ, and so is one that this broker cannot carry out: an operator who
//! sets a limit must be able to rely on it.

use serde_json::Value;

use super::{Definition, ErlangTerm, InvalidPolicy, PolicyKind};
use crate::delayed_retry::{DelayedRetry, RetryType};
use crate::durability::Durability;
use crate::name::Name;
use crate::priorities::{OverflowPriority, PriorityOrder};
use crate::queue_settings::{DeadLetterStrategy, FILTER_BYTES, MAX_TTL_MS, Overflow};
use crate::stream_args::{SEGMENT_BYTES_MAX, parse_interval};

/// The greatest length: what the argument of the same meaning can say.
const MAX_COUNT: u64 = i64::MAX as u64;

/// What a definition says, typed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PolicySettings {
    /// To exchanges.
    pub exchange: ExchangePolicy,
    /// To queues.
    pub queue: QueuePolicy,
}

/// What policies say to an exchange.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ExchangePolicy {
    /// The exchange that gets what this one routes to nothing. The argument of the same name wins.
    pub alternate_exchange: Option<Name>,
}

/// What policies say to a queue. How it goes together with the queue's own arguments is said with each.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct QueuePolicy {
    /// Milliseconds a message may stay; the shorter of this and the argument counts.
    pub message_ttl_ms: Option<u64>,
    /// Milliseconds the queue may be unused, at least 1; the shorter of this and the argument counts.
    pub expires_ms: Option<u64>,
    /// Ready messages it may have; the smaller of this and the argument counts.
    pub max_length: Option<u64>,
    /// Bytes of bodies of ready messages it may have; the smaller of this and the argument counts.
    pub max_length_bytes: Option<u64>,
    /// What happens at either limit; wins over the argument.
    pub overflow: Option<Overflow>,
    /// Where messages go that are rejected, expire or are too many; the argument wins.
    pub dead_letter_exchange: Option<Name>,
    /// The routing key they get; the argument wins.
    pub dead_letter_routing_key: Option<Name>,
    /// What becomes of those that have nowhere to go; the argument wins.
    pub dead_letter_strategy: Option<DeadLetterStrategy>,
    /// Milliseconds a delivery may take, at least 1; the shorter of this and the argument counts.
    pub consumer_timeout_ms: Option<u64>,
    /// How often a message may come back, negative for any number; the smaller of this and the argument counts.
    pub delivery_limit: Option<i64>,
    /// How long messages that came back must wait; its type wins, and of two times the shorter one counts.
    pub delayed_retry: DelayedRetry,
    /// Milliseconds that a stream keeps a message at least; the shorter of this and the argument counts.
    pub max_age_ms: Option<u64>,
    /// Bytes of a stream that are given up at once; the smaller of this and the argument counts.
    pub segment_bytes: Option<u64>,
    /// Bytes of the filter summaries of a stream's blocks, 16 to 255; the argument wins.
    pub filter_bytes: Option<u8>,
    /// When its persistent messages count as kept; wins over the argument.
    pub durability: Option<Durability>,
    /// How priorities share the consumers; wins over the argument.
    pub priority_order: Option<PriorityOrder>,
    /// Which priority makes room; wins over the argument.
    pub overflow_priority: Option<OverflowPriority>,
}

/// Of two numbers for one key, which counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stricter {
    /// The smaller one.
    Smaller,
    /// The smaller one, a negative one meaning no limit.
    SmallerUnlessNegative,
    /// The operator's.
    Operators,
}

/// One key.
struct Key {
    name: &'static str,
    /// Whether an operator policy may have it.
    operator: bool,
    stricter: Stricter,
    /// Takes the value over; false when it is not valid.
    set: fn(&mut PolicySettings, &Value) -> bool,
    /// What is said of a value that is not valid, after the value.
    problem: &'static str,
}

/// Keys in alphabetical order.
const KEYS: &[Key] = &[
    Key {
        name: "alternate-exchange",
        operator: false,
        stricter: Stricter::Operators,
        set: |to, value| put(&mut to.exchange.alternate_exchange, name(value)),
        problem: "is not a valid alternate exchange name",
    },
    Key {
        name: "consumer-disconnected-timeout",
        operator: false,
        stricter: Stricter::Smaller,
        set: |_, value| number(value, 0, MAX_COUNT).is_some(),
        problem: "is not a valid consumer disconnected timeout",
    },
    Key {
        name: "consumer-timeout",
        operator: false,
        stricter: Stricter::Smaller,
        set: |to, value| put(&mut to.queue.consumer_timeout_ms, number(value, 1, MAX_TTL_MS)),
        problem: "is not a valid consumer timeout",
    },
    Key {
        name: "dead-letter-exchange",
        operator: false,
        stricter: Stricter::Operators,
        set: |to, value| put(&mut to.queue.dead_letter_exchange, name(value)),
        problem: "is not a valid dead letter exchange name",
    },
    Key {
        name: "dead-letter-routing-key",
        operator: false,
        stricter: Stricter::Operators,
        set: |to, value| put(&mut to.queue.dead_letter_routing_key, name(value)),
        problem: "is not a valid dead letter routing key",
    },
    Key {
        name: "dead-letter-strategy",
        operator: false,
        stricter: Stricter::Operators,
        set: |to, value| put(&mut to.queue.dead_letter_strategy, strategy(value)),
        problem: "is not a valid dead letter strategy",
    },
    Key {
        name: "delayed-retry-max",
        operator: true,
        stricter: Stricter::Smaller,
        set: |to, value| put(&mut to.queue.delayed_retry.max_ms, number(value, 1, MAX_TTL_MS)),
        problem: "is not a valid maximum delay of retries",
    },
    Key {
        name: "delayed-retry-min",
        operator: true,
        stricter: Stricter::Smaller,
        set: |to, value| put(&mut to.queue.delayed_retry.min_ms, number(value, 1, MAX_TTL_MS)),
        problem: "is not a valid minimum delay of retries",
    },
    Key {
        name: "delayed-retry-type",
        operator: true,
        stricter: Stricter::Operators,
        set: |to, value| put(&mut to.queue.delayed_retry.kind, retry_type(value)),
        problem: "is not a valid delayed retry type: expected disabled, all, failed or returned",
    },
    Key {
        name: "delivery-limit",
        operator: true,
        stricter: Stricter::SmallerUnlessNegative,
        set: |to, value| put(&mut to.queue.delivery_limit, value.as_i64()),
        problem: "is not a valid delivery limit",
    },
    Key {
        name: "durability",
        operator: true,
        stricter: Stricter::Operators,
        set: |to, value| put(&mut to.queue.durability, durability(value)),
        problem: "is not a valid durability: expected sync, relaxed or memory",
    },
    Key {
        name: "expires",
        operator: true,
        stricter: Stricter::Smaller,
        set: |to, value| put(&mut to.queue.expires_ms, number(value, 1, MAX_TTL_MS)),
        problem: "is not a valid queue expiry",
    },
    // How many copies there are and where, and how much is kept in memory of which RabbitMQ takes no notice any more: without
    // effect here, where there is one node, as the arguments of the same meaning.
    Key {
        name: "initial-cluster-size",
        operator: false,
        stricter: Stricter::Operators,
        set: |_, value| number(value, 0, MAX_COUNT).is_some(),
        problem: "is not a valid cluster size",
    },
    Key {
        name: "max-age",
        operator: false,
        stricter: Stricter::Operators,
        set: |to, value| put(&mut to.queue.max_age_ms, interval(value)),
        problem: "is not a valid max age",
    },
    Key {
        name: "max-in-memory-bytes",
        operator: true,
        stricter: Stricter::Smaller,
        set: |_, value| number(value, 0, MAX_COUNT).is_some(),
        problem: "is not a valid maximum memory in bytes",
    },
    Key {
        name: "max-in-memory-length",
        operator: true,
        stricter: Stricter::Smaller,
        set: |_, value| number(value, 0, MAX_COUNT).is_some(),
        problem: "is not a valid maximum memory in bytes",
    },
    Key {
        name: "max-length",
        operator: true,
        stricter: Stricter::Smaller,
        set: |to, value| put(&mut to.queue.max_length, number(value, 0, MAX_COUNT)),
        problem: "is not a valid maximum length",
    },
    Key {
        name: "max-length-bytes",
        operator: true,
        stricter: Stricter::Smaller,
        set: |to, value| put(&mut to.queue.max_length_bytes, number(value, 0, MAX_COUNT)),
        problem: "is not a valid maximum length in bytes",
    },
    Key {
        name: "member-placement-tag",
        operator: true,
        stricter: Stricter::Operators,
        set: |_, value| value.is_string(),
        problem: "is not a valid member placement tag",
    },
    Key {
        name: "message-ttl",
        operator: true,
        stricter: Stricter::Smaller,
        set: |to, value| put(&mut to.queue.message_ttl_ms, number(value, 0, MAX_TTL_MS)),
        problem: "is not a valid message TTL",
    },
    Key {
        name: "overflow",
        operator: true,
        stricter: Stricter::Operators,
        set: |to, value| put(&mut to.queue.overflow, overflow(value)),
        problem: "is not a valid overflow value",
    },
    // Not known to RabbitMQ.
    Key {
        name: "overflow-priority",
        operator: true,
        stricter: Stricter::Operators,
        set: |to, value| put(&mut to.queue.overflow_priority, overflow_priority(value)),
        problem: "is not a valid overflow priority: expected lowest or highest",
    },
    // Not known to RabbitMQ.
    Key {
        name: "priority-order",
        operator: true,
        stricter: Stricter::Operators,
        set: |to, value| put(&mut to.queue.priority_order, priority_order(value)),
        problem: "is not a valid priority order: expected strict or weighted",
    },
    // Where RabbitMQ keeps a queue and in which file format; without effect here, where there is one of each.
    Key {
        name: "queue-leader-locator",
        operator: false,
        stricter: Stricter::Operators,
        set: |_, value| is_one_of(value, &["client-local", "balanced", "random", "least-leaders"]),
        problem: "is not a valid queue leader locator value",
    },
    Key {
        name: "queue-mode",
        operator: false,
        stricter: Stricter::Operators,
        set: |_, value| is_one_of(value, &["default", "lazy"]),
        problem: "is not a valid queue-mode value",
    },
    Key {
        name: "queue-version",
        operator: true,
        stricter: Stricter::Operators,
        set: |_, value| matches!(value.as_u64(), Some(1 | 2)),
        problem: "is not a valid queue-version value",
    },
    Key {
        name: "stream-filter-size-bytes",
        operator: false,
        stricter: Stricter::Operators,
        set: |to, value| put(&mut to.queue.filter_bytes, filter_bytes(value)),
        problem: "is not a valid filter size. Valid range is 16-255",
    },
    Key {
        name: "stream-max-segment-size-bytes",
        operator: false,
        stricter: Stricter::Operators,
        set: |to, value| put(&mut to.queue.segment_bytes, number(value, 0, SEGMENT_BYTES_MAX)),
        problem: "is not a valid segment size",
    },
    Key {
        name: "target-group-size",
        operator: true,
        stricter: Stricter::Operators,
        set: |_, value| number(value, 1, MAX_COUNT).is_some(),
        problem: "is not a valid target count",
    },
];

/// Keys that RabbitMQ carries out and this broker does not yet.
const NOT_SUPPORTED: &[&str] =
    &["federation-upstream", "federation-upstream-pattern", "federation-upstream-set"];

impl PolicySettings {
    /// Reads and checks a definition.
    ///
    /// # Errors
    /// With RabbitMQ's text when it is empty, has a key that is not known (for this kind), or a value is not valid; and
    /// when a key cannot be carried out.
    pub fn parse(definition: &Definition, kind: PolicyKind) -> Result<Self, InvalidPolicy> {
        if definition.is_empty() {
            return Err(InvalidPolicy("no policy provided".to_owned()));
        }
        check_known(definition, kind)?;
        let mut settings = Self::default();
        for key in KEYS {
            if let Some(value) = definition.get(key.name)
                && !(key.set)(&mut settings, value)
            {
                return Err(InvalidPolicy(format!("{} {}", ErlangTerm(value), key.problem)));
            }
        }
        let delayed = settings.queue.delayed_retry.check_together();
        delayed.map_err(|(name, what)| {
            InvalidPolicy(format!("{name}: {what}").replace("x-delayed", "delayed"))
        })?;
        match definition.keys().find(|key| NOT_SUPPORTED.contains(&key.as_str())) {
            Some(key) => Err(InvalidPolicy(format!("policy key '{key}' is not supported yet"))),
            None => Ok(settings),
        }
    }

    /// Reads what [`super::merged`] made of definitions that were checked.
    pub fn of_merged(definition: &Definition) -> Self {
        let mut settings = Self::default();
        for key in KEYS {
            if let Some(value) = definition.get(key.name) {
                // Both values were valid, so either is.
                (key.set)(&mut settings, value);
            }
        }
        settings
    }
}

fn check_known(definition: &Definition, kind: PolicyKind) -> Result<(), InvalidPolicy> {
    let known = |name: &str| {
        let allowed = |key: &Key| key.name == name && (key.operator || kind == PolicyKind::User);
        let typed = KEYS.iter().any(|key| key.name == name);
        KEYS.iter().any(allowed) || (!typed && NOT_SUPPORTED.contains(&name))
    };
    let unknown: Vec<String> = definition
        .iter()
        .filter(|(name, _)| !known(name))
        .map(|(name, value)| format!("{{{},{}}}", ErlangTerm(&Value::from(name.as_str())), ErlangTerm(value)))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(InvalidPolicy(format!("[{}] are not recognised policy settings", unknown.join(","))))
}

/// Of a policy's and an operator policy's value for a key, the one that counts.
pub(super) fn stricter<'a>(key: &str, said: &'a Value, bound: &'a Value) -> &'a Value {
    let rule = KEYS.iter().find(|known| known.name == key).map_or(Stricter::Operators, |key| key.stricter);
    let (Some(a), Some(b)) = (said.as_i64(), bound.as_i64()) else { return bound };
    match rule {
        Stricter::Operators => bound,
        Stricter::SmallerUnlessNegative if a < 0 => bound,
        Stricter::SmallerUnlessNegative if b < 0 => said,
        Stricter::Smaller | Stricter::SmallerUnlessNegative if a < b => said,
        Stricter::Smaller | Stricter::SmallerUnlessNegative => bound,
    }
}

fn put<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    *place = value;
    place.is_some()
}

fn name(value: &Value) -> Option<Name> {
    Name::new(value.as_str()?).ok()
}

fn number(value: &Value, low: u64, high: u64) -> Option<u64> {
    value.as_u64().filter(|number| (low..=high).contains(number))
}

fn overflow(value: &Value) -> Option<Overflow> {
    Overflow::from_name(value.as_str()?.as_bytes())
}

fn interval(value: &Value) -> Option<u64> {
    parse_interval(value.as_str()?.as_bytes())
}

fn filter_bytes(value: &Value) -> Option<u8> {
    u8::try_from(value.as_u64()?).ok().filter(|bytes| FILTER_BYTES.contains(bytes))
}

fn durability(value: &Value) -> Option<Durability> {
    Durability::from_name(value.as_str()?.as_bytes())
}

fn overflow_priority(value: &Value) -> Option<OverflowPriority> {
    OverflowPriority::read(value.as_str()?.as_bytes()).ok()
}

fn priority_order(value: &Value) -> Option<PriorityOrder> {
    PriorityOrder::read(value.as_str()?.as_bytes()).ok()
}

fn retry_type(value: &Value) -> Option<RetryType> {
    RetryType::read(value.as_str()?.as_bytes()).ok()
}

fn strategy(value: &Value) -> Option<DeadLetterStrategy> {
    DeadLetterStrategy::from_name(value.as_str()?.as_bytes())
}

fn is_one_of(value: &Value, known: &[&str]) -> bool {
    value.as_str().is_some_and(|text| known.contains(&text))
}

/// The keys that are refused for now.
#[cfg(test)]
pub(super) fn unsupported() -> impl Iterator<Item = &'static str> {
    NOT_SUPPORTED.iter().copied()
}
