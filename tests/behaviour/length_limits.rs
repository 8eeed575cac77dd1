//! Queues with `x-max-length`, `x-max-length-bytes` and `x-overflow`.

use posthouse_testkit::{Consume, FieldValue, Method, Peer, Publish, Queue, expect_method, table, text};

use super::{broker, unique};

fn limited(peer: &mut Peer, max_length: i64, overflow: &str) -> String {
    let queue = unique("limited");
    let arguments = table([("x-max-length", FieldValue::I64(max_length)), ("x-overflow", text(overflow))]);
    peer.declare(1, &Queue { arguments, exclusive: true, ..Queue::named(&queue) });
    queue
}

/// What a run of answers to publishes says of each: whether it was accepted.
fn answers(peer: &mut Peer, channel: u16, publishes: u64) -> Vec<bool> {
    let mut accepted: Vec<Option<bool>> = vec![None; publishes as usize];
    while accepted.iter().any(Option::is_none) {
        let method = peer.method(channel);
        let (tag, multiple, kind) = match method.get() {
            Method::BasicAck { delivery_tag, multiple } => (delivery_tag, multiple, true),
            Method::BasicNack { delivery_tag, multiple, .. } => (delivery_tag, multiple, false),
            other => panic!("expected an answer to a publish, got {other:?}"),
        };
        let first = if multiple { 0 } else { tag as usize - 1 };
        assert!(multiple || accepted[first].is_none(), "publish {tag} answered twice");
        for answer in accepted[first..tag as usize].iter_mut().filter(|answer| answer.is_none()) {
            *answer = Some(kind);
        }
    }
    accepted.into_iter().flatten().collect()
}

#[test]
fn a_batch_beyond_the_limit_is_refused_message_by_message() {
    let mut peer = broker().peer();
    let queue = limited(&mut peer, 30, "reject-publish");
    peer.select_confirms(1);
    let mut batch = Vec::new();
    for number in 0..100 {
        let body = format!("{number}");
        Publish { body: body.as_bytes(), ..Publish::to("", &queue) }.write(1, 131_072, &mut batch);
    }
    peer.send_bytes(&batch);
    let accepted = answers(&mut peer, 1, 100);
    assert_eq!(accepted.iter().filter(|&&accepted| accepted).count(), 30);
    let expected: Vec<String> =
        (0..100).filter(|&number| accepted[number]).map(|number| number.to_string()).collect();
    assert_eq!(peer.drain(1, &queue), expected);
}

#[test]
fn the_newest_stay_when_the_head_is_dropped() {
    let mut peer = broker().peer();
    let queue = limited(&mut peer, 3, "drop-head");
    peer.select_confirms(1);
    for number in 0..50 {
        peer.publish(1, "", &queue, &number.to_string());
    }
    peer.confirmed(1, 50);
    assert_eq!(peer.drain(1, &queue), ["47", "48", "49"]);
}

#[test]
fn a_consumer_with_credit_gets_what_would_have_been_dropped() {
    let mut peer = broker().peer();
    let queue = limited(&mut peer, 1, "drop-head");
    peer.open_channel(2);
    peer.consume(2, &Consume::no_ack(&queue));
    let mut batch = Vec::new();
    for _ in 0..20 {
        Publish { body: b"x", ..Publish::to("", &queue) }.write(1, 131_072, &mut batch);
    }
    peer.send_bytes(&batch);
    for _ in 0..20 {
        expect_method!(peer, 2, Method::BasicDeliver { .. });
        peer.frame(2);
        peer.frame(2);
    }
}

#[test]
fn without_credit_the_limit_holds() {
    let mut peer = broker().peer();
    let queue = limited(&mut peer, 2, "drop-head");
    peer.open_channel(2);
    peer.prefetch(2, 1, false);
    peer.consume(2, &Consume::from(&queue));
    peer.select_confirms(1);
    for number in 0..20 {
        peer.publish(1, "", &queue, &number.to_string());
    }
    peer.confirmed(1, 20);
    peer.await_counts(1, &queue, (2, 1));
}
