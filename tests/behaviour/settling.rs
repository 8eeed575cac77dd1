//! What becomes of messages taken: acknowledged, given back, dropped, taken again.

use posthouse_testkit::{Consume, Method, Peer, Received, expect_method};

use super::broker;

const TEXTS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// A queue with five messages, all delivered to a consumer on channel 2.
fn delivered(peer: &mut Peer) -> String {
    peer.open_channel(2);
    let queue = peer.server_named(1);
    for text in TEXTS {
        peer.publish(1, "", &queue, text);
    }
    peer.consume(2, &Consume::from(&queue));
    for (i, text) in TEXTS.into_iter().enumerate() {
        let message = peer.message(2);
        assert_eq!((message.tag, message.text().as_str(), message.redelivered), (i as u64 + 1, text, false));
    }
    queue
}

/// What is in a queue: texts, and whether they may have been delivered before.
fn contents(peer: &mut Peer, queue: &str) -> Vec<(String, bool)> {
    std::iter::from_fn(|| peer.get(1, queue, true)).map(|m| (m.text(), m.redelivered)).collect()
}

fn redelivered(texts: &[&str]) -> Vec<(String, bool)> {
    texts.iter().map(|&text| (text.to_owned(), true)).collect()
}

#[test]
fn acknowledged_one_by_one_in_any_order() {
    let mut peer = broker().peer();
    let queue = delivered(&mut peer);
    for tag in [4, 1, 5] {
        peer.ack(2, tag);
    }
    peer.close_channel(2);
    assert_eq!(contents(&mut peer, &queue), redelivered(&["b", "c"]));
}

#[test]
fn acknowledged_up_to_a_tag() {
    let mut peer = broker().peer();
    let queue = delivered(&mut peer);
    peer.ack(2, 2);
    peer.send(2, &Method::BasicAck { delivery_tag: 4, multiple: true });
    peer.close_channel(2);
    assert_eq!(contents(&mut peer, &queue), redelivered(&["e"]));
}

#[test]
fn tag_nought_is_all_of_them() {
    let mut peer = broker().peer();
    let queue = delivered(&mut peer);
    peer.send(2, &Method::BasicAck { delivery_tag: 0, multiple: true });
    // With nothing outstanding it is fine too.
    peer.send(2, &Method::BasicAck { delivery_tag: 0, multiple: true });
    peer.send(2, &Method::BasicNack { delivery_tag: 0, multiple: true, requeue: true });
    peer.expect_quiet(2);
    peer.close_channel(2);
    assert_eq!(contents(&mut peer, &queue), []);
}

#[test]
fn dropped_without_requeue() {
    let mut peer = broker().peer();
    let queue = delivered(&mut peer);
    peer.send(2, &Method::BasicReject { delivery_tag: 1, requeue: false });
    peer.send(2, &Method::BasicNack { delivery_tag: 4, multiple: true, requeue: false });
    peer.close_channel(2);
    assert_eq!(contents(&mut peer, &queue), redelivered(&["e"]));
}

#[test]
fn given_back_to_their_places() {
    let mut peer = broker().peer();
    peer.open_channel(2);
    let queue = peer.server_named(1);
    for text in TEXTS {
        peer.publish(1, "", &queue, text);
    }
    let tags: Vec<u64> = (0..4).map(|_| peer.get(2, &queue, false).expect("a message").tag).collect();
    // Given back out of order, they are in order again, before what was never taken.
    peer.send(2, &Method::BasicReject { delivery_tag: tags[2], requeue: true });
    peer.send(2, &Method::BasicNack { delivery_tag: tags[0], multiple: false, requeue: true });
    peer.ack(2, tags[1]);
    peer.send(2, &Method::BasicNack { delivery_tag: tags[3], multiple: true, requeue: true });
    peer.expect_quiet(2);
    let expected = [("a", true), ("c", true), ("d", true), ("e", false)];
    assert_eq!(contents(&mut peer, &queue), expected.map(|(text, flag)| (text.to_owned(), flag)));
}

#[test]
fn given_back_and_delivered_again() {
    let mut peer = broker().peer();
    delivered(&mut peer);
    peer.send(2, &Method::BasicNack { delivery_tag: 3, multiple: true, requeue: true });
    for (tag, text) in [(6, "a"), (7, "b"), (8, "c")] {
        let Received { tag: got, redelivered, .. } = &peer.message(2).clone();
        assert_eq!((*got, *redelivered), (tag, true), "{text}");
    }
    // The old tags are no longer known.
    peer.send(2, &Method::BasicAck { delivery_tag: 1, multiple: false });
    peer.expect_channel_close(2, 406, "PRECONDITION_FAILED - unknown delivery tag 1", (60, 80));
}

#[test]
fn recover_gives_back_everything_of_the_channel() {
    let mut peer = broker().peer();
    let queue = delivered(&mut peer);
    peer.open_channel(3);
    peer.ack(2, 2);
    peer.send(2, &Method::BasicRecover { requeue: true });
    // The answer comes after the return and before or among the deliveries that follow it.
    let mut again = Vec::new();
    let mut answered = false;
    while again.len() < 4 || !answered {
        let method = peer.method(2);
        match method.get() {
            Method::BasicRecoverOk {} => answered = true,
            _ => {
                let message = peer.message_after(2, &method);
                again.push((message.text(), message.redelivered));
            }
        }
    }
    assert_eq!(again, redelivered(&["a", "c", "d", "e"]));
    peer.send(3, &Method::BasicRecover { requeue: true });
    expect_method!(peer, 3, Method::BasicRecoverOk {});
    assert_eq!(peer.counts(1, &queue), (0, 1));
}

#[test]
fn recover_async_has_no_answer() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    peer.publish(1, "", &queue, "x");
    peer.get(1, &queue, false).expect("a message");
    peer.send(1, &Method::BasicRecoverAsync { requeue: true });
    assert_eq!(contents(&mut peer, &queue), redelivered(&["x"]));
}

#[test]
fn taken_one_by_one() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    assert_eq!(peer.get(1, &queue, true), None);
    for text in TEXTS {
        peer.publish(1, "", &queue, text);
    }
    let first = peer.get(1, &queue, false).expect("a message");
    let route = (first.exchange.as_str(), first.routing_key.as_str());
    assert_eq!((first.tag, first.left, first.redelivered, route), (1, 4, false, ("", queue.as_str())));
    // Those that need no acknowledgement have tags too.
    let second = peer.get(1, &queue, true).expect("a message");
    assert_eq!((second.tag, second.left), (2, 3));
    peer.send(1, &Method::BasicReject { delivery_tag: 1, requeue: true });
    let again = peer.get(1, &queue, false).expect("a message");
    assert_eq!((again.text(), again.tag, again.left, again.redelivered), ("a".into(), 3, 3, true));
}

#[test]
fn a_broken_connection_gives_back_in_order() {
    let broker = broker();
    let mut owner = broker.peer();
    let queue = super::unique("q");
    owner.declare(1, &posthouse_testkit::Queue::named(&queue));
    for text in TEXTS {
        owner.publish(1, "", &queue, text);
    }
    owner.await_counts(1, &queue, (5, 0));
    let mut worker = broker.peer();
    worker.prefetch(1, 3, false);
    worker.consume(1, &Consume::from(&queue));
    assert_eq!(worker.messages(1, 3), ["a", "b", "c"]);
    worker.ack(1, 2);
    worker.message(1);
    drop(worker);
    owner.await_counts(1, &queue, (4, 0));
    let texts = [("a", true), ("c", true), ("d", true), ("e", false)];
    assert_eq!(contents(&mut owner, &queue), texts.map(|(text, flag)| (text.to_owned(), flag)));
    owner.delete(1, &queue);
}
