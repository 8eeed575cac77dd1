//! Queues with `x-max-priority`.

use posthouse_testkit::{
    Broker, Consume, Exchange, FieldValue, Method, Options, Peer, Properties, Publish, Queue, expect_method,
    table, text,
};

use super::{broker, unique};

fn arguments(max_priority: i64) -> posthouse_testkit::FieldTable {
    table([("x-max-priority", FieldValue::I64(max_priority))])
}

fn declare(peer: &mut Peer, max_priority: i64) -> String {
    let queue = unique("priorities");
    let arguments = arguments(max_priority);
    peer.declare(1, &Queue { arguments, exclusive: true, ..Queue::named(&queue) });
    queue
}

/// Publishes in one batch: the bodies, and their priorities.
fn publish(peer: &mut Peer, exchange: &str, key: &str, messages: &[(&str, Option<u8>)]) {
    let mut batch = Vec::new();
    for &(body, priority) in messages {
        let properties = Properties { priority, ..Properties::default() };
        Publish { properties, body: body.as_bytes(), ..Publish::to(exchange, key) }
            .write(1, 131_072, &mut batch);
    }
    peer.send_bytes(&batch);
}

/// A message of each kind, as RabbitMQ's documentation has it.
const MIXED: [(&str, Option<u8>); 8] = [
    ("none", None),
    ("9", Some(9)),
    ("0", Some(0)),
    ("40", Some(40)),
    ("5a", Some(5)),
    ("4", Some(4)),
    ("5b", Some(5)),
    ("10", Some(10)),
];

#[test]
fn the_highest_first_and_in_order_within_a_priority() {
    let mut peer = broker().peer();
    let queue = declare(&mut peer, 10);
    publish(&mut peer, "", &queue, &MIXED);
    peer.await_counts(1, &queue, (8, 0));
    assert_eq!(peer.drain(1, &queue), ["40", "10", "9", "5a", "5b", "4", "none", "0"]);
    let only_zero = declare(&mut peer, 0);
    publish(&mut peer, "", &only_zero, &MIXED);
    assert_eq!(peer.drain(1, &only_zero), MIXED.map(|(body, _)| body));
}

#[test]
fn each_queue_of_a_fanout_has_its_own_order() {
    let mut peer = broker().peer();
    let exchange = unique("fanout");
    peer.declare_exchange(1, &Exchange { auto_delete: true, ..Exchange::named(&exchange, "fanout") });
    let (ten, four, other_ten) = (declare(&mut peer, 10), declare(&mut peer, 4), declare(&mut peer, 10));
    let plain = peer.server_named(1);
    for queue in [&ten, &four, &other_ten, &plain] {
        peer.bind(1, queue, &exchange, "");
    }
    peer.select_confirms(1);
    publish(&mut peer, &exchange, "", &MIXED);
    // Alternating with one that goes to some of them only, in one batch.
    publish(&mut peer, "", &four, &[("last 4", Some(4))]);
    publish(&mut peer, &exchange, "", &[("last 3", Some(3)), ("last 9", Some(9))]);
    peer.confirmed(1, 11);
    let of_ten = ["40", "10", "9", "last 9", "5a", "5b", "4", "last 3", "none", "0"];
    assert_eq!(peer.drain(1, &ten), of_ten);
    assert_eq!(peer.drain(1, &other_ten), of_ten);
    let of_four = ["9", "40", "5a", "4", "5b", "10", "last 4", "last 9", "last 3", "none", "0"];
    assert_eq!(peer.drain(1, &four), of_four);
    let of_plain = ["none", "9", "0", "40", "5a", "4", "5b", "10", "last 3", "last 9"];
    assert_eq!(peer.drain(1, &plain), of_plain);
}

#[test]
fn what_was_prefetched_stays_and_what_comes_next_is_the_highest() {
    let mut peer = broker().peer();
    let queue = declare(&mut peer, 5);
    publish(&mut peer, "", &queue, &[("a", Some(1)), ("b", Some(1)), ("c", Some(1))]);
    peer.prefetch(1, 2, false);
    peer.consume(1, &Consume::from(&queue));
    let (a, b) = (peer.message(1), peer.message(1));
    assert_eq!((a.text(), b.text()), ("a".to_owned(), "b".to_owned()));
    publish(&mut peer, "", &queue, &[("high", Some(5))]);
    peer.expect_quiet(1);
    peer.ack(1, a.tag);
    assert_eq!(peer.message(1).text(), "high");
}

#[test]
fn a_message_given_back_keeps_its_place_in_its_priority() {
    let mut peer = broker().peer();
    let queue = declare(&mut peer, 5);
    publish(&mut peer, "", &queue, &[("x", Some(2)), ("y", Some(2)), ("z", Some(2))]);
    let [x, y] = [0, 1].map(|_| peer.get(1, &queue, false).expect("a message"));
    publish(&mut peer, "", &queue, &[("low", None), ("high", Some(3)), ("last", Some(2))]);
    for message in [y, x] {
        let delivery_tag = message.tag;
        peer.send(1, &Method::BasicReject { delivery_tag, requeue: true });
    }
    peer.await_counts(1, &queue, (6, 0));
    let high = peer.get(1, &queue, true).expect("a message");
    let x = peer.get(1, &queue, true).expect("a message");
    assert_eq!((high.text(), high.redelivered), ("high".to_owned(), false));
    assert_eq!((x.text(), x.redelivered), ("x".to_owned(), true));
    assert_eq!(peer.drain(1, &queue), ["y", "z", "last", "low"]);
}

#[test]
fn counts_purge_and_delete_are_of_all_priorities() {
    let mut peer = broker().peer();
    let queue = declare(&mut peer, 255);
    publish(&mut peer, "", &queue, &[("a", Some(255)), ("b", Some(100)), ("c", Some(1)), ("d", None)]);
    peer.await_counts(1, &queue, (4, 0));
    assert_eq!(peer.get(1, &queue, false).map(|got| got.text()).as_deref(), Some("a"));
    peer.send(1, &Method::QueuePurge { queue: &queue, nowait: false });
    expect_method!(peer, 1, Method::QueuePurgeOk { message_count: 3 });
    // What was handed out is not purged, and comes back.
    peer.send(1, &Method::BasicRecover { requeue: true });
    expect_method!(peer, 1, Method::BasicRecoverOk {});
    publish(&mut peer, "", &queue, &[("e", Some(3))]);
    peer.await_counts(1, &queue, (2, 0));
    peer.open_channel(2);
    let if_empty = Method::QueueDelete { queue: &queue, if_unused: false, if_empty: true, nowait: false };
    peer.send(2, &if_empty);
    let text = format!("PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty");
    peer.expect_channel_close(2, 406, &text, (50, 40));
    assert_eq!(peer.drain(1, &queue), ["a", "e"]);
}

#[test]
fn a_publish_in_a_transaction_has_its_priority_too() {
    let mut peer = broker().peer();
    let queue = declare(&mut peer, 3);
    peer.send(1, &Method::TxSelect {});
    expect_method!(peer, 1, Method::TxSelectOk {});
    publish(&mut peer, "", &queue, &[("0", None), ("3", Some(3)), ("1", Some(1))]);
    peer.send(1, &Method::TxCommit {});
    expect_method!(peer, 1, Method::TxCommitOk {});
    assert_eq!(peer.drain(1, &queue), ["3", "1", "0"]);
}

#[test]
fn two_declarations_must_agree() {
    let mut peer = broker().peer();
    let queue = declare(&mut peer, 7);
    for (other, what) in [
        (arguments(8), "received '8' but current is '7'"),
        (table([]), "received none but current is the value '7' of type 'long'"),
    ] {
        peer.open_channel(2);
        let method = Queue { arguments: other, exclusive: true, ..Queue::named(&queue) };
        peer.send(2, &method.method());
        let text = format!(
            "PRECONDITION_FAILED - inequivalent arg 'x-max-priority' for queue '{queue}' in vhost '/': {what}"
        );
        peer.expect_channel_close(2, 406, &text, (50, 10));
    }
}

#[test]
fn the_lowest_makes_room_unless_a_policy_says_otherwise() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let short = Queue {
        arguments: table([("x-max-priority", FieldValue::I32(9)), ("x-max-length", FieldValue::I32(2))]),
        ..Queue::named("short")
    };
    peer.declare(1, &short);
    let four = [("9", Some(9)), ("0", Some(0)), ("5", Some(5)), ("1", Some(1))];
    publish(&mut peer, "", "short", &four);
    assert_eq!(peer.drain(1, "short"), ["9", "5"]);
    broker.ctl(&["set_policy", "p", "^short$", r#"{"overflow-priority":"highest"}"#]);
    publish(&mut peer, "", "short", &four);
    assert_eq!(peer.drain(1, "short"), ["1", "0"], "as RabbitMQ does");
}

#[test]
fn refused_publishes_are_told_apart_whatever_their_priority() {
    let mut peer = broker().peer();
    let queue = unique("full");
    let arguments = table([
        ("x-max-priority", FieldValue::I32(9)),
        ("x-max-length", FieldValue::I32(2)),
        ("x-overflow", text("reject-publish")),
    ]);
    peer.declare(1, &Queue { arguments, exclusive: true, ..Queue::named(&queue) });
    peer.select_confirms(1);
    for (number, &(body, priority)) in
        (1..).zip(&[("a", Some(1)), ("b", Some(2)), ("c", Some(9)), ("d", None)])
    {
        publish(&mut peer, "", &queue, &[(body, priority)]);
        match (peer.method(1).get(), number) {
            (Method::BasicAck { delivery_tag, .. }, 1 | 2) => assert_eq!(delivery_tag, number),
            (Method::BasicNack { delivery_tag, .. }, 3 | 4) => assert_eq!(delivery_tag, number),
            (other, _) => panic!("publish {number}: {other:?}"),
        }
    }
    assert_eq!(peer.drain(1, &queue), ["b", "a"]);
}

#[test]
fn weighted_priorities_share_a_consumer() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue { arguments: arguments(3), ..Queue::named("shared") });
    let many: Vec<_> = (0..40).map(|at| if at % 2 == 0 { ("3", Some(3)) } else { ("0", None) }).collect();
    publish(&mut peer, "", "shared", &many);
    broker.ctl(&["set_policy", "p", "^shared$", r#"{"priority-order":"weighted"}"#]);
    let first: Vec<_> = peer.drain(1, "shared").into_iter().take(10).collect();
    assert_eq!(first, ["3", "3", "3", "3", "0", "3", "3", "3", "3", "0"]);
}

#[test]
fn browsing_shows_the_order_of_delivery() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue { arguments: arguments(9), ..Queue::named("seen") });
    publish(&mut peer, "", "seen", &[("low", None), ("high", Some(9)), ("mid", Some(5)), ("mid2", Some(5))]);
    peer.await_counts(1, "seen", (4, 0));
    let shown = broker.ctl(&["browse_queue", "seen", "payload"]);
    let places: Vec<_> = ["high", "mid", "mid2", "low"].map(|body| shown.find(body)).into();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{shown}");
}

#[test]
fn dead_letters_keep_their_priority() {
    let mut peer = broker().peer();
    let target = declare(&mut peer, 9);
    let queue = unique("dying");
    let arguments = table([
        ("x-max-priority", FieldValue::I32(5)),
        ("x-max-length", FieldValue::I32(3)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(&target)),
    ]);
    peer.declare(1, &Queue { arguments, exclusive: true, ..Queue::named(&queue) });
    publish(&mut peer, "", &queue, &[("1", Some(1)), ("5", Some(5)), ("9", Some(9)), ("4", Some(4))]);
    peer.await_counts(1, &target, (1, 0));
    assert_eq!(peer.drain(1, &target), ["1"], "the lowest made room");
    let last = (0..3).map(|_| peer.get(1, &queue, false).expect("a message")).last().expect("three");
    assert_eq!(last.text(), "4");
    peer.send(1, &Method::BasicNack { delivery_tag: last.tag, multiple: true, requeue: false });
    peer.await_counts(1, &target, (3, 0));
    assert_eq!(peer.drain(1, &target), ["9", "5", "4"], "in one level they were the other way round");
}
