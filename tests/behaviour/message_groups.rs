//! Queues with `x-message-groups`.

use posthouse_testkit::{
    Consume, FieldValue, Method, Peer, Properties, Publish, Queue, expect_method, table, text,
};

use super::{broker, unique};

fn groups(queue: &str) -> Queue<'_> {
    let arguments = table([("x-message-groups", FieldValue::Bool(true))]);
    Queue { arguments, ..Queue::named(queue) }
}

/// A peer with a queue on channel 1, and so many consumers on the channels from 2 on.
fn crowd(consumers: u16, prefetch: u16, more: &[(&str, FieldValue)]) -> (Peer, String) {
    let mut peer = broker().peer();
    let queue = unique("groups");
    let mut declared = Queue { exclusive: true, ..groups(&queue) };
    declared.arguments.0.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    peer.declare(1, &declared);
    for channel in 2..2 + consumers {
        peer.open_channel(channel);
        peer.prefetch(channel, prefetch, false);
        peer.consume(channel, &Consume { consumer_tag: "worker", ..Consume::from(&queue) });
    }
    (peer, queue)
}

/// Publishes messages whose bodies begin with the letter of their group.
fn publish(peer: &mut Peer, queue: &str, bodies: &[&str]) {
    for body in bodies {
        let headers = Some(table([("x-message-group", text(&body[..1]))]));
        let properties = Properties { headers, ..Properties::default() };
        peer.publish_with(1, &Publish { properties, body: body.as_bytes(), ..Publish::to("", queue) });
    }
    peer.counts(1, queue);
}

/// The next delivery on a channel: its body, and its tag.
fn next(peer: &mut Peer, channel: u16) -> (String, u64) {
    let message = peer.message(channel);
    (message.text(), message.tag)
}

#[test]
fn a_group_is_with_one_consumer_and_the_others_go_on() {
    let (mut peer, queue) = crowd(2, 1, &[]);
    publish(&mut peer, &queue, &["a1"]);
    let (body, tag) = next(&mut peer, 2);
    assert_eq!(body, "a1");
    publish(&mut peer, &queue, &["a2", "a3", "b1", "b2"]);
    let (body, other) = next(&mut peer, 3);
    assert_eq!(body, "b1", "what is blocked at the head stops nobody");
    peer.ack(3, other);
    assert_eq!(next(&mut peer, 3).0, "b2");
    assert_eq!(peer.counts(1, &queue).0, 2);
    peer.ack(2, tag);
    let (body, tag) = next(&mut peer, 2);
    assert_eq!(body, "a2");
    peer.ack(2, tag);
    assert_eq!(next(&mut peer, 2).0, "a3");
}

#[test]
fn messages_of_a_closed_channel_come_first_and_in_order() {
    let (mut peer, queue) = crowd(1, 3, &[]);
    publish(&mut peer, &queue, &["a1", "a2", "a3", "a4"]);
    let bodies: Vec<String> = (0..3).map(|_| next(&mut peer, 2).0).collect();
    assert_eq!(bodies, ["a1", "a2", "a3"]);
    peer.open_channel(3);
    peer.consume(3, &Consume::from(&queue));
    publish(&mut peer, &queue, &["b1"]);
    assert_eq!(next(&mut peer, 3).0, "b1");
    peer.cancel(2, "worker");
    publish(&mut peer, &queue, &["b2"]);
    assert_eq!(next(&mut peer, 3).0, "b2", "the group stays with what is not settled");
    peer.close_channel(2);
    let all: Vec<_> = (0..4).map(|_| peer.message(3)).map(|m| (m.text(), m.redelivered)).collect();
    let expected = [("a1", true), ("a2", true), ("a3", true), ("a4", false)];
    assert_eq!(all, expected.map(|(body, redelivered)| (body.to_owned(), redelivered)));
}

#[test]
fn groups_are_spread_over_consumers() {
    let (mut peer, queue) = crowd(3, 0, &[]);
    publish(&mut peer, &queue, &["a1", "b1", "c1", "a2", "b2", "c2", "c3", "b3", "a3"]);
    let mut groups = Vec::new();
    for channel in 2..5 {
        let bodies: Vec<String> = (0..3).map(|_| next(&mut peer, channel).0).collect();
        let group = bodies[0][..1].to_owned();
        assert_eq!(bodies, ["1", "2", "3"].map(|number| format!("{group}{number}")));
        groups.push(group);
    }
    groups.sort();
    assert_eq!(groups, ["a", "b", "c"]);
}

#[test]
fn what_is_given_back_comes_before_the_others_of_its_group() {
    let (mut peer, queue) = crowd(1, 1, &[]);
    peer.consume(2, &Consume { consumer_tag: "another", ..Consume::from(&queue) });
    publish(&mut peer, &queue, &["a1", "a2"]);
    let (_, tag) = next(&mut peer, 2);
    peer.send(2, &Method::BasicNack { delivery_tag: tag, multiple: false, requeue: true });
    let message = peer.message(2);
    assert_eq!((message.text(), message.redelivered), ("a1".to_owned(), true), "whoever has it now");
    peer.ack(2, message.tag);
    assert_eq!(next(&mut peer, 2).0, "a2");
}

#[test]
fn getting_takes_one_of_each_group() {
    let (mut peer, queue) = crowd(0, 0, &[]);
    publish(&mut peer, &queue, &["a1", "a2", "b1"]);
    let got: Vec<_> = (0..2).map(|_| peer.get(1, &queue, false).expect("a message")).collect();
    assert_eq!(got.iter().map(|m| m.text()).collect::<Vec<_>>(), ["a1", "b1"]);
    assert!(peer.get(1, &queue, false).is_none());
    peer.ack(1, got[0].tag);
    assert_eq!(peer.get(1, &queue, false).expect("the next of its group").text(), "a2");
}

#[test]
fn a_message_that_dies_frees_its_group() {
    let dead = unique("dead");
    let more = [("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text(&dead))];
    let (mut peer, queue) = crowd(2, 1, &more);
    peer.declare(1, &Queue { exclusive: true, ..groups(&dead) });
    publish(&mut peer, &queue, &["a1", "a2", "a3"]);
    let (body, tag) = next(&mut peer, 2);
    assert_eq!(body, "a1");
    peer.send(2, &Method::BasicReject { delivery_tag: tag, requeue: false });
    peer.await_counts(1, &dead, (1, 0));
    peer.await_counts(1, &queue, (1, 2));
    assert_eq!(peer.get(1, &dead, true).expect("the dead letter").text(), "a1");
}

#[test]
fn a_lower_priority_keeps_its_groups_and_quorum_queues_have_them() {
    let queue = unique("groups");
    let mut peer = broker().peer();
    let mut declared = groups(&queue);
    declared.arguments.0.push(("x-queue-type".to_owned(), text("quorum")));
    peer.declare(1, &Queue { durable: true, ..declared });
    let arguments = table([("x-priority", FieldValue::I32(9))]);
    for (channel, arguments) in [(2, table([])), (3, arguments)] {
        peer.open_channel(channel);
        peer.consume(channel, &Consume { arguments, ..Consume::from(&queue) });
        publish(&mut peer, &queue, &[if channel == 2 { "a1" } else { "b1" }]);
        assert_eq!(next(&mut peer, channel).0, if channel == 2 { "a1" } else { "b1" });
    }
    publish(&mut peer, &queue, &["a2", "c1"]);
    assert_eq!((next(&mut peer, 2).0, next(&mut peer, 3).0), ("a2".to_owned(), "c1".to_owned()));
    peer.delete(1, &queue);
}

#[test]
fn what_expires_or_is_purged_makes_way() {
    let (mut peer, queue) = crowd(1, 1, &[]);
    publish(&mut peer, &queue, &["a1", "a2", "b1"]);
    let (_, tag) = next(&mut peer, 2);
    peer.send(1, &Method::QueuePurge { queue: &queue, nowait: false });
    expect_method!(peer, 1, Method::QueuePurgeOk { message_count: 2 });
    publish(&mut peer, &queue, &["a4"]);
    peer.ack(2, tag);
    assert_eq!(next(&mut peer, 2).0, "a4");
}

#[test]
fn the_argument_is_a_bool_and_not_for_streams() {
    let mut peer = broker().peer();
    let queue = unique("groups");
    let with = |value| Queue { arguments: table([("x-message-groups", value)]), ..Queue::exclusive(&queue) };
    let refused = format!(
        "PRECONDITION_FAILED - invalid arg 'x-message-groups' for queue '{queue}' in vhost '/': \
         {{unacceptable_type,longstr}}"
    );
    peer.refused(1, &with(text("yes")).method(), 406, &refused);
    peer.open_channel(2);
    let mut stream = groups(&queue);
    stream.arguments.0.push(("x-queue-type".to_owned(), text("stream")));
    let refused = format!(
        "PRECONDITION_FAILED - invalid arg 'x-message-groups' for queue '{queue}' in vhost '/' \
         of queue type rabbit_stream_queue"
    );
    peer.refused(2, &Queue { durable: true, ..stream }.method(), 406, &refused);
    peer.open_channel(3);
    peer.declare(3, &with(FieldValue::Bool(true)));
    let inequivalent = format!(
        "PRECONDITION_FAILED - inequivalent arg 'x-message-groups' for queue '{queue}' in vhost '/': \
         received none but current is the value 'true' of type 'bool'"
    );
    peer.refused(3, &Queue::exclusive(&queue).method(), 406, &inequivalent);
}
