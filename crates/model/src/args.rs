//! The x-arguments of declarations and consumers, read into types.
//!
//! What RabbitMQ's classic queues validate is validated with the same texts. Arguments nobody knows are accepted,
//! kept and shown, as RabbitMQ does.

use crate::errors::{self, Resource, Shown};
use crate::field::{FieldTable, FieldValue};
use crate::queue_settings::{self, MAX_TTL_MS, QueueSettings, SETTINGS};
use crate::reply::ReplyError;
use crate::stream_args::check_group_size;

/// Arguments that RabbitMQ knows for quorum queues or streams only.
const OF_OTHER_QUEUE_TYPES: [&str; 9] = [
    CONSUMER_DISCONNECTED_TIMEOUT,
    "x-initial-cluster-size",
    "x-max-age",
    "x-max-in-memory-bytes",
    "x-max-in-memory-length",
    "x-member-placement-tag",
    "x-quorum-initial-group-size",
    "x-stream-filter-size-bytes",
    "x-stream-max-segment-size-bytes",
];

/// Arguments of consumers that RabbitMQ knows for quorum queues or streams only.
const OF_OTHER_QUEUE_TYPES_CONSUMERS: [&str; 3] =
    ["x-stream-filter", "x-stream-match-unfiltered", "x-stream-offset"];

/// Arguments that two declarations of one classic queue must agree on, next to [`SETTINGS`].
const COMPARED_FOR_QUEUES: [&str; 4] =
    ["x-queue-type", "x-queue-mode", "x-queue-version", "x-queue-leader-locator"];

/// What `x-queue-leader-locator` may say.
const LEADER_LOCATORS: [&str; 4] = ["client-local", "balanced", "random", "least-leaders"];

/// Those of them that quorum queues have here. There is one node, and so one copy, whatever size a group is to have;
/// messages in memory are bounded for all queues together, and no consumer is on a node that cannot be reached.
const OF_QUORUM_QUEUES: [&str; 5] = [
    CONSUMER_DISCONNECTED_TIMEOUT,
    "x-max-in-memory-bytes",
    "x-max-in-memory-length",
    "x-member-placement-tag",
    "x-quorum-initial-group-size",
];

/// What classic queues have and quorum queues do not.
const NOT_OF_QUORUM_QUEUES: [&str; 2] = ["x-queue-mode", "x-queue-version"];

const QUEUE_TYPE: &str = "x-queue-type";

const CONSUMER_DISCONNECTED_TIMEOUT: &str = "x-consumer-disconnected-timeout";

/// The queue type of a queue declared without `x-queue-type`.
const DEFAULT_QUEUE_TYPE: &str = "classic";

/// Whether an argument of a queue's declaration means something, be it to queues of another type only.
pub fn is_known_of_queues(name: &str) -> bool {
    SETTINGS.contains(&name)
        || queue_settings::STREAM_SETTINGS.contains(&name)
        || COMPARED_FOR_QUEUES.contains(&name)
        || OF_OTHER_QUEUE_TYPES.contains(&name)
}

/// What kind of queue a declaration asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QueueKind {
    /// Messages are taken by one consumer each.
    Classic,
    /// The same, and every message is kept.
    Quorum,
    /// Messages stay and are read by everyone.
    Stream,
}

/// The arguments of a queue declaration.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct QueueArguments {
    /// What the queue is to do.
    pub settings: QueueSettings,
    /// As the client sent them, to be shown and compared.
    pub table: FieldTable,
}

/// The arguments of `basic.consume`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ConsumerArguments {
    /// Consumers of a higher priority are served first; 0 unless the client says otherwise.
    pub priority: i64,
    /// `x-consumer-timeout`: milliseconds it has to acknowledge a delivery, whatever its queue says.
    pub timeout_ms: Option<u64>,
    /// As the client sent them, to be shown.
    pub table: FieldTable,
}

impl QueueKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Classic, Self::Quorum, Self::Stream];

    /// Reads `x-queue-type` of a declaration of `queue`: 406 for a value that is no queue type.
    pub fn of(table: &FieldTable, queue: Resource<'_>) -> Result<Self, ReplyError> {
        let Some(value) = table.get(QUEUE_TYPE) else { return Ok(QueueKind::Classic) };
        let FieldValue::LongStr(bytes) = value else {
            let reason = format!("\"expected longstr, got {}\"", value.type_name());
            return Err(errors::invalid_argument(QUEUE_TYPE, queue, &reason));
        };
        let name = String::from_utf8_lossy(bytes);
        Self::from_name(&name).ok_or_else(|| {
            let reason = format!("\"unsupported queue type '{name}'\"");
            errors::invalid_argument(QUEUE_TYPE, queue, &reason)
        })
    }

    /// The type that a declaration without `x-queue-type` gets where `self` is the default: classic when it cannot be one
    /// of those.
    pub fn as_default(self, durable: bool, exclusive: bool, auto_delete: bool, server_named: bool) -> Self {
        let plain = durable && !exclusive && !auto_delete;
        match self {
            Self::Quorum if !plain => Self::Classic,
            Self::Stream if !plain || server_named => Self::Classic,
            other => other,
        }
    }

    /// The type of a queue that was declared with these arguments.
    pub fn of_declared(table: &FieldTable) -> Self {
        let Some(FieldValue::LongStr(name)) = table.get(QUEUE_TYPE) else { return Self::Classic };
        Self::from_name(&String::from_utf8_lossy(name)).unwrap_or(Self::Classic)
    }

    /// Reads the word of `x-queue-type`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }

    /// Whether an argument that RabbitMQ knows for some queue type is one of this type, which is no stream.
    fn knows(self, argument: &str) -> bool {
        match self {
            Self::Quorum if OF_QUORUM_QUEUES.contains(&argument) => true,
            Self::Quorum if NOT_OF_QUORUM_QUEUES.contains(&argument) => false,
            _ => !OF_OTHER_QUEUE_TYPES.contains(&argument),
        }
    }

    /// The word that `x-queue-type` has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => DEFAULT_QUEUE_TYPE,
            Self::Quorum => "quorum",
            Self::Stream => "stream",
        }
    }
}

impl QueueArguments {
    /// Reads the arguments of a declaration of `queue`: 406 for bad values and arguments of other queue types,
    /// 541 for what RabbitMQ no longer permits.
    pub fn parse(table: FieldTable, queue: Resource<'_>) -> Result<Self, ReplyError> {
        let kind = QueueKind::of(&table, queue)?;
        for (name, value) in &table.0 {
            let name = name.as_str();
            if !kind.knows(name) {
                return Err(errors::argument_of_other_queue_type(name, kind, queue));
            }
            let refused = |reason: String| Err(errors::invalid_argument(name, queue, &reason));
            match name {
                "x-queue-master-locator" => return Err(errors::deprecated_feature("queue_master_locator")),
                "x-queue-version" => match value.as_int() {
                    Some(2) => {}
                    Some(other) => return refused(format!("\"unsupported queue version '{other}'\"")),
                    None => return refused(expected_integer(value)),
                },
                "x-quorum-initial-group-size" => check_group_size(name, value, queue)?,
                CONSUMER_DISCONNECTED_TIMEOUT => {
                    let checked = queue_settings::not_negative(value);
                    checked.map_err(|reason| errors::invalid_argument(name, queue, &reason))?;
                }
                "x-queue-leader-locator" => check_leader_locator(value, queue)?,
                _ => {}
            }
        }
        let settings = QueueSettings::parse(&table, queue)?;
        Ok(Self { settings, table })
    }

    /// Checks a redeclaration with the arguments `received` of a queue declared with `current`: 406 when one that
    /// classic queues know differs. Integers are compared by value, and no queue type means `classic`.
    pub fn check_equivalent(
        current: &FieldTable,
        received: &FieldTable,
        queue: Resource<'_>,
    ) -> Result<(), ReplyError> {
        for name in COMPARED_FOR_QUEUES.into_iter().chain(SETTINGS) {
            let default = (name == "x-queue-type").then(|| FieldValue::string(DEFAULT_QUEUE_TYPE));
            let current = current.get(name).or(default.as_ref());
            check_equivalent(name, received.get(name).or(default.as_ref()), current, queue)?;
        }
        Ok(())
    }
}

impl ConsumerArguments {
    /// Reads the arguments of a consumer of `queue`: 406 for a priority or a timeout that makes no sense, and for
    /// arguments of other queue types.
    pub fn parse(table: FieldTable, queue: Resource<'_>) -> Result<Self, ReplyError> {
        for (name, _) in &table.0 {
            if OF_OTHER_QUEUE_TYPES_CONSUMERS.contains(&name.as_str()) {
                return Err(errors::argument_of_other_queue_type(name, QueueKind::Classic, queue));
            }
        }
        let priority = match table.get("x-priority") {
            None => 0,
            Some(value) => value
                .as_int()
                .ok_or_else(|| errors::invalid_argument("x-priority", queue, &expected_integer(value)))?,
        };
        let timeout = table.get("x-consumer-timeout").map(queue_settings::timeout).transpose();
        let timeout_ms =
            timeout.map_err(|reason| errors::invalid_argument("x-consumer-timeout", queue, &reason))?;
        Ok(Self { priority, timeout_ms, table })
    }
}

/// Reads the `expiration` property: milliseconds as decimal text, at most ten years. 406 with RabbitMQ's reason
/// otherwise.
pub fn parse_expiration(value: &[u8]) -> Result<u64, ReplyError> {
    const MAX_MS: i128 = MAX_TTL_MS as i128;
    let text = String::from_utf8_lossy(value);
    let refused = |reason: String| Err(errors::invalid_expiration(&text, &reason));
    let digits_from = usize::from(text.starts_with(['-', '+']));
    let digits = text[digits_from..].bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return refused("no_integer".to_owned());
    }
    let (number, rest) = text.split_at(digits_from + digits);
    if !rest.is_empty() {
        return refused(format!("{{leftover_string,\"{rest}\"}}"));
    }
    match number.parse::<i128>() {
        Ok(ms) if ms < 0 => refused(format!("{{value_negative,{ms}}}")),
        Ok(ms) if ms <= MAX_MS => Ok(ms as u64),
        _ => refused(format!("{{value_too_large,{number}}}")),
    }
}

/// Checks an `x-queue-leader-locator`, which has nothing to choose from on one node.
pub(crate) fn check_leader_locator(value: &FieldValue, queue: Resource<'_>) -> Result<(), ReplyError> {
    let reason = match value {
        FieldValue::LongStr(locator) if LEADER_LOCATORS.iter().any(|known| known.as_bytes() == locator) => {
            return Ok(());
        }
        FieldValue::LongStr(_) => "invalid_queue_locator_arg".to_owned(),
        other => format!("{{unacceptable_type,{}}}", other.type_name()),
    };
    Err(errors::invalid_argument("x-queue-leader-locator", queue, &reason))
}

/// Compares one argument of two declarations of `resource`: 406 when it differs.
pub(crate) fn check_equivalent(
    name: &str,
    received: Option<&FieldValue>,
    current: Option<&FieldValue>,
    resource: Resource<'_>,
) -> Result<(), ReplyError> {
    let (received_text, current_text) = (received.map(show), current.map(show));
    let (received, current) = match (received, current) {
        (None, None) => return Ok(()),
        (Some(a), Some(b)) if a == b || a.as_int().is_some() && a.as_int() == b.as_int() => return Ok(()),
        (Some(_), Some(_)) => (shown(&received_text, None), shown(&current_text, None)),
        _ => (shown(&received_text, received), shown(&current_text, current)),
    };
    Err(errors::inequivalent(name, resource, received, current))
}

/// One side of a comparison; with its type where only one side has a value.
fn shown<'a>(text: &'a Option<String>, typed: Option<&FieldValue>) -> Shown<'a> {
    match (text, typed) {
        (None, _) => Shown::Absent,
        (Some(text), None) => Shown::Value(text),
        (Some(text), Some(value)) => Shown::Typed(text, value.type_name()),
    }
}

/// A value as error texts show it.
pub fn show(value: &FieldValue) -> String {
    match value {
        FieldValue::LongStr(bytes) | FieldValue::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        FieldValue::Bool(v) => v.to_string(),
        FieldValue::F32(v) => format!("{v:?}"),
        FieldValue::F64(v) => format!("{v:?}"),
        FieldValue::Decimal { scale, value } => format!("{{{scale},{value}}}"),
        FieldValue::Timestamp(v) => v.to_string(),
        FieldValue::Array(values) => format!("[{}]", values.iter().map(show).collect::<Vec<_>>().join(",")),
        FieldValue::Table(table) => {
            let entries: Vec<_> = table.0.iter().map(|(k, v)| format!("{k}: {}", show(v))).collect();
            format!("[{}]", entries.join(","))
        }
        FieldValue::Void => "undefined".to_owned(),
        other => other.as_int().map(|v| v.to_string()).unwrap_or_default(),
    }
}

pub(crate) fn expected_integer(value: &FieldValue) -> String {
    format!("\"expected integer, got {}\"", value.type_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q: Resource<'static> = Resource { kind: errors::ResourceKind::Queue, vhost: "/", name: "q" };

    fn table(entries: &[(&str, FieldValue)]) -> FieldTable {
        FieldTable(entries.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect())
    }

    fn text(name: &str) -> FieldValue {
        FieldValue::string(name)
    }

    fn queue_error(name: &str, value: FieldValue) -> (u16, String) {
        let error = QueueArguments::parse(table(&[(name, value)]), Q).unwrap_err();
        (error.code as u16, error.text)
    }

    #[test]
    fn what_means_nothing_is_known_as_such() {
        for known in ["x-message-ttl", "x-queue-type", "x-max-age", "x-quorum-initial-group-size"] {
            assert!(is_known_of_queues(known), "{known}");
        }
        for unknown in ["x-mesage-ttl", "x-cache-persistence", ""] {
            assert!(!is_known_of_queues(unknown), "{unknown}");
        }
    }

    #[test]
    fn queue_arguments_that_are_accepted() {
        let entries = [
            ("x-queue-type", text("classic")),
            ("x-queue-mode", FieldValue::I32(9)),
            ("x-queue-version", FieldValue::I64(2)),
            ("x-queue-leader-locator", text("balanced")),
            ("x-made-up", FieldValue::Void),
        ];
        let parsed = QueueArguments::parse(table(&entries), Q).unwrap();
        assert_eq!(parsed.table, table(&entries));
    }

    #[test]
    #[rustfmt::skip]
    fn queue_arguments_that_are_refused() {
        for (name, value, code, text) in [
            ("x-queue-type", text("foo"), 406, "invalid arg 'x-queue-type' for queue 'q' in vhost '/': \"unsupported queue type 'foo'\""),
            ("x-queue-type", FieldValue::I32(1), 406, "invalid arg 'x-queue-type' for queue 'q' in vhost '/': \"expected longstr, got signedint\""),
            ("x-queue-version", FieldValue::I32(1), 406, "invalid arg 'x-queue-version' for queue 'q' in vhost '/': \"unsupported queue version '1'\""),
            ("x-queue-version", text("2"), 406, "invalid arg 'x-queue-version' for queue 'q' in vhost '/': \"expected integer, got longstr\""),
            ("x-queue-leader-locator", text("x"), 406, "invalid arg 'x-queue-leader-locator' for queue 'q' in vhost '/': invalid_queue_locator_arg"),
            ("x-queue-leader-locator", FieldValue::I32(1), 406, "invalid arg 'x-queue-leader-locator' for queue 'q' in vhost '/': {unacceptable_type,signedint}"),
            ("x-max-age", text("1D"), 406, "invalid arg 'x-max-age' for queue 'q' in vhost '/' of queue type rabbit_classic_queue"),
        ] {
            assert_eq!(queue_error(name, value), (code, text.to_owned()));
        }
        assert_eq!(queue_error("x-queue-master-locator", text("a")).0, 541);
        let unique = [("x-message-deduplication", FieldValue::Bool(true)), ("x-cache-size", FieldValue::I32(9))];
        assert!(QueueArguments::parse(table(&unique), Q).is_ok());
        assert_eq!(QueueArguments::parse(table(&unique[1..]), Q).unwrap_err().code as u16, 406);
        let quorum = [unique[0].clone(), (QUEUE_TYPE, text("quorum")), ("x-max-priority", FieldValue::I32(3))];
        assert!(QueueArguments::parse(table(&quorum), Q).is_ok());
        let numbered = ("x-publisher-deduplication", FieldValue::Bool(true));
        let quorum = [numbered, (QUEUE_TYPE, text("quorum")), ("x-overflow", text("reject-publish"))];
        assert!(QueueArguments::parse(table(&quorum), Q).is_ok());
    }

    #[test]
    fn consumer_arguments() {
        let parse = |name, value| ConsumerArguments::parse(table(&[(name, value)]), Q);
        assert_eq!(ConsumerArguments::parse(FieldTable::default(), Q).unwrap().priority, 0);
        assert_eq!(parse("x-priority", FieldValue::I8(-3)).unwrap().priority, -3);
        assert_eq!(
            parse("x-priority", text("1")).unwrap_err().text,
            "invalid arg 'x-priority' for queue 'q' in vhost '/': \"expected integer, got longstr\""
        );
        assert_eq!(
            parse("x-stream-offset", text("first")).unwrap_err(),
            errors::argument_of_other_queue_type("x-stream-offset", QueueKind::Classic, Q)
        );
        assert_eq!(parse("x-consumer-timeout", FieldValue::I32(500)).unwrap().timeout_ms, Some(500));
        assert_eq!(
            parse("x-consumer-timeout", FieldValue::I32(0)).unwrap_err().text,
            "invalid arg 'x-consumer-timeout' for queue 'q' in vhost '/': {value_zero,0}"
        );
        assert!(parse("x-cancel-on-ha-failover", FieldValue::Bool(true)).is_ok());
    }

    #[test]
    fn redeclarations_compare_known_arguments_only() {
        let check = |current: &[_], received: &[_]| {
            QueueArguments::check_equivalent(&table(current), &table(received), Q)
        };
        assert_eq!(check(&[], &[("x-queue-type", text("classic")), ("x-a", text("b"))]), Ok(()));
        let versioned = [("x-queue-version", FieldValue::I32(2))];
        assert_eq!(check(&versioned, &[("x-queue-version", FieldValue::I64(2))]), Ok(()));
        let limited = [("x-max-length", FieldValue::I32(2))];
        assert!(check(&limited, &[("x-max-length", FieldValue::I64(3))]).is_err());
        assert_eq!(
            check(&versioned, &[]).unwrap_err().text,
            "inequivalent arg 'x-queue-version' for queue 'q' in vhost '/': \
             received none but current is the value '2' of type 'signedint'"
        );
    }

    #[test]
    fn expiration() {
        let error = |value: &str| parse_expiration(value.as_bytes()).unwrap_err().text;
        assert_eq!(parse_expiration(b"0"), Ok(0));
        assert_eq!(parse_expiration(b"315360000000"), Ok(315_360_000_000));
        assert_eq!(error("abc"), "invalid expiration 'abc': no_integer");
        assert_eq!(error(""), "invalid expiration '': no_integer");
        assert_eq!(error("-1"), "invalid expiration '-1': {value_negative,-1}");
        assert_eq!(error("10.5"), "invalid expiration '10.5': {leftover_string,\".5\"}");
        assert_eq!(
            error("315360000001"),
            "invalid expiration '315360000001': {value_too_large,315360000001}"
        );
        let huge = "9".repeat(60);
        assert_eq!(error(&huge), format!("invalid expiration '{huge}': {{value_too_large,{huge}}}"));
    }
}
