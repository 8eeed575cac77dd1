//! Limits that an operator gives to a virtual host or a user.

use serde_json::{Map, Value};

use crate::policy::ErlangTerm;

/// Why limits are refused: RabbitMQ's text.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvalidLimits(pub String);

/// Limits of a virtual host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VhostLimits {
    /// `max-connections`: connections at a time; negative for any number.
    pub max_connections: Option<i64>,
    /// `max-queues`: queues at a time; negative for any number.
    pub max_queues: Option<i64>,
    /// How fast may be published.
    pub publish: PublishLimits,
    /// `max-stored-bytes`: bytes of messages in its queues; negative for any number.
    pub max_stored_bytes: Option<i64>,
    /// `max-scheduled-messages`: messages that wait for a time; negative for any number.
    pub max_scheduled_messages: Option<i64>,
}

/// Limits of a user.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UserLimits {
    /// `max-connections`: connections at a time; negative for any number.
    pub max_connections: Option<i64>,
    /// `max-channels`: channels of all connections together; negative for any number.
    pub max_channels: Option<i64>,
    /// How fast may be published.
    pub publish: PublishLimits,
    /// `max-stored-bytes`: bytes that queues hold of what the user published; negative for any number. RabbitMQ has no such
    /// limit.
    pub max_stored_bytes: Option<i64>,
}

/// How fast may be published by all connections of a user or a virtual host together. RabbitMQ has no such limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PublishLimits {
    /// `max-publish-messages-per-second`; negative for any number.
    pub messages: Option<i64>,
    /// `max-publish-bytes-per-second`; negative for any number.
    pub bytes: Option<i64>,
}

impl PublishLimits {
    /// Messages per second; none for any number.
    pub fn messages_per_second(self) -> Option<u32> {
        bound(self.messages)
    }

    /// Bytes per second, at most 4 GiB; none for any number.
    pub fn bytes_per_second(self) -> Option<u32> {
        bound(self.bytes)
    }

    /// Whether nothing is limited.
    pub fn is_off(self) -> bool {
        self.messages_per_second().is_none() && self.bytes_per_second().is_none()
    }
}

const MAX_CONNECTIONS: &str = "max-connections";
const MAX_QUEUES: &str = "max-queues";
const MAX_CHANNELS: &str = "max-channels";
const MAX_MESSAGE_RATE: &str = "max-publish-messages-per-second";
const MAX_BYTE_RATE: &str = "max-publish-bytes-per-second";
const MAX_STORED_BYTES: &str = "max-stored-bytes";
const MAX_SCHEDULED: &str = "max-scheduled-messages";

impl VhostLimits {
    /// The names of the limits.
    pub const NAMES: [&str; 6] =
        [MAX_CONNECTIONS, MAX_QUEUES, MAX_MESSAGE_RATE, MAX_BYTE_RATE, MAX_STORED_BYTES, MAX_SCHEDULED];

    /// Reads `{"max-connections":5,"max-queues":-1}`, where any of the names may be missing.
    ///
    /// # Errors
    /// With RabbitMQ's text for another form, another key, or a value that is no whole number.
    pub fn from_value(value: &Value) -> Result<Self, InvalidLimits> {
        let not_a_list = || InvalidLimits(format!("limits not a list {}", ErlangTerm(value)));
        let [max_connections, max_queues, messages, bytes, max_stored_bytes, max_scheduled_messages] =
            read(value.as_object().ok_or_else(not_a_list)?, Self::NAMES, "limits")?;
        let publish = PublishLimits { messages, bytes };
        Ok(Self { max_connections, max_queues, publish, max_stored_bytes, max_scheduled_messages })
    }

    /// The form that [`Self::from_value`] reads.
    pub fn to_value(&self) -> Value {
        let Self { max_connections, max_queues, publish, max_stored_bytes, max_scheduled_messages } = self;
        let PublishLimits { messages, bytes } = publish;
        write(
            Self::NAMES,
            [*max_connections, *max_queues, *messages, *bytes, *max_stored_bytes, *max_scheduled_messages],
        )
    }

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl UserLimits {
    /// The names of the limits.
    pub const NAMES: [&str; 5] =
        [MAX_CONNECTIONS, MAX_CHANNELS, MAX_MESSAGE_RATE, MAX_BYTE_RATE, MAX_STORED_BYTES];

    /// Reads `{"max-connections":5,"max-channels":-1}`, where any of the names may be missing.
    ///
    /// # Errors
    /// With RabbitMQ's text for another form, another key, or a value that is no whole number.
    pub fn from_value(value: &Value) -> Result<Self, InvalidLimits> {
        let not_a_list = || InvalidLimits(format!("user-limits not a list {}", ErlangTerm(value)));
        let [max_connections, max_channels, messages, bytes, max_stored_bytes] =
            read(value.as_object().ok_or_else(not_a_list)?, Self::NAMES, "user-limits")?;
        let publish = PublishLimits { messages, bytes };
        Ok(Self { max_connections, max_channels, publish, max_stored_bytes })
    }

    /// The form that [`Self::from_value`] reads.
    pub fn to_value(&self) -> Value {
        let Self { max_connections, max_channels, publish, max_stored_bytes } = self;
        write(
            Self::NAMES,
            [*max_connections, *max_channels, publish.messages, publish.bytes, *max_stored_bytes],
        )
    }

    /// Bytes that queues may hold of what the user published; none for any number.
    pub fn stored_bytes(&self) -> Option<u64> {
        self.max_stored_bytes.and_then(|max| u64::try_from(max).ok())
    }

    /// Takes over what `other` limits.
    pub fn update(&mut self, other: &Self) {
        self.max_connections = other.max_connections.or(self.max_connections);
        self.max_channels = other.max_channels.or(self.max_channels);
        self.publish.messages = other.publish.messages.or(self.publish.messages);
        self.publish.bytes = other.publish.bytes.or(self.publish.bytes);
        self.max_stored_bytes = other.max_stored_bytes.or(self.max_stored_bytes);
    }

    /// Lifts the limit of that name, or with `all` every one. Other names are fine.
    pub fn clear(&mut self, name: &str) {
        match name {
            "all" => *self = Self::default(),
            MAX_CONNECTIONS => self.max_connections = None,
            MAX_CHANNELS => self.max_channels = None,
            MAX_MESSAGE_RATE => self.publish.messages = None,
            MAX_BYTE_RATE => self.publish.bytes = None,
            MAX_STORED_BYTES => self.max_stored_bytes = None,
            _ => {}
        }
    }
}

/// The number at which a limit is reached; none when there is no limit.
pub fn bound(limit: Option<i64>) -> Option<u32> {
    limit.filter(|limit| *limit >= 0).map(|limit| u32::try_from(limit).unwrap_or(u32::MAX))
}

fn read<const N: usize>(
    limits: &Map<String, Value>,
    known: [&str; N],
    what: &str,
) -> Result<[Option<i64>; N], InvalidLimits> {
    let term = |(name, value): (&String, &Value)| {
        format!("{{{},{}}}", ErlangTerm(&Value::from(name.as_str())), ErlangTerm(value))
    };
    let unknown: Vec<_> =
        limits.iter().filter(|(name, _)| !known.contains(&name.as_str())).map(term).collect();
    if !unknown.is_empty() {
        return Err(InvalidLimits(format!("Unrecognised terms [{}] in {what}", unknown.join(","))));
    }
    let mut read = [None; N];
    for (place, name) in read.iter_mut().zip(known) {
        let Some(value) = limits.get(name) else { continue };
        let bad = || InvalidLimits(format!("{name} should be a number, actually was {}", ErlangTerm(value)));
        *place = Some(value.as_i64().ok_or_else(bad)?);
    }
    Ok(read)
}

fn write<const N: usize>(names: [&str; N], limits: [Option<i64>; N]) -> Value {
    let set = names
        .into_iter()
        .zip(limits)
        .filter_map(|(name, limit)| Some((name.to_owned(), Value::from(limit?))));
    Value::Object(set.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_are_read_and_written() {
        for value in [
            json!({}),
            json!({"max-connections": 0}),
            json!({"max-connections": -1, "max-queues": 5}),
            json!({"max-scheduled-messages": 6}),
            json!({"max-publish-bytes-per-second": 9, "max-publish-messages-per-second": 8, "max-stored-bytes": 7}),
        ] {
            assert_eq!(VhostLimits::from_value(&value).unwrap().to_value(), value);
        }
        let value = json!({"max-channels": 2, "max-connections": 1});
        let mut limits = UserLimits::from_value(&value).unwrap();
        assert_eq!(limits.to_value(), value);
        limits.update(&UserLimits { max_channels: Some(9), ..UserLimits::default() });
        assert_eq!(limits.to_value(), json!({"max-channels": 9, "max-connections": 1}));
        limits.clear("foo");
        limits.clear("max-channels");
        assert_eq!(limits.to_value(), json!({"max-connections": 1}));
        let rates = json!({"max-publish-bytes-per-second": 9, "max-publish-messages-per-second": 8});
        limits.update(&UserLimits::from_value(&rates).unwrap());
        assert!(!limits.publish.is_off());
        limits.clear("max-publish-messages-per-second");
        assert_eq!(limits.to_value(), json!({"max-connections": 1, "max-publish-bytes-per-second": 9}));
        limits.clear("max-publish-bytes-per-second");
        assert!(limits.publish.is_off());
        limits.update(&UserLimits::from_value(&json!({"max-stored-bytes": 7})).unwrap());
        assert_eq!(limits.to_value(), json!({"max-connections": 1, "max-stored-bytes": 7}));
        assert_eq!(limits.stored_bytes(), Some(7));
        limits.clear("max-stored-bytes");
        assert_eq!(limits.stored_bytes(), None);
        limits.clear("all");
        assert_eq!(limits, UserLimits::default());
    }

    #[test]
    fn others_are_refused_with_rabbitmqs_texts() {
        for (value, text) in [
            (json!(5), "limits not a list 5"),
            (json!({"max-foo": 1}), "Unrecognised terms [{<<\"max-foo\">>,1}] in limits"),
            (json!({"max-queues": "x"}), "max-queues should be a number, actually was <<\"x\">>"),
        ] {
            assert_eq!(VhostLimits::from_value(&value).unwrap_err().to_string(), text);
        }
        let error = UserLimits::from_value(&json!({"max-queues": 1})).unwrap_err();
        assert_eq!(error.to_string(), "Unrecognised terms [{<<\"max-queues\">>,1}] in user-limits");
        assert_eq!(UserLimits::from_value(&json!([])).unwrap_err().to_string(), "user-limits not a list []");
    }

    #[test]
    fn negative_is_no_bound() {
        assert_eq!(bound(None), None);
        assert_eq!(bound(Some(-1)), None);
        assert_eq!(bound(Some(0)), Some(0));
        assert_eq!(bound(Some(i64::MAX)), Some(u32::MAX));
    }
}
