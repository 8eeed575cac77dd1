//! Scheduled messages that are due and find no room: they come when there is some, in order, and nobody knows of them before.

use std::time::{Duration, Instant};

use posthouse_testkit::{
    Broker, Consume, Exchange, FieldValue, Options, Peer, Properties, Queue, table, text,
};

use super::scheduled::{delayed, publish};
use super::{broker, unique};

/// A queue with room for one message.
fn declare_small(peer: &mut Peer) -> String {
    let queue = unique("small");
    let arguments = table([("x-max-length", FieldValue::I32(1)), ("x-overflow", text("reject-publish"))]);
    peer.declare(1, &Queue { arguments, ..Queue::named(&queue) });
    queue
}

/// Returns when all that is due by now was tried.
fn await_tried(peer: &mut Peer) {
    let marker = peer.server_named(1);
    peer.consume(1, &Consume::no_ack(&marker));
    publish(peer, "", &marker, delayed(60), "marker");
    assert_eq!(peer.message(1).text(), "marker");
}

fn history_of(peer: &mut Peer, exchange: &str) -> Vec<String> {
    let late = peer.server_named(1);
    peer.bind(1, &late, exchange, "late");
    peer.drain(1, &late)
}

/// A message with a value that deduplication exchanges compare, which waits for so long.
fn of_value(value: &str, delay_ms: i32) -> Properties {
    let value = ("x-deduplication-header", text(value));
    let headers = Some(table([value, ("x-delay", FieldValue::I32(delay_ms))]));
    Properties { headers, ..Properties::default() }
}

fn declare_once(peer: &mut Peer) -> String {
    let exchange = unique("once");
    let arguments = table([("x-cache-size", FieldValue::I32(9))]);
    let once = Exchange { arguments, ..Exchange::named(&exchange, "x-message-deduplication") };
    peer.declare_exchange(1, &once);
    exchange
}

/// Each that is taken makes room for the next one, which nobody has to look for.
#[test]
fn they_come_in_order_as_there_is_room() {
    const MESSAGES: usize = 500;
    let mut peer = broker().peer();
    let queue = declare_small(&mut peer);
    let expected: Vec<String> = (0..MESSAGES).map(|number| number.to_string()).collect();
    for body in &expected {
        publish(&mut peer, "", &queue, delayed(20), body);
    }
    let started = Instant::now();
    peer.open_channel(2);
    peer.prefetch(2, 1, false);
    peer.consume(2, &Consume::from(&queue));
    for body in expected {
        let message = peer.message(2);
        assert_eq!(message.text(), body);
        peer.ack(2, message.tag);
    }
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

#[test]
fn a_history_keeps_them_when_they_enter_and_once() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let history = unique("history");
    peer.declare_exchange(1, &Exchange::named(&history, "x-recent-history"));
    let queue = declare_small(&mut peer);
    peer.bind(1, &queue, &history, "");
    publish(&mut peer, &history, "k", Properties::default(), "in the way");
    for body in ["waits", "is cancelled"] {
        let properties = Properties { message_id: Some(format!("{history} {body}")), ..delayed(20) };
        publish(&mut peer, &history, "k", properties, body);
    }
    await_tried(&mut peer);
    let late = peer.server_named(1);
    peer.bind(1, &late, &history, "late");
    assert_eq!(peer.drain(1, &late), ["in the way"]);
    // It would have to have room for what waits.
    peer.delete(1, &late);
    let filter = format!("message_id={history} is cancelled");
    broker.ctl(&["cancel_scheduled", "--filter", &filter]);
    peer.open_channel(2);
    peer.consume(2, &Consume::no_ack(&queue));
    assert_eq!(peer.messages(2, 2), ["in the way", "waits"]);
    peer.expect_quiet(2);
    assert_eq!(history_of(&mut peer, &history), ["in the way", "waits"]);
}

#[test]
fn a_history_without_queues_keeps_them_when_they_are_due() {
    let mut peer = broker().peer();
    let history = unique("history");
    peer.declare_exchange(1, &Exchange::named(&history, "x-recent-history"));
    publish(&mut peer, &history, "k", delayed(20), "nobody is there");
    await_tried(&mut peer);
    assert_eq!(history_of(&mut peer, &history), ["nobody is there"]);
}

/// It is not taken for a duplicate of itself, and nobody who came with it is dropped for good.
#[test]
fn one_that_waits_was_not_seen() {
    let mut peer = broker().peer();
    let (exchange, queue) = (declare_once(&mut peer), declare_small(&mut peer));
    peer.bind(1, &queue, &exchange, "");
    publish(&mut peer, "", &queue, Properties::default(), "in the way");
    for body in ["a", "b", "a"] {
        publish(&mut peer, &exchange, "", of_value(body, 50), body);
    }
    await_tried(&mut peer);
    peer.open_channel(2);
    peer.consume(2, &Consume::no_ack(&queue));
    assert_eq!(peer.messages(2, 3), ["in the way", "a", "b"]);
    await_tried(&mut peer);
    peer.expect_quiet(2);
}

/// While one waits, others with its value are not taken for its duplicates: it may be cancelled.
#[test]
fn others_with_the_value_of_one_that_waits_pass() {
    let mut peer = broker().peer();
    let (once, inner, open) = (declare_once(&mut peer), unique("inner"), peer.server_named(1));
    peer.declare_exchange(1, &Exchange::named(&inner, "direct"));
    let queue = declare_small(&mut peer);
    for (key, queue) in [("small", &queue), ("open", &open)] {
        peer.bind_exchange(1, &inner, &once, "");
        peer.bind(1, queue, &inner, key);
    }
    publish(&mut peer, "", &queue, Properties::default(), "in the way");
    publish(&mut peer, &once, "small", of_value("value", 20), "waits");
    await_tried(&mut peer);
    publish(&mut peer, &once, "open", of_value("value", 0), "passes");
    peer.open_channel(2);
    peer.consume(2, &Consume::no_ack(&open));
    assert_eq!(peer.message(2).text(), "passes");
    peer.consume(2, &Consume::no_ack(&queue));
    assert_eq!(peer.message(2).text(), "in the way");
    // Now it has room, and is a duplicate.
    await_tried(&mut peer);
    peer.expect_quiet(2);
}

#[test]
fn they_go_where_they_go_by_then() {
    let mut peer = broker().peer();
    for is_deleted in [true, false] {
        let exchange = unique("changing");
        peer.declare_exchange(1, &Exchange::named(&exchange, "fanout"));
        let (full, other) = (declare_small(&mut peer), peer.server_named(1));
        peer.bind(1, &full, &exchange, "");
        publish(&mut peer, "", &full, Properties::default(), "in the way");
        for body in ["first", "second"] {
            publish(&mut peer, &exchange, "", delayed(20), body);
        }
        await_tried(&mut peer);
        peer.bind(1, &other, &exchange, "");
        peer.consume(1, &Consume::no_ack(&other));
        await_tried(&mut peer);
        match is_deleted {
            true => drop(peer.delete(1, &full)),
            false => peer.unbind(1, &full, &exchange, ""),
        }
        assert_eq!(peer.messages(1, 2), ["first", "second"]);
    }
}
