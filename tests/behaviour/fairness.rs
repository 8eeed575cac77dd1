//! Who gets what, and in which order.

use posthouse_testkit::{Consume, Exchange, FieldValue, Method, Peer, Publish, Queue, table};

use super::{broker, unique};

#[test]
fn two_consumers_take_turns() {
    const MESSAGES: usize = 100;
    let mut peer = broker().peer();
    peer.open_channel(2);
    peer.open_channel(3);
    let queue = peer.server_named(1);
    for channel in [2, 3] {
        peer.prefetch(channel, 1, false);
        peer.consume(channel, &Consume::from(&queue));
    }
    let mut out = Vec::new();
    for i in 0..MESSAGES {
        let body = i.to_string();
        Publish { body: body.as_bytes(), ..Publish::to("", &queue) }.write(1, 131_072, &mut out);
    }
    peer.send_bytes(&out);
    // Each acknowledges at once, so each can always take the next.
    let mut seen = [Vec::new(), Vec::new()];
    for _ in 0..MESSAGES / 2 {
        for channel in [2, 3] {
            let message = peer.message(channel);
            peer.ack(channel, message.tag);
            seen[usize::from(channel) - 2].push(message.text().parse::<usize>().expect("a number"));
        }
    }
    assert!(seen.iter().all(|numbers| numbers.is_sorted()), "{seen:?}");
    let mut all = seen.concat();
    all.sort_unstable();
    assert!(all.into_iter().eq(0..MESSAGES));
}

#[test]
fn consumers_without_limits_take_turns() {
    const MESSAGES: usize = 100;
    let broker = broker();
    let (mut one, mut two, mut publisher) = (broker.peer(), broker.peer(), broker.peer());
    let queue = unique("q");
    publisher.declare(1, &Queue::named(&queue));
    one.consume(1, &Consume::no_ack(&queue));
    two.consume(1, &Consume::no_ack(&queue));
    for i in 0..MESSAGES / 2 {
        // Whoever has its message is last in line again, so this is the order however slow anybody is.
        for (peer, name) in [(&mut one, "one"), (&mut two, "two")] {
            let text = format!("{i} for {name}");
            publisher.publish(1, "", &queue, &text);
            assert_eq!(peer.message(1).text(), text);
        }
    }
    publisher.delete(1, &queue);
}

fn until_cancelled(peer: &mut Peer) -> u64 {
    let mut count = 0;
    loop {
        let method = peer.method(1);
        if matches!(method.get(), Method::BasicCancel { .. }) {
            return count;
        }
        peer.message_after(1, &method);
        count += 1;
    }
}

#[test]
fn work_goes_to_who_is_free() {
    let mut peer = broker().peer();
    peer.open_channel(2);
    peer.open_channel(3);
    let queue = peer.server_named(1);
    for channel in [2, 3] {
        peer.prefetch(channel, 1, false);
        peer.consume(channel, &Consume::from(&queue));
    }
    for text in ["a", "b", "c", "d", "e"] {
        peer.publish(1, "", &queue, text);
    }
    let busy = peer.message(2);
    // Channel 2 is stuck with its first one; all else goes to channel 3.
    for _ in 0..4 {
        let message = peer.message(3);
        peer.ack(3, message.tag);
    }
    peer.expect_quiet(2);
    peer.ack(2, busy.tag);
    peer.expect_quiet(2);
    peer.expect_quiet(3);
    assert_eq!(peer.counts(1, &queue), (0, 2));
}

#[test]
fn higher_priorities_first_while_they_have_room() {
    let mut peer = broker().peer();
    for channel in 2..=4 {
        peer.open_channel(channel);
        peer.prefetch(channel, 2, false);
    }
    let queue = peer.server_named(1);
    for (channel, priority) in [(2, -1), (3, 10), (4, 0)] {
        let arguments = table([("x-priority", FieldValue::I32(priority))]);
        peer.consume(channel, &Consume { arguments, ..Consume::from(&queue) });
    }
    for text in ["a", "b", "c", "d", "e", "f", "g"] {
        peer.publish(1, "", &queue, text);
    }
    assert_eq!(peer.messages(3, 2), ["a", "b"]);
    assert_eq!(peer.messages(4, 2), ["c", "d"]);
    assert_eq!(peer.messages(2, 2), ["e", "f"]);
    assert_eq!(peer.counts(1, &queue), (1, 3));
    peer.ack(3, 1);
    assert_eq!(peer.messages(3, 1), ["g"]);
}

/// Keys for one queue and for two, in turn, over one channel: each queue has what concerns it in order.
#[test]
fn one_publishers_order_holds_over_overlapping_routes() {
    const MESSAGES: usize = 2000;
    let mut peer = broker().peer();
    peer.open_channel(2);
    peer.open_channel(3);
    let exchange = unique("e");
    peer.declare_exchange(1, &Exchange { auto_delete: true, ..Exchange::named(&exchange, "topic") });
    let (one, two) = (peer.server_named(1), peer.server_named(1));
    for (queue, key) in [(&one, "one"), (&one, "both"), (&two, "both"), (&two, "two")] {
        peer.bind(1, queue, &exchange, key);
    }
    peer.consume(2, &Consume::no_ack(&one));
    peer.consume(3, &Consume::no_ack(&two));
    let keys = ["one", "both", "both", "two", "one", "two", "both"];
    let mut expected = [Vec::new(), Vec::new()];
    let mut out = Vec::new();
    for i in 0..MESSAGES {
        let (body, key) = (i.to_string(), keys[i % keys.len()]);
        // Large and small ones take different ways.
        let pad = if i % 97 == 0 { 5000 } else { 0 };
        let body = format!("{body}{}", " ".repeat(pad));
        Publish { body: body.as_bytes(), ..Publish::to(&exchange, key) }.write(1, 4096, &mut out);
        for (queue, name) in ["one", "two"].into_iter().enumerate() {
            if key == name || key == "both" {
                expected[queue].push(i);
            }
        }
    }
    peer.send_bytes(&out);
    for (channel, expected) in [2, 3].into_iter().zip(expected) {
        for i in expected {
            assert_eq!(peer.message(channel).text().trim_end(), i.to_string(), "channel {channel}");
        }
    }
}

/// What comes at once is shared as well: nobody is left out of a burst.
#[test]
fn a_burst_is_shared() {
    const MESSAGES: u64 = 10_000;
    let broker = broker();
    let (mut one, mut two, mut publisher) = (broker.peer(), broker.peer(), broker.peer());
    let queue = unique("q");
    publisher.declare(1, &Queue::named(&queue));
    one.consume(1, &Consume::no_ack(&queue));
    two.consume(1, &Consume::no_ack(&queue));
    let mut out = Vec::new();
    for _ in 0..MESSAGES {
        Publish::to("", &queue).write(1, 131_072, &mut out);
    }
    publisher.send_bytes(&out);
    publisher.await_counts(1, &queue, (0, 2));
    publisher.delete(1, &queue);
    let (first, second) = (until_cancelled(&mut one), until_cancelled(&mut two));
    assert_eq!(first + second, MESSAGES);
    // Not more evenly than a busy machine lets both run.
    assert!(first.min(second) >= MESSAGES / 5, "{first} and {second}");
}
