//! What is read, what is refused, and how policies and arguments go together.

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
        ("x-priority-order", FieldValue::string("fair"), "\"expected 'strict' or 'weighted', got 'fair'\""),
        ("x-overflow-priority", FieldValue::string(""), "\"expected 'lowest' or 'highest', got ''\""),
        ("x-consumer-timeout", FieldValue::I32(0), "{value_zero,0}"),
        ("x-consumer-timeout", FieldValue::I32(-1), "{value_negative,-1}"),
        ("x-consumer-timeout", FieldValue::I64(1 << 40), "{value_too_large,1099511627776}"),
        ("x-consumer-timeout", FieldValue::string("1s"), "\"expected integer, got longstr\""),
        ("x-delivery-limit", FieldValue::string("3"), "\"expected integer, got longstr\""),
        (
            "x-delayed-retry-type",
            FieldValue::string("some"),
            "\"expected disabled, all, failed or returned, got 'some'\"",
        ),
        ("x-delayed-retry-type", FieldValue::Bool(true), "{unacceptable_type,bool}"),
        ("x-delayed-retry-type", FieldValue::string("all"), "\"expected together with x-delayed-retry-min\""),
        ("x-delayed-retry-min", FieldValue::I32(5), "\"expected together with x-delayed-retry-type\""),
        ("x-delayed-retry-max", FieldValue::I32(5), "\"expected together with x-delayed-retry-type\""),
        ("x-delayed-retry-min", FieldValue::I32(0), "{value_zero,0}"),
        ("x-delayed-retry-min", FieldValue::string("1s"), "\"expected integer, got longstr\""),
        ("x-delayed-retry-max", FieldValue::I32(-1), "{value_negative,-1}"),
        ("x-delayed-retry-max", FieldValue::I64(1 << 40), "{value_too_large,1099511627776}"),
    ] {
        assert_eq!(text(name, value), invalid(name, reason));
    }
}

#[test]
fn delays_of_retries_are_checked_together() {
    let all = ("x-delayed-retry-type", FieldValue::string("all"));
    let (min, max) =
        (("x-delayed-retry-min", FieldValue::I32(5)), ("x-delayed-retry-max", FieldValue::I32(4)));
    assert_eq!(
        parse(&[all.clone(), min.clone(), max.clone()]).unwrap_err(),
        "invalid arg 'x-delayed-retry-max' for queue 'q' in vhost '/': \"expected x-delayed-retry-min (5) or more, got 4\""
    );
    let settings = parse(&[all, min]).unwrap();
    assert_eq!(settings.delivery_limit(), Some(u64::MAX), "counted, without a limit");
    let off = parse(&[("x-delayed-retry-type", FieldValue::string("disabled"))]).unwrap();
    assert_eq!((off.delayed_retry.is_on(), off.delivery_limit()), (false, None));
}
