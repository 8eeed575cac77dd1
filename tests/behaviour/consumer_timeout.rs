//! Deliveries that are not acknowledged in time: `x-consumer-timeout` of queues and consumers, and the policy key.

use std::time::{Duration, Instant};

use posthouse_testkit::{
    Broker, Consume, FieldTable, FieldValue, Handshake, Method, Options, Peer, Queue, expect_method, table,
    text,
};

use super::{broker, unique};

const TIMEOUT_MS: i64 = 300;

fn timeout(ms: i64) -> FieldTable {
    table([("x-consumer-timeout", FieldValue::I64(ms))])
}

/// A peer with a queue of that timeout, and a second channel.
fn hurried(peer: &mut Peer) -> String {
    let queue = unique("hurried");
    peer.declare(1, &Queue { arguments: timeout(TIMEOUT_MS), ..Queue::exclusive(&queue) });
    peer.open_channel(2);
    queue
}

fn cancelled(peer: &mut Peer, channel: u16) -> String {
    expect_method!(peer, channel, Method::BasicCancel { consumer_tag, nowait } => {
        assert!(nowait);
        consumer_tag.to_owned()
    })
}

/// Whether the channel works, and no method came before the answer.
fn is_quiet(peer: &mut Peer, channel: u16) {
    peer.prefetch(channel, 0, false);
}

#[test]
fn a_delivery_comes_back_and_its_consumer_is_cancelled() {
    let mut peer = broker().peer();
    let queue = hurried(&mut peer);
    peer.open_channel(3);
    for body in ["1", "2"] {
        peer.publish(1, "", &queue, body);
    }
    peer.consume(2, &Consume { consumer_tag: "slow", ..Consume::from(&queue) });
    let began = Instant::now();
    let tags: Vec<u64> = (0..2).map(|_| peer.message(2).tag).collect();
    assert_eq!(cancelled(&mut peer, 2), "slow");
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(TIMEOUT_MS as u64), "{took:?}");
    assert_eq!(peer.counts(1, &queue), (2, 0));
    let again: Vec<_> = (0..2).map(|_| peer.get(3, &queue, true).unwrap()).collect();
    assert!(again.iter().all(|message| message.redelivered));
    assert_eq!(again.iter().map(|m| m.text()).collect::<Vec<_>>(), ["1", "2"]);
    // It may finish its work all the same: too late, but no error, once.
    peer.ack(2, tags[0]);
    peer.send(2, &Method::BasicNack { delivery_tag: tags[1], multiple: true, requeue: true });
    is_quiet(&mut peer, 2);
    let twice = Method::BasicAck { delivery_tag: tags[0], multiple: false };
    peer.refused(2, &twice, 406, &format!("PRECONDITION_FAILED - unknown delivery tag {}", tags[0]));
    assert_eq!(peer.counts(1, &queue), (0, 0));
}

#[test]
fn whoever_acknowledges_in_time_stays() {
    // So long that a busy machine does not make this one late.
    const CALM_MS: u64 = 2_000;
    let mut peer = broker().peer();
    let queue = unique("hurried");
    peer.declare(1, &Queue { arguments: timeout(CALM_MS as i64), ..Queue::exclusive(&queue) });
    peer.open_channel(2);
    peer.open_channel(3);
    peer.consume(2, &Consume { consumer_tag: "quick", ..Consume::from(&queue) });
    peer.consume(3, &Consume { consumer_tag: "automatic", ..Consume::no_ack(&queue) });
    let until = Instant::now() + Duration::from_millis(CALM_MS + CALM_MS / 4);
    let mut answered = 0;
    while Instant::now() < until {
        peer.publish(1, "", &queue, "x");
        peer.publish(1, "", &queue, "y");
        peer.message(3);
        let tag = peer.message(2).tag;
        peer.ack(2, tag);
        answered += 1;
    }
    is_quiet(&mut peer, 2);
    is_quiet(&mut peer, 3);
    assert_eq!(peer.counts(1, &queue), (0, 2), "after {answered} rounds");
}

#[test]
fn a_client_that_is_not_told_of_cancellations_loses_its_channel() {
    let mut owner = broker().peer();
    let queue = unique("hurried");
    owner.declare(1, &Queue { arguments: timeout(TIMEOUT_MS), ..Queue::named(&queue) });
    let mut peer = broker().peer_with(&Handshake::default().without_capabilities());
    owner.publish(1, "", &queue, "x");
    peer.consume(1, &Consume::from(&queue));
    peer.message(1);
    let text = format!(
        "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: {TIMEOUT_MS} ms. \
         This timeout value can be configured, see consumers doc guide to learn more"
    );
    peer.expect_channel_close(1, 406, &text, (0, 0));
    owner.await_counts(1, &queue, (1, 0));
    assert!(owner.get(1, &queue, true).unwrap().redelivered);
    owner.delete(1, &queue);
}

#[test]
fn a_consumers_own_timeout_counts() {
    let mut peer = broker().peer();
    let queue = unique("calm");
    peer.declare(1, &Queue { arguments: timeout(3_600_000), ..Queue::exclusive(&queue) });
    let plain = peer.server_named(1);
    peer.open_channel(2);
    peer.open_channel(3);
    for (queue, consumer_tag) in [(&queue, "a"), (&plain, "b")] {
        let arguments = timeout(TIMEOUT_MS);
        peer.consume(2, &Consume { consumer_tag, arguments, ..Consume::from(queue) });
        peer.publish(1, "", queue, "x");
        peer.message(2);
        assert_eq!(cancelled(&mut peer, 2), consumer_tag);
    }
    let longer = hurried_by(&mut peer, 3);
    peer.publish(1, "", &longer, "x");
    peer.message(3);
    peer.publish(1, "", &plain, "y");
    peer.consume(
        2,
        &Consume { consumer_tag: "c", arguments: timeout(2 * TIMEOUT_MS), ..Consume::from(&plain) },
    );
    assert_eq!(peer.messages(2, 2), ["x", "y"]);
    assert_eq!(cancelled(&mut peer, 2), "c", "by then the queue's own time is over");
    is_quiet(&mut peer, 3);
}

/// A queue of a short timeout with a consumer on `channel` that asked for a long one.
fn hurried_by(peer: &mut Peer, channel: u16) -> String {
    let queue = unique("hurried");
    peer.declare(1, &Queue { arguments: timeout(TIMEOUT_MS), ..Queue::exclusive(&queue) });
    peer.consume(channel, &Consume { arguments: timeout(3_600_000), ..Consume::from(&queue) });
    queue
}

#[test]
fn what_was_taken_with_get_or_by_a_cancelled_consumer_comes_back() {
    let mut peer = broker().peer();
    let queue = hurried(&mut peer);
    peer.publish(1, "", &queue, "1");
    peer.publish(1, "", &queue, "2");
    let got = peer.get(2, &queue, false).unwrap();
    peer.consume(2, &Consume { consumer_tag: "t", ..Consume::from(&queue) });
    peer.message(2);
    peer.cancel(2, "t");
    peer.await_counts(1, &queue, (2, 0));
    peer.ack(2, got.tag);
    is_quiet(&mut peer, 2);
    assert_eq!(peer.drain(1, &queue), ["1", "2"]);
}

#[test]
fn the_next_single_active_consumer_takes_over_and_nothing_counts_as_failed() {
    let mut peer = broker().peer();
    let queue = unique("hurried");
    let mut arguments = timeout(TIMEOUT_MS);
    arguments.0.push(("x-single-active-consumer".to_owned(), FieldValue::Bool(true)));
    arguments.0.push(("x-delivery-limit".to_owned(), FieldValue::I32(0)));
    peer.declare(1, &Queue { arguments, ..Queue::exclusive(&queue) });
    for channel in [2, 3] {
        peer.open_channel(channel);
        peer.consume(channel, &Consume::from(&queue));
    }
    for body in ["1", "2", "3"] {
        peer.publish(1, "", &queue, body);
    }
    assert_eq!(peer.messages(2, 3), ["1", "2", "3"]);
    cancelled(&mut peer, 2);
    for expected in ["1", "2", "3"] {
        let message = peer.message(3);
        let headers = message.properties().headers.unwrap_or_default();
        assert_eq!((message.text().as_str(), message.redelivered), (expected, true));
        assert_eq!(headers.get("x-acquired-count"), Some(&FieldValue::I64(1)));
        assert_eq!(headers.get("x-delivery-count"), None);
        peer.ack(3, message.tag);
    }
}

#[test]
fn an_open_transaction_holds_its_acknowledgements() {
    let mut peer = broker().peer();
    let queue = hurried(&mut peer);
    peer.send(2, &Method::TxSelect {});
    expect_method!(peer, 2, Method::TxSelectOk {});
    peer.consume(2, &Consume::from(&queue));
    peer.publish(1, "", &queue, "kept");
    let kept = peer.message(2).tag;
    peer.ack(2, kept);
    peer.publish(1, "", &queue, "late");
    peer.message(2);
    cancelled(&mut peer, 2);
    peer.send(2, &Method::TxRollback {});
    expect_method!(peer, 2, Method::TxRollbackOk {});
    peer.await_counts(1, &queue, (2, 0));
}

#[test]
fn policies_take_effect_on_the_next_delivery() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue { arguments: timeout(3_600_000), ..Queue::named("q") });
    peer.open_channel(2);
    peer.consume(2, &Consume { consumer_tag: "t", ..Consume::from("q") });
    broker.ctl(&["set_policy", "p", "", r#"{"consumer-timeout":300}"#, "--apply-to", "queues"]);
    assert_eq!(broker.ctl(&["list_consumers", "-s", "consumer_timeout"]), "300\n");
    peer.publish(1, "", "q", "x");
    peer.message(2);
    assert_eq!(cancelled(&mut peer, 2), "t");
    let refused = broker.ctl_refused(&["set_policy", "p", "", r#"{"consumer-timeout":0}"#]);
    assert!(refused.contains("0 is not a valid consumer timeout"), "{refused}");
}

#[test]
fn times_that_make_no_sense_are_refused() {
    let mut peer = broker().peer();
    let queue = unique("hurried");
    let refusal = |reason: &str| {
        format!(
            "PRECONDITION_FAILED - invalid arg 'x-consumer-timeout' for queue '{queue}' in vhost '/': {reason}"
        )
    };
    for (value, reason) in [
        (FieldValue::I32(0), "{value_zero,0}"),
        (FieldValue::I32(-5), "{value_negative,-5}"),
        (text("1s"), "\"expected integer, got longstr\""),
    ] {
        let arguments = table([("x-consumer-timeout", value)]);
        let declare = Queue { arguments: arguments.clone(), ..Queue::exclusive(&queue) };
        peer.refused(1, &declare.method(), 406, &refusal(reason));
        peer.declare(1, &Queue::exclusive(&queue));
        let consume = Consume { arguments, ..Consume::from(&queue) };
        peer.refused(1, &consume.method(), 406, &refusal(reason));
        peer.delete(1, &queue);
    }
}
