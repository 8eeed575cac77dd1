//! Queues with `x-publisher-deduplication`: what a publisher numbers and sends twice enters once.

use posthouse_testkit::{
    FieldTable, FieldValue, Method, Peer, Properties, Publish, Queue, expect_method, table, text,
};

use super::{broker, unique};

fn numbered(queue: &str) -> Queue<'_> {
    let arguments = table([("x-publisher-deduplication", FieldValue::Bool(true))]);
    Queue { arguments, ..Queue::exclusive(queue) }
}

fn numbers(name: &str, id: i64) -> FieldTable {
    table([("x-stream-publisher-reference", text(name)), ("x-stream-publishing-id", FieldValue::I64(id))])
}

fn publish(peer: &mut Peer, exchange: &str, key: &str, headers: FieldTable, body: &str) {
    let properties = Properties { headers: Some(headers), ..Properties::default() };
    peer.publish_with(1, &Publish { properties, body: body.as_bytes(), ..Publish::to(exchange, key) });
}

#[test]
fn what_is_sent_again_is_confirmed_and_enters_once() {
    let mut peer = broker().peer();
    let queue = unique("numbered");
    peer.declare(1, &numbered(&queue));
    peer.select_confirms(1);
    for (id, body) in [(0, "0"), (1, "1"), (1, "again"), (7, "7"), (3, "late")] {
        publish(&mut peer, "", &queue, numbers("app", id), body);
    }
    publish(&mut peer, "", &queue, numbers("other", 1), "other");
    publish(&mut peer, "", &queue, table([]), "without");
    publish(&mut peer, "", &queue, table([]), "without");
    peer.confirmed(1, 8);
    assert_eq!(peer.drain(1, &queue), ["0", "1", "7", "other", "without", "without"]);
    publish(&mut peer, "", &queue, numbers("app", 7), "again");
    expect_method!(peer, 1, Method::BasicAck { delivery_tag: 9, .. });
    assert_eq!(peer.counts(1, &queue).0, 0);
}

#[test]
fn another_connection_goes_on_where_the_first_ended() {
    let mut peer = broker().peer();
    let queue = unique("numbered");
    peer.declare(1, &Queue { exclusive: false, ..numbered(&queue) });
    let mut first = broker().peer();
    first.select_confirms(1);
    publish(&mut first, "", &queue, numbers("app", 1), "1");
    first.confirmed(1, 1);
    first.close();
    for (id, body) in [(1, "again"), (2, "2")] {
        publish(&mut peer, "", &queue, numbers("app", id), body);
    }
    assert_eq!(peer.drain(1, &queue), ["1", "2"]);
    peer.delete(1, &queue);
}

#[test]
fn each_queue_remembers_for_itself() {
    let mut peer = broker().peer();
    let (once, always, key) = (unique("numbered"), unique("plain"), unique("key"));
    peer.declare(1, &numbered(&once));
    peer.declare(1, &Queue::exclusive(&always));
    for queue in [&once, &always] {
        peer.bind(1, queue, "amq.direct", &key);
    }
    publish(&mut peer, "", &always, numbers("app", 5), "elsewhere");
    for id in [1, 1, 2] {
        publish(&mut peer, "amq.direct", &key, numbers("app", id), "x");
    }
    assert_eq!((peer.counts(1, &once).0, peer.counts(1, &always).0), (2, 4));
}

/// What is dead-lettered was numbered for the queue it comes from.
#[test]
fn dead_letters_are_not_compared() {
    let mut peer = broker().peer();
    let (queue, source) = (unique("numbered"), unique("source"));
    peer.declare(1, &numbered(&queue));
    let target = [("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text(&queue))];
    peer.declare(1, &Queue { arguments: table(target), ..Queue::exclusive(&source) });
    publish(&mut peer, "", &queue, numbers("app", 5), "5");
    publish(&mut peer, "", &source, numbers("app", 1), "1");
    publish(&mut peer, "", &source, numbers("app", 9), "9");
    for _ in 0..2 {
        let got = peer.get(1, &source, false).expect("a message");
        peer.send(1, &Method::BasicReject { delivery_tag: got.tag, requeue: false });
    }
    peer.await_counts(1, &queue, (3, 0));
    publish(&mut peer, "", &queue, numbers("app", 6), "6");
    assert_eq!(peer.drain(1, &queue), ["5", "1", "9", "6"]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut peer = broker().peer();
    let queue = unique("numbered");
    peer.declare(1, &numbered(&queue));
    let headers = table([("x-stream-publisher-reference", text("app"))]);
    let properties = Properties { headers: Some(headers), ..Properties::default() };
    peer.open_channel(2);
    peer.publish_with(2, &Publish { properties, body: b"x", ..Publish::to("", &queue) });
    expect_method!(peer, 2, Method::ChannelClose { reply_code: 406, .. });
}

fn declare(peer: &mut Peer, queue: &str, arguments: impl IntoIterator<Item = (&'static str, FieldValue)>) {
    let mut declared = numbered(queue);
    declared.arguments.0.extend(arguments.into_iter().map(|(name, value)| (name.to_owned(), value)));
    peer.declare(1, &declared);
}

/// Each publish has its number as its priority, too.
fn publish_urgent(peer: &mut Peer, queue: &str, id: u8) {
    let properties = Properties {
        headers: Some(numbers("app", id.into())),
        priority: Some(id % 10),
        ..Properties::default()
    };
    let body = id.to_string();
    peer.publish_with(1, &Publish { properties, body: body.as_bytes(), ..Publish::to("", queue) });
}

#[test]
fn a_number_enters_once_whatever_its_priority() {
    for (name, value) in [("x-max-priority", FieldValue::I32(9)), ("x-queue-type", text("quorum"))] {
        let mut peer = broker().peer();
        peer.select_confirms(1);
        let queue = unique("numbered");
        let mut declared = numbered(&queue);
        declared.arguments.0.push((name.to_owned(), value));
        peer.declare(1, &Queue { durable: true, exclusive: false, ..declared });
        for id in [1, 8, 5, 8, 12, 1] {
            publish_urgent(&mut peer, &queue, id);
        }
        peer.confirmed(1, 6);
        assert_eq!(peer.drain(1, &queue), ["8", "12", "1"], "{name}");
        publish_urgent(&mut peer, &queue, 13);
        publish_urgent(&mut peer, &queue, 12);
        peer.open_channel(2);
        peer.await_counts(2, &queue, (1, 0));
        peer.delete(2, &queue);
    }
}

#[test]
fn what_was_refused_enters_when_it_is_sent_again() {
    let mut peer = broker().peer();
    let queue = unique("numbered");
    declare(
        &mut peer,
        &queue,
        [("x-max-length", FieldValue::I32(2)), ("x-overflow", text("reject-publish"))],
    );
    peer.select_confirms(1);
    let answers = |peer: &mut Peer, ids: &[i64]| {
        let mut answers = Vec::new();
        for id in ids {
            publish(peer, "", &queue, numbers("app", *id), &id.to_string());
            let method = peer.method(1);
            answers.push(matches!(method.get(), Method::BasicAck { .. }));
        }
        answers
    };
    assert_eq!(answers(&mut peer, &[1, 2, 3, 4, 2]), [true, true, false, false, true]);
    assert_eq!(peer.drain(1, &queue), ["1", "2"]);
    // The publisher goes on, and sends what was refused later.
    assert_eq!(answers(&mut peer, &[5, 3, 4, 3]), [true, true, false, true]);
    assert_eq!(peer.drain(1, &queue), ["5", "3"]);
    assert_eq!(answers(&mut peer, &[3, 4, 5]), [true, true, true]);
    assert_eq!(peer.drain(1, &queue), ["4"]);
}

/// A refused message is dead-lettered where that is asked for, a duplicate is not.
#[test]
fn refused_messages_are_dead_letters_and_duplicates_are_not() {
    let mut peer = broker().peer();
    let (queue, letters) = (unique("numbered"), unique("letters"));
    peer.declare(1, &Queue::exclusive(&letters));
    declare(
        &mut peer,
        &queue,
        [
            ("x-max-length", FieldValue::I32(1)),
            ("x-overflow", text("reject-publish-dlx")),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(&letters)),
        ],
    );
    for id in [1, 1, 2] {
        publish(&mut peer, "", &queue, numbers("app", id), &id.to_string());
    }
    peer.await_counts(1, &letters, (1, 0));
    assert_eq!((peer.drain(1, &queue), peer.drain(1, &letters)), (vec!["1".into()], vec!["2".into()]));
    publish(&mut peer, "", &queue, numbers("app", 2), "2");
    peer.await_counts(1, &queue, (1, 0));
}
