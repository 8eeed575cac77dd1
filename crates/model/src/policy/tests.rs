//! What is refused with which text, and how two definitions go together.

use serde_json::json;

use super::*;
use crate::delayed_retry::{DelayedRetry, RetryType};
use crate::durability::Durability;
use crate::priorities::{OverflowPriority, PriorityOrder};
use crate::queue_settings::{DeadLetterStrategy, Overflow};

fn definition(value: Value) -> Definition {
    match value {
        Value::Object(definition) => definition,
        other => panic!("expected an object, got {other}"),
    }
}

fn refusal(kind: PolicyKind, value: Value) -> String {
    PolicySettings::parse(&definition(value), kind).unwrap_err().to_string()
}

#[test]
#[rustfmt::skip]
fn values_are_refused_with_rabbitmqs_texts() {
    for (value, text) in [
        (json!({}), "no policy provided"),
        (json!({"foo": 100, "bar": [1, "x"], "baz": "s"}), "[{<<\"bar\">>,[1,<<\"x\">>]},{<<\"baz\">>,<<\"s\">>},{<<\"foo\">>,100}] are not recognised policy settings"),
        (json!({"ha-mode": "all", "message-ttl": "x"}), "[{<<\"ha-mode\">>,<<\"all\">>}] are not recognised policy settings"),
        (json!({"x": {"a": null}}), "[{<<\"x\">>,#{<<\"a\">> => null}}] are not recognised policy settings"),
        (json!({"message-ttl": -1}), "-1 is not a valid message TTL"),
        (json!({"message-ttl": "x"}), "<<\"x\">> is not a valid message TTL"),
        (json!({"message-ttl": 315_360_000_001_u64}), "315360000001 is not a valid message TTL"),
        (json!({"message-ttl": 1.5}), "1.5 is not a valid message TTL"),
        (json!({"expires": 0}), "0 is not a valid queue expiry"),
        (json!({"max-length": -1}), "-1 is not a valid maximum length"),
        (json!({"max-length": u64::MAX}), "18446744073709551615 is not a valid maximum length"),
        (json!({"max-length-bytes": "q"}), "<<\"q\">> is not a valid maximum length in bytes"),
        (json!({"priority-order": "fair"}), "<<\"fair\">> is not a valid priority order: expected strict or weighted"),
        (json!({"overflow-priority": 1}), "1 is not a valid overflow priority: expected lowest or highest"),
        (json!({"overflow": "x"}), "<<\"x\">> is not a valid overflow value"),
        (json!({"dead-letter-exchange": 3}), "3 is not a valid dead letter exchange name"),
        (json!({"dead-letter-routing-key": true}), "true is not a valid dead letter routing key"),
        (json!({"delivery-limit": "x"}), "<<\"x\">> is not a valid delivery limit"),
        (json!({"alternate-exchange": 3}), "3 is not a valid alternate exchange name"),
        (json!({"alternate-exchange": "x".repeat(256)}), &format!("<<\"{}\">> is not a valid alternate exchange name", "x".repeat(255))),
        (json!({"queue-mode": "x"}), "<<\"x\">> is not a valid queue-mode value"),
        (json!({"queue-version": 3}), "3 is not a valid queue-version value"),
        (json!({"queue-leader-locator": 3}), "3 is not a valid queue leader locator value"),
        (json!({"dead-letter-strategy": "twice"}), "<<\"twice\">> is not a valid dead letter strategy"),
        (json!({"max-age": "1x"}), "<<\"1x\">> is not a valid max age"),
        (json!({"max-age": 1}), "1 is not a valid max age"),
        (json!({"stream-max-segment-size-bytes": 3_000_000_001_u64}), "3000000001 is not a valid segment size"),
        (json!({"stream-filter-size-bytes": 15}), "15 is not a valid filter size. Valid range is 16-255"),
        (json!({"stream-filter-size-bytes": 256}), "256 is not a valid filter size. Valid range is 16-255"),
        (json!({"initial-cluster-size": -1}), "-1 is not a valid cluster size"),
        (json!({"consumer-disconnected-timeout": -1}), "-1 is not a valid consumer disconnected timeout"),
        (json!({"target-group-size": 0}), "0 is not a valid target count"),
        (json!({"max-in-memory-bytes": "x"}), "<<\"x\">> is not a valid maximum memory in bytes"),
        (json!({"max-in-memory-length": -1}), "-1 is not a valid maximum memory in bytes"),
        (json!({"member-placement-tag": 1}), "1 is not a valid member placement tag"),
        (json!({"delayed-retry-max": 0}), "0 is not a valid maximum delay of retries"),
        (json!({"delayed-retry-min": "1s"}), "<<\"1s\">> is not a valid minimum delay of retries"),
        (json!({"delayed-retry-type": "some"}), "<<\"some\">> is not a valid delayed retry type: expected disabled, all, failed or returned"),
        (json!({"delayed-retry-type": "all"}), "delayed-retry-type: expected together with delayed-retry-min"),
        (json!({"delayed-retry-min": 9, "delayed-retry-max": 8}), "delayed-retry-max: expected delayed-retry-min (9) or more, got 8"),
        (json!({"federation-upstream": "x"}), "policy key 'federation-upstream' is not supported yet"),
    ] {
        assert_eq!(refusal(PolicyKind::User, value), text);
    }
    for key in ["alternate-exchange", "dead-letter-exchange", "dead-letter-routing-key", "max-age", "queue-mode"] {
        let expected = format!("[{{<<\"{key}\">>,<<\"x\">>}}] are not recognised policy settings");
        assert_eq!(refusal(PolicyKind::Operator, json!({key: "x"})), expected);
    }
}

#[test]
fn no_key_is_accepted_and_then_ignored() {
    for key in keys::unsupported() {
        let text = refusal(PolicyKind::User, json!({ key: 1 }));
        assert!(text.ends_with("is not supported yet") || text.contains("is not a valid"), "{key}: {text}");
    }
}

#[test]
fn definitions_become_typed() {
    let settings = PolicySettings::of_merged(&definition(json!({
        "alternate-exchange": "ae", "message-ttl": 0, "expires": 1, "max-length": 2, "max-length-bytes": 3,
        "overflow": "reject-publish-dlx", "dead-letter-exchange": "", "dead-letter-routing-key": "k",
        "dead-letter-strategy": "at-least-once",
        "delivery-limit": -1, "queue-mode": "lazy", "queue-version": 2, "queue-leader-locator": "balanced",
        "max-age": "1m", "stream-max-segment-size-bytes": 4, "durability": "relaxed", "stream-filter-size-bytes": 255,
        "initial-cluster-size": 0, "target-group-size": 1, "max-in-memory-bytes": 0, "max-in-memory-length": 0,
        "member-placement-tag": "zone",
        "delayed-retry-type": "failed", "delayed-retry-min": 6, "delayed-retry-max": 7,
        "consumer-timeout": 5, "consumer-disconnected-timeout": 0, "priority-order": "weighted", "overflow-priority": "highest",
    })));
    let expected = PolicySettings {
        exchange: ExchangePolicy { alternate_exchange: Name::new("ae").ok() },
        queue: QueuePolicy {
            message_ttl_ms: Some(0),
            expires_ms: Some(1),
            max_length: Some(2),
            max_length_bytes: Some(3),
            overflow: Some(Overflow::RejectPublishDlx),
            dead_letter_exchange: Name::new("").ok(),
            dead_letter_routing_key: Name::new("k").ok(),
            dead_letter_strategy: Some(DeadLetterStrategy::AtLeastOnce),
            consumer_timeout_ms: Some(5),
            delivery_limit: Some(-1),
            delayed_retry: DelayedRetry { kind: Some(RetryType::Failed), min_ms: Some(6), max_ms: Some(7) },
            max_age_ms: Some(60_000),
            segment_bytes: Some(4),
            filter_bytes: Some(255),
            durability: Some(Durability::Relaxed),
            priority_order: Some(PriorityOrder::Weighted),
            overflow_priority: Some(OverflowPriority::Highest),
        },
    };
    assert_eq!(settings, expected);
}

#[test]
fn the_stricter_number_and_the_operators_word_count() {
    for (user, operator, expected) in [
        (json!({"max-length": 5}), json!({"max-length": 7}), json!({"max-length": 5})),
        (json!({"max-length": 9}), json!({"max-length": 7}), json!({"max-length": 7})),
        (json!({"delivery-limit": -1}), json!({"delivery-limit": 7}), json!({"delivery-limit": 7})),
        (json!({"delivery-limit": 7}), json!({"delivery-limit": -3}), json!({"delivery-limit": 7})),
        (json!({"delivery-limit": 7}), json!({"delivery-limit": 6}), json!({"delivery-limit": 6})),
        (
            json!({"overflow": "drop-head"}),
            json!({"overflow": "reject-publish"}),
            json!({"overflow": "reject-publish"}),
        ),
        (json!({"queue-version": 1}), json!({"queue-version": 2}), json!({"queue-version": 2})),
        (
            json!({"max-in-memory-length": 5}),
            json!({"max-in-memory-length": 7}),
            json!({"max-in-memory-length": 5}),
        ),
        (
            json!({"alternate-exchange": "ae"}),
            json!({"message-ttl": 5}),
            json!({"alternate-exchange": "ae", "message-ttl": 5}),
        ),
    ] {
        let (user, operator) = (definition(user), definition(operator));
        assert_eq!(Value::Object(merged(Some(&user), Some(&operator))), expected);
    }
    assert_eq!(merged(None, None), Definition::new());
}

#[test]
fn what_a_policy_applies_to() {
    for (name, exchange, classic, stream) in [
        ("all", true, true, true),
        ("exchanges", true, false, false),
        ("queues", false, true, true),
        ("classic_queues", false, true, false),
        ("quorum_queues", false, false, false),
        ("streams", false, false, true),
    ] {
        let apply_to = ApplyTo::parse(name).unwrap();
        assert_eq!(apply_to.covers(Object::Exchange), exchange, "{name}");
        assert_eq!(apply_to.covers(Object::ClassicQueue), classic, "{name}");
        assert_eq!(apply_to.covers(Object::Stream), stream, "{name}");
        assert_eq!(apply_to.name(), name);
    }
}

#[test]
fn policies_are_read_from_their_json_form() {
    let read = |value: Value| Policy::from_value("p", &value, PolicyKind::User);
    let policy = read(json!({"pattern": "^a", "definition": {"queue-mode": "lazy"}})).unwrap();
    assert_eq!((policy.priority, policy.apply_to), (0, ApplyTo::All));
    let full = json!({
        "pattern": "^a", "definition": {"queue-mode": "lazy"}, "priority": -3, "apply-to": "queues",
    });
    assert_eq!(read(full.clone()).unwrap().to_value(), full);
    for (value, text) in [
        (json!(3), "policy 'p' should be an object, actually was 3"),
        (json!({"definition": {}}), "Key \"pattern\" not found in policy"),
        (json!({"pattern": "a"}), "Key \"definition\" not found in policy"),
        (json!({"pattern": 1, "definition": {}}), "pattern should be a string, actually was 1"),
        (json!({"pattern": "a", "definition": [1]}), "definition must be a dictionary: [1]"),
        (
            json!({"pattern": "a", "definition": {}, "priority": "x"}),
            "priority should be a number, actually was <<\"x\">>",
        ),
        (
            json!({"pattern": "a", "definition": {}, "apply-to": "x"}),
            "apply-to 'x' unrecognised; should be one of: 'queues', 'classic_queues', 'quorum_queues', \
             'streams', 'exchanges', or 'all'",
        ),
        (
            json!({"pattern": "a", "definition": {}, "apply-to": 7}),
            "apply-to should be a string, actually was 7",
        ),
        (json!({"pattern": "a", "definition": {}, "x": 1}), "Unrecognised terms [<<\"x\">>] in policy"),
    ] {
        assert_eq!(read(value).unwrap_err().to_string(), text);
    }
    assert!(Policy::from_value("", &full, PolicyKind::User).is_err());
    assert!(Policy::from_value(&"p".repeat(256), &full, PolicyKind::User).is_err());
}
