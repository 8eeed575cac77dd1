//! The x-arguments of streams and of their consumers, read into types, with RabbitMQ's checks and texts.

use crate::args::{check_equivalent, check_leader_locator, expected_integer};
use crate::durability::Durability;
use crate::errors::{self, Resource};
use crate::field::{FieldTable, FieldValue};
use crate::queue_settings::{self, QueueSettings};
use crate::reply::ReplyError;

/// Arguments that RabbitMQ knows for other queue types only.
const OF_OTHER_QUEUE_TYPES: [&str; 26] = [
    "x-cache-size",
    "x-cache-ttl",
    "x-consumer-disconnected-timeout",
    "x-consumer-timeout",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-delayed-retry-max",
    "x-delayed-retry-min",
    "x-delayed-retry-type",
    "x-delivery-limit",
    "x-expires",
    "x-max-in-memory-bytes",
    "x-max-in-memory-length",
    "x-max-length",
    "x-max-priority",
    "x-member-placement-tag",
    "x-message-deduplication",
    "x-message-groups",
    "x-message-ttl",
    "x-overflow",
    "x-publisher-deduplication",
    "x-queue-mode",
    "x-queue-version",
    "x-quorum-initial-group-size",
    "x-single-active-consumer",
];

/// Arguments of consumers that RabbitMQ knows for other queue types only.
const OF_OTHER_QUEUE_TYPES_CONSUMERS: [&str; 2] = ["x-priority", "x-consumer-timeout"];

/// Arguments that two declarations of one stream must agree on.
const COMPARED: [&str; 8] = [
    "x-queue-type",
    MAX_BYTES,
    MAX_AGE,
    SEGMENT_BYTES,
    FILTER_BYTES,
    CLUSTER_SIZE,
    "x-queue-leader-locator",
    DURABILITY,
];

const MAX_BYTES: &str = "x-max-length-bytes";
const MAX_AGE: &str = "x-max-age";
const SEGMENT_BYTES: &str = "x-stream-max-segment-size-bytes";
const FILTER_BYTES: &str = "x-stream-filter-size-bytes";
const CLUSTER_SIZE: &str = "x-initial-cluster-size";
const DURABILITY: &str = "x-durability";
const OFFSET: &str = "x-stream-offset";
const FILTER: &str = "x-stream-filter";
const MATCH_UNFILTERED: &str = "x-stream-match-unfiltered";
const TRACKING: &str = "x-stream-automatic-offset-tracking";
const NAME: &str = "x-stream-consumer-name";
const SINGLE_ACTIVE: &str = "x-single-active-consumer";

/// Bytes of a consumer's name.
const NAME_BYTES_MAX: usize = 255;

/// The largest segment size that can be asked for.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 3_000_000_000;

/// The arguments of a stream's declaration.
#[derive(Clone, PartialEq, Debug)]
pub struct StreamArguments {
    /// What to keep.
    pub settings: QueueSettings,
    /// As the client sent them, to be shown and compared.
    pub table: FieldTable,
}

/// Where a consumer of a stream begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StreamOffset {
    /// At the oldest message that is kept.
    First,
    /// At the newest message.
    Last,
    /// At the next message that comes.
    #[default]
    Next,
    /// At the message of this number; when there is none yet, it is waited for.
    Number(u64),
    /// At the first message received at or after this time, in milliseconds since the Unix epoch.
    Since(u64),
}

/// The arguments of `basic.consume` on a stream.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct StreamConsumerArguments {
    /// Where to begin.
    pub offset: StreamOffset,
    /// Filter values of which a message must have one; empty when all messages are wanted.
    pub filter: Vec<Vec<u8>>,
    /// Messages without a filter value are wanted, too.
    pub match_unfiltered: bool,
    /// The name under which its offset is stored, when the arguments give one.
    pub name: Option<Vec<u8>>,
    /// Its offset is stored, under its tag when it has no other name.
    pub tracking: bool,
    /// It takes turns with the other consumers of its name.
    pub single_active: bool,
}

impl StreamArguments {
    /// Reads the arguments of a declaration of the stream `queue`: 406 for bad values and arguments of other queue
    /// types, 541 for what RabbitMQ no longer permits.
    pub fn parse(table: FieldTable, queue: Resource<'_>) -> Result<Self, ReplyError> {
        let mut arguments = Self { settings: QueueSettings::default(), table: FieldTable::default() };
        for (name, value) in &table.0 {
            let (name, settings) = (name.as_str(), &mut arguments.settings);
            match name {
                MAX_BYTES | MAX_AGE | SEGMENT_BYTES | DURABILITY => {
                    let set = settings.set(name, value);
                    set.map_err(|reason| errors::invalid_argument(name, queue, &reason))?;
                    if settings.durability == Durability::Memory {
                        let reason = "\"expected sync or relaxed for a stream, got 'memory'\"";
                        return Err(errors::invalid_argument(name, queue, reason));
                    }
                    if settings.segment_bytes.is_some_and(|bytes| bytes > SEGMENT_BYTES_MAX) {
                        return Err(errors::exceeded_max_value(SEGMENT_BYTES));
                    }
                }
                FILTER_BYTES => {
                    check_filter_bytes(value)?;
                    // Checked just now.
                    let _ = settings.set(name, value);
                }
                // There is one node, and so one copy.
                CLUSTER_SIZE => check_group_size(CLUSTER_SIZE, value, queue)?,
                "x-queue-leader-locator" => check_leader_locator(value, queue)?,
                "x-queue-master-locator" => return Err(errors::deprecated_feature("queue_master_locator")),
                _ if OF_OTHER_QUEUE_TYPES.contains(&name) => {
                    return Err(errors::argument_of_no_stream(name, queue));
                }
                _ => {}
            }
        }
        Ok(Self { table, ..arguments })
    }

    /// Checks a redeclaration with the arguments `received` of a stream declared with `current`: 406 when one that
    /// streams know differs.
    pub fn check_equivalent(
        current: &FieldTable,
        received: &FieldTable,
        queue: Resource<'_>,
    ) -> Result<(), ReplyError> {
        COMPARED
            .iter()
            .try_for_each(|name| check_equivalent(name, received.get(name), current.get(name), queue))
    }
}

impl StreamConsumerArguments {
    /// Reads the arguments of a consumer of the stream `queue`: 406 for bad values and for arguments of other queue
    /// types. Intervals are counted back from `now_ms`, in milliseconds since the Unix epoch.
    pub fn parse(table: &FieldTable, queue: Resource<'_>, now_ms: u64) -> Result<Self, ReplyError> {
        let mut arguments = Self::default();
        for (name, value) in &table.0 {
            let unacceptable = || {
                let reason = format!("{{unacceptable_type,{}}}", value.type_name());
                errors::invalid_argument(name, queue, &reason)
            };
            match name.as_str() {
                OFFSET => {
                    arguments.offset = offset(value, now_ms)
                        .ok_or_else(|| errors::invalid_argument(OFFSET, queue, &invalid_offset(value)))?;
                }
                FILTER => arguments.filter = filter(value).ok_or_else(unacceptable)?,
                MATCH_UNFILTERED => arguments.match_unfiltered = flag(value).ok_or_else(unacceptable)?,
                TRACKING => arguments.tracking = flag(value).ok_or_else(unacceptable)?,
                SINGLE_ACTIVE => arguments.single_active = flag(value).ok_or_else(unacceptable)?,
                NAME => {
                    let FieldValue::LongStr(text) = value else { return Err(unacceptable()) };
                    if !(1..=NAME_BYTES_MAX).contains(&text.len()) {
                        let reason = format!("\"expected 1 to {NAME_BYTES_MAX} bytes, got {}\"", text.len());
                        return Err(errors::invalid_argument(NAME, queue, &reason));
                    }
                    arguments.name = Some(text.clone());
                }
                other if OF_OTHER_QUEUE_TYPES_CONSUMERS.contains(&other) => {
                    return Err(errors::argument_of_no_stream(other, queue));
                }
                _ => {}
            }
        }
        arguments.tracking |= arguments.single_active || arguments.name.is_some();
        Ok(arguments)
    }
}

fn flag(value: &FieldValue) -> Option<bool> {
    if let FieldValue::Bool(flag) = value { Some(*flag) } else { None }
}

fn integer(name: &str, value: &FieldValue, queue: Resource<'_>) -> Result<i64, ReplyError> {
    value.as_int().ok_or_else(|| errors::invalid_argument(name, queue, &expected_integer(value)))
}

fn check_filter_bytes(value: &FieldValue) -> Result<(), ReplyError> {
    let bytes = value.as_int().ok_or_else(|| errors::invalid_type_for(FILTER_BYTES))?;
    match u8::try_from(bytes) {
        Ok(bytes) if queue_settings::FILTER_BYTES.contains(&bytes) => Ok(()),
        _ => Err(errors::invalid_value_for(FILTER_BYTES)),
    }
}

/// Checks how many copies are asked for; there is one.
pub(crate) fn check_group_size(
    name: &str,
    value: &FieldValue,
    queue: Resource<'_>,
) -> Result<(), ReplyError> {
    let refused = |reason: String| Err(errors::invalid_argument(name, queue, &reason));
    match integer(name, value, queue)? {
        0 => refused("{value_zero,0}".to_owned()),
        negative if negative < 0 => refused(format!("{{value_negative,{negative}}}")),
        _ => Ok(()),
    }
}

fn offset(value: &FieldValue, now_ms: u64) -> Option<StreamOffset> {
    match value {
        FieldValue::LongStr(text) => match text.as_slice() {
            b"first" => Some(StreamOffset::First),
            b"last" => Some(StreamOffset::Last),
            b"next" => Some(StreamOffset::Next),
            interval => Some(StreamOffset::Since(now_ms.saturating_sub(parse_interval(interval)?))),
        },
        FieldValue::Timestamp(seconds) => Some(StreamOffset::Since(seconds.saturating_mul(1000))),
        other => other.as_int().and_then(|number| u64::try_from(number).ok()).map(StreamOffset::Number),
    }
}

fn invalid_offset(value: &FieldValue) -> String {
    let shown = match value {
        FieldValue::LongStr(text) => errors::erlang_binary(text),
        other => crate::args::show(other),
    };
    format!("{{invalid_stream_offset_arg,{{{},{shown}}}}}", value.type_name())
}

fn filter(value: &FieldValue) -> Option<Vec<Vec<u8>>> {
    match value {
        FieldValue::LongStr(text) => Some(vec![text.clone()]),
        FieldValue::Array(values) => {
            let text = |value: &FieldValue| match value {
                FieldValue::LongStr(text) => Some(text.clone()),
                _ => None,
            };
            values.iter().map(text).collect()
        }
        _ => None,
    }
}

/// `7D`: a number above 0 and one of the units Y (365 days), M (30 days), D, h, m, s; in milliseconds.
pub(crate) fn parse_interval(text: &[u8]) -> Option<u64> {
    const SECOND: u64 = 1000;
    const DAY: u64 = 86_400 * SECOND;
    let (unit, digits) = text.split_last()?;
    let unit_ms = match unit {
        b'Y' => 365 * DAY,
        b'M' => 30 * DAY,
        b'D' => DAY,
        b'h' => 3600 * SECOND,
        b'm' => 60 * SECOND,
        b's' => SECOND,
        _ => return None,
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    number.checked_mul(unit_ms).filter(|ms| *ms > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q: Resource<'static> = Resource { kind: errors::ResourceKind::Queue, vhost: "/", name: "q" };

    fn table(name: &str, value: FieldValue) -> FieldTable {
        FieldTable(vec![(name.to_owned(), value)])
    }

    fn text(value: &str) -> FieldValue {
        FieldValue::string(value)
    }

    #[test]
    fn intervals() {
        let cases =
            [("1s", 1000), ("2m", 120_000), ("3h", 10_800_000), ("1D", 86_400_000), ("1M", 2_592_000_000)];
        for (interval, ms) in cases {
            assert_eq!(parse_interval(interval.as_bytes()), Some(ms), "{interval}");
        }
        for wrong in ["", "D", "0s", "-1D", "+1D", "1.5D", "10", "1x", "1 D", "99999999999999999999D"] {
            assert_eq!(parse_interval(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn declarations_that_are_refused() {
        for (name, value, code, expected) in [
            (MAX_AGE, text("nonsense"), 406, "invalid arg 'x-max-age' for queue 'q' in vhost '/': invalid_max_age"),
            (MAX_AGE, FieldValue::I32(5), 406, "invalid arg 'x-max-age' for queue 'q' in vhost '/': {unacceptable_type,signedint}"),
            (MAX_BYTES, FieldValue::I32(-1), 406, "invalid arg 'x-max-length-bytes' for queue 'q' in vhost '/': {value_negative,-1}"),
            (SEGMENT_BYTES, FieldValue::I64(3_000_000_001), 406, "Exceeded max value for x-stream-max-segment-size-bytes"),
            (SEGMENT_BYTES, text("1"), 406, "invalid arg 'x-stream-max-segment-size-bytes' for queue 'q' in vhost '/': \"expected integer, got longstr\""),
            (FILTER_BYTES, FieldValue::I32(15), 406, "Invalid value for x-stream-filter-size-bytes"),
            (FILTER_BYTES, FieldValue::I32(256), 406, "Invalid value for x-stream-filter-size-bytes"),
            (FILTER_BYTES, text("16"), 406, "Invalid type for x-stream-filter-size-bytes"),
            (CLUSTER_SIZE, FieldValue::I32(0), 406, "invalid arg 'x-initial-cluster-size' for queue 'q' in vhost '/': {value_zero,0}"),
            ("x-queue-leader-locator", text("x"), 406, "invalid arg 'x-queue-leader-locator' for queue 'q' in vhost '/': invalid_queue_locator_arg"),
            ("x-max-length", FieldValue::I32(1), 406, "invalid arg 'x-max-length' for queue 'q' in vhost '/' of queue type rabbit_stream_queue"),
        ] {
            let error = StreamArguments::parse(table(name, value), Q).unwrap_err();
            assert_eq!((error.code as u16, error.text.as_str()), (code, expected));
        }
    }

    #[test]
    fn declarations_that_are_accepted() {
        let parse = |name, value| StreamArguments::parse(table(name, value), Q).unwrap();
        assert_eq!(parse(MAX_AGE, text("2h")).settings.max_age_ms, Some(7_200_000));
        assert_eq!(parse(MAX_BYTES, FieldValue::I64(0)).settings.max_length_bytes, Some(0));
        let largest = parse(SEGMENT_BYTES, FieldValue::I64(3_000_000_000));
        assert_eq!(largest.settings.segment_bytes, Some(SEGMENT_BYTES_MAX));
        assert_eq!(parse(FILTER_BYTES, FieldValue::U8(255)).settings.filter_bytes, Some(255));
        assert_eq!(parse("x-own", FieldValue::Void).settings.filter_bytes, None);
    }

    #[test]
    fn consumers() {
        let parse = |name, value| StreamConsumerArguments::parse(&table(name, value), Q, 10_000_000);
        let offset = |value| parse(OFFSET, value).map(|arguments| arguments.offset);
        assert_eq!(parse("x-own", FieldValue::Void).unwrap().offset, StreamOffset::Next);
        assert_eq!(offset(text("first")), Ok(StreamOffset::First));
        assert_eq!(offset(FieldValue::I64(7)), Ok(StreamOffset::Number(7)));
        assert_eq!(offset(FieldValue::Timestamp(7)), Ok(StreamOffset::Since(7000)));
        assert_eq!(offset(text("1h")), Ok(StreamOffset::Since(6_400_000)));
        let error = |value| offset(value).unwrap_err().text;
        let start = "invalid arg 'x-stream-offset' for queue 'q' in vhost '/': {invalid_stream_offset_arg,";
        assert_eq!(error(text("7x")), format!("{start}{{longstr,<<\"7x\">>}}}}"));
        assert_eq!(error(FieldValue::I64(-1)), format!("{start}{{long,-1}}}}"));
        let named = parse(NAME, text("app")).unwrap();
        assert!(named.tracking && !named.single_active && named.name.as_deref() == Some(b"app"));
        assert!(parse(TRACKING, FieldValue::Bool(true)).unwrap().tracking);
        assert!(!parse(TRACKING, FieldValue::Bool(false)).unwrap().tracking);
        let single = parse(SINGLE_ACTIVE, FieldValue::Bool(true)).unwrap();
        assert!(single.single_active && single.tracking && single.name.is_none());
        assert_eq!(
            parse(NAME, text("")).unwrap_err().text,
            "invalid arg 'x-stream-consumer-name' for queue 'q' in vhost '/': \"expected 1 to 255 bytes, got 0\""
        );
        assert!(parse(NAME, text(&"x".repeat(256))).is_err());
        assert_eq!(
            parse(TRACKING, text("true")).unwrap_err().text,
            "invalid arg 'x-stream-automatic-offset-tracking' for queue 'q' in vhost '/': {unacceptable_type,longstr}"
        );
        let filtered = parse(FILTER, FieldValue::Array(vec![text("a"), text("b")])).unwrap();
        assert_eq!(filtered.filter, [b"a", b"b"]);
        assert_eq!(parse(FILTER, text("a")).unwrap().filter, [b"a"]);
        assert!(parse(MATCH_UNFILTERED, FieldValue::Bool(true)).unwrap().match_unfiltered);
        assert_eq!(
            parse(FILTER, FieldValue::I32(1)).unwrap_err().text,
            "invalid arg 'x-stream-filter' for queue 'q' in vhost '/': {unacceptable_type,signedint}"
        );
        assert_eq!(
            parse("x-priority", FieldValue::I32(1)).unwrap_err().text,
            "invalid arg 'x-priority' for queue 'q' in vhost '/' of queue type rabbit_stream_queue"
        );
    }

    #[test]
    fn redeclarations_compare_what_streams_know() {
        let aged = table(MAX_AGE, text("1D"));
        let check = |current: &FieldTable, received: &FieldTable| {
            StreamArguments::check_equivalent(current, received, Q)
        };
        assert_eq!(check(&aged, &aged), Ok(()));
        let more = FieldTable(vec![(MAX_AGE.into(), text("1D")), ("a".into(), text("b"))]);
        assert_eq!(check(&aged, &more), Ok(()));
        assert_eq!(
            check(&aged, &table(MAX_AGE, text("2D"))).unwrap_err().text,
            "inequivalent arg 'x-max-age' for queue 'q' in vhost '/': received '2D' but current is '1D'"
        );
    }
}
