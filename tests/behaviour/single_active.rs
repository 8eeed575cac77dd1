//! Queues with `x-single-active-consumer`.

use posthouse_testkit::{Consume, FieldValue, Peer, Queue, table, text};

use super::{broker, unique};

fn single_active(queue: &str) -> Queue<'_> {
    let arguments = table([("x-single-active-consumer", FieldValue::Bool(true))]);
    Queue { arguments, ..Queue::named(queue) }
}

/// A peer with a queue, and a consumer with this tag on each of the channels from 2 on.
fn crowd(tags: &[&str]) -> (Peer, String) {
    let mut peer = broker().peer();
    let queue = unique("sac");
    peer.declare(1, &Queue { exclusive: true, ..single_active(&queue) });
    for (channel, consumer_tag) in (2..).zip(tags) {
        peer.open_channel(channel);
        peer.consume(channel, &Consume { consumer_tag, ..Consume::from(&queue) });
    }
    (peer, queue)
}

fn consume_with(peer: &mut Peer, channel: u16, queue: &str, consumer_tag: &str, priority: i32) {
    peer.open_channel(channel);
    let arguments = table([("x-priority", FieldValue::I32(priority))]);
    peer.consume(channel, &Consume { consumer_tag, arguments, ..Consume::from(queue) });
}

fn publish(peer: &mut Peer, queue: &str, bodies: &[&str]) {
    for body in bodies {
        peer.publish(1, "", queue, body);
    }
    // An answer on another channel would not prove that the publishes have been handed over.
    peer.counts(1, queue);
}

/// The bodies of so many deliveries, all to this channel, and the last delivery tag.
fn received(peer: &mut Peer, channel: u16, count: usize) -> (Vec<String>, u64) {
    let mut last = 0;
    let bodies = (0..count).map(|_| {
        let message = peer.message(channel);
        last = message.tag;
        message.text()
    });
    (bodies.collect(), last)
}

#[test]
fn the_first_consumer_gets_everything_and_the_next_takes_over() {
    let (mut peer, queue) = crowd(&["first", "second", "third"]);
    publish(&mut peer, &queue, &["1", "2", "3", "4"]);
    assert_eq!(received(&mut peer, 2, 4).0, ["1", "2", "3", "4"]);
    peer.cancel(2, "first");
    publish(&mut peer, &queue, &["5", "6"]);
    let (bodies, tag) = received(&mut peer, 3, 2);
    assert_eq!(bodies, ["5", "6"], "what the first has not settled stays with it");
    peer.ack(3, tag - 1);
    // In order: what came back goes before what never went out.
    publish(&mut peer, &queue, &[]);
    peer.close_channel(3);
    assert_eq!(received(&mut peer, 4, 1).0, ["6"]);
    peer.close_channel(2);
    let redelivered: Vec<_> = (0..4).map(|_| peer.message(4)).collect();
    assert!(redelivered.iter().all(|message| message.redelivered));
    assert_eq!(redelivered.iter().map(|m| m.text()).collect::<Vec<_>>(), ["1", "2", "3", "4"]);
}

#[test]
fn the_active_one_keeps_its_place_without_credit() {
    let mut peer = broker().peer();
    let queue = unique("sac");
    peer.declare(1, &Queue { exclusive: true, ..single_active(&queue) });
    for channel in [2, 3] {
        peer.open_channel(channel);
        peer.prefetch(channel, 1, false);
        peer.consume(channel, &Consume::from(&queue));
    }
    publish(&mut peer, &queue, &["1", "2", "3"]);
    for expected in ["1", "2", "3"] {
        let message = peer.message(2);
        assert_eq!(message.text(), expected);
        peer.ack(2, message.tag);
    }
    assert_eq!(peer.get(1, &queue, true).map(|m| m.text()), None, "basic.get is nobody's turn");
}

#[test]
fn a_higher_priority_takes_over_when_all_is_settled() {
    let (mut peer, queue) = crowd(&["low"]);
    publish(&mut peer, &queue, &["1", "2"]);
    assert_eq!(received(&mut peer, 2, 2).0, ["1", "2"]);
    consume_with(&mut peer, 3, &queue, "high", 10);
    publish(&mut peer, &queue, &["3"]);
    assert_eq!(peer.counts(1, &queue), (1, 2), "nobody gets it before the first has settled");
    peer.ack(2, 1);
    peer.ack(2, 2);
    assert_eq!(received(&mut peer, 3, 1).0, ["3"]);
    publish(&mut peer, &queue, &["4"]);
    assert_eq!(received(&mut peer, 3, 1).0, ["4"]);
    peer.close_channel(3);
    assert_eq!(received(&mut peer, 2, 2).0, ["3", "4"], "back to the first");
}

#[test]
fn nobody_can_have_it_exclusively() {
    let mut peer = broker().peer();
    let queue = unique("sac");
    peer.declare(1, &Queue { exclusive: true, ..single_active(&queue) });
    let exclusive = Consume { exclusive: true, ..Consume::from(&queue) };
    let refusal = format!("ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use");
    peer.refused(1, &exclusive.method(), 403, &refusal);
    peer.consume(1, &Consume::from(&queue));
}

#[test]
fn declarations_must_agree() {
    let mut peer = broker().peer();
    let queue = unique("sac");
    peer.declare(1, &Queue { exclusive: true, ..single_active(&queue) });
    peer.declare(1, &Queue { exclusive: true, ..single_active(&queue) });
    let differs = format!(
        "PRECONDITION_FAILED - inequivalent arg 'x-single-active-consumer' for queue '{queue}' in vhost '/': \
         received none but current is the value 'true' of type 'bool'"
    );
    peer.refused(1, &Queue::exclusive(&queue).method(), 406, &differs);
    let arguments = table([("x-single-active-consumer", text("true"))]);
    let other = unique("sac");
    let wrong = format!(
        "PRECONDITION_FAILED - invalid arg 'x-single-active-consumer' for queue '{other}' in vhost '/': \
         {{unacceptable_type,longstr}}"
    );
    peer.refused(1, &Queue { arguments, ..Queue::exclusive(&other) }.method(), 406, &wrong);
}

#[test]
fn listings_say_who_is_active() {
    let broker = posthouse_testkit::Broker::start(posthouse_testkit::Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue { exclusive: true, ..single_active("sac") });
    peer.declare(1, &Queue::exclusive("plain"));
    for (queue, consumer_tag) in [("sac", "a"), ("sac", "b"), ("plain", "c")] {
        peer.consume(1, &Consume { consumer_tag, ..Consume::from(queue) });
    }
    let consumers = || broker.ctl(&["list_consumers", "-s", "consumer_tag", "active", "activity_status"]);
    let sorted = |text: String| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let status = ["a\ttrue\tsingle_active", "b\tfalse\twaiting", "c\ttrue\tup"];
    assert_eq!(sorted(consumers()), status);
    let active = || {
        let columns = ["name", "single_active_consumer_tag", "single_active_consumer_pid"];
        sorted(broker.ctl(&[&["list_queues", "-s"][..], &columns].concat()))
    };
    let pid = broker.ctl(&["list_channels", "-s", "pid"]);
    assert_eq!(active(), ["plain\t\t".to_owned(), format!("sac\ta\t{}", pid.trim())]);
    peer.cancel(1, "a");
    assert_eq!(sorted(consumers()), ["b\ttrue\tsingle_active", "c\ttrue\tup"]);
    peer.cancel(1, "b");
    assert_eq!(active(), ["plain\t\t", "sac\t\t"]);
}
