//! Queues with `x-delivery-limit`.

use posthouse_testkit::content::Received;
use posthouse_testkit::{
    Broker, Consume, FieldValue, Method, Options, Peer, Properties, Publish, Queue, table, text,
};

use super::{broker, unique};

fn limited(limit: i64) -> (Peer, String) {
    let mut peer = broker().peer();
    let queue = unique("limited");
    let arguments = table([("x-delivery-limit", FieldValue::I64(limit))]);
    peer.declare(1, &Queue { arguments, ..Queue::exclusive(&queue) });
    peer.open_channel(2);
    (peer, queue)
}

/// `x-delivery-count` and `x-acquired-count`.
fn counts(message: &Received) -> (Option<i64>, Option<i64>) {
    let headers = message.properties().headers.unwrap_or_default();
    let integer = |name: &str| headers.get(name).and_then(FieldValue::as_int);
    (integer("x-delivery-count"), integer("x-acquired-count"))
}

fn requeue(peer: &mut Peer, channel: u16, delivery_tag: u64) {
    peer.send(channel, &Method::BasicNack { delivery_tag, multiple: false, requeue: true });
}

#[test]
fn a_message_that_always_fails_leaves() {
    for reject in [false, true] {
        let (mut peer, queue) = limited(2);
        peer.publish(1, "", &queue, "poison");
        peer.consume(2, &Consume::from(&queue));
        for expected in [(None, None), (Some(1), Some(1)), (Some(2), Some(2))] {
            let message = peer.message(2);
            assert_eq!((counts(&message), message.redelivered), (expected, expected.0.is_some()));
            let delivery_tag = message.tag;
            match reject {
                true => peer.send(2, &Method::BasicReject { delivery_tag, requeue: true }),
                false => requeue(&mut peer, 2, delivery_tag),
            }
        }
        peer.publish(1, "", &queue, "good");
        let next = peer.message(2);
        assert_eq!((next.text().as_str(), counts(&next)), ("good", (None, None)));
        peer.ack(2, next.tag);
        peer.await_counts(1, &queue, (0, 1));
    }
}

#[test]
fn what_leaves_is_dead_lettered() {
    let mut peer = broker().peer();
    let (queue, dead) = (unique("limited"), peer.server_named(1));
    let arguments = table([
        ("x-delivery-limit", FieldValue::I32(0)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(&dead)),
    ]);
    peer.declare(1, &Queue { arguments, ..Queue::exclusive(&queue) });
    peer.publish(1, "", &queue, "poison");
    let tag = peer.get(1, &queue, false).unwrap().tag;
    requeue(&mut peer, 1, tag);
    peer.await_counts(1, &dead, (1, 0));
    let letter = peer.get(1, &dead, true).unwrap();
    assert_eq!((letter.text().as_str(), letter.redelivered), ("poison", true));
    let headers = letter.properties().headers.unwrap();
    assert_eq!(headers.get("x-first-death-reason"), Some(&text("delivery_limit")));
    assert_eq!(headers.get("x-first-death-queue"), Some(&text(&queue)));
    assert_eq!(peer.counts(1, &queue), (0, 0));
}

#[test]
fn the_end_of_a_channel_and_recover_count() {
    let (mut peer, queue) = limited(3);
    peer.publish(1, "", &queue, "x");
    assert_eq!(counts(&peer.get(2, &queue, false).unwrap()), (None, None));
    peer.send(2, &Method::BasicRecover { requeue: true });
    peer.method(2);
    assert_eq!(counts(&peer.get(2, &queue, false).unwrap()), (Some(1), Some(1)));
    peer.close_channel(2);
    peer.open_channel(2);
    assert_eq!(counts(&peer.get(2, &queue, false).unwrap()), (Some(2), Some(2)));
    peer.close_channel(2);
    peer.open_channel(2);
    // Without acknowledgement it cannot come back.
    let last = peer.get(2, &queue, true).unwrap();
    assert_eq!((counts(&last), last.redelivered), ((Some(3), Some(3)), true));
}

#[test]
fn a_lost_connection_counts_and_one_that_an_operator_closes_does_not() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let arguments = table([("x-delivery-limit", FieldValue::I32(9))]);
    peer.declare(1, &Queue { arguments, ..Queue::named("q") });
    peer.publish(1, "", "q", "x");
    peer.await_counts(1, "q", (1, 0));
    let mut lost = broker.peer();
    lost.get(1, "q", false).unwrap();
    drop(lost);
    peer.await_counts(1, "q", (1, 0));
    let mut closed = broker.peer();
    assert_eq!(counts(&closed.get(1, "q", false).unwrap()), (Some(1), Some(1)));
    let pid = broker.ctl(&["list_connections", "-s", "pid"]);
    let newest = pid.lines().last().unwrap_or_default().to_owned();
    broker.ctl(&["close_connection", &newest, "maintenance"]);
    closed.connection_closed();
    peer.await_counts(1, "q", (1, 0));
    assert_eq!(counts(&peer.get(1, "q", false).unwrap()), (Some(1), Some(2)));
}

#[test]
fn the_publishers_headers_stay_and_its_counts_do_not() {
    let (mut peer, queue) = limited(9);
    let headers = table([
        ("a", text("b")),
        ("x-delivery-count", FieldValue::I32(77)),
        ("x-acquired-count", text("many")),
        ("c", FieldValue::Bool(true)),
    ]);
    let properties =
        Properties { headers: Some(headers.clone()), message_id: Some("id".into()), ..Properties::default() };
    let body = vec![b'x'; 40_000];
    for body in [&b""[..], b"small", &body] {
        peer.publish_with(1, &Publish { properties: properties.clone(), body, ..Publish::to("", &queue) });
        let first = peer.get(2, &queue, false).unwrap();
        assert_eq!(first.properties().headers, Some(headers.clone()), "never came back");
        requeue(&mut peer, 2, first.tag);
        peer.consume(2, &Consume { consumer_tag: "t", no_ack: true, ..Consume::from(&queue) });
        let again = peer.message(2);
        peer.cancel(2, "t");
        assert_eq!((counts(&again), again.body.as_slice()), ((Some(1), Some(1)), body));
        let got = again.properties();
        assert_eq!(got.message_id.as_deref(), Some("id"));
        let others: Vec<_> =
            got.headers.unwrap().0.into_iter().filter(|(name, _)| !name.starts_with("x-")).collect();
        assert_eq!(others, [("a".to_owned(), text("b")), ("c".to_owned(), FieldValue::Bool(true))]);
    }
}

#[test]
fn a_negative_limit_counts_without_end_and_none_counts_nothing() {
    let (mut peer, queue) = limited(-1);
    let plain = peer.server_named(1);
    for queue in [&queue, &plain] {
        peer.publish(1, "", queue, "x");
        for times in 0..30 {
            let message = peer.get(2, queue, false).unwrap();
            let expected = (queue != &plain && times > 0).then_some(times);
            assert_eq!(counts(&message), (expected, expected));
            requeue(&mut peer, 2, message.tag);
        }
    }
}

#[test]
fn quorum_queues_have_a_limit_of_20_unless_somebody_says_otherwise() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let quorum = || ("x-queue-type", text("quorum"));
    peer.declare(1, &Queue { arguments: table([quorum()]), ..Queue::durable("q") });
    let more = table([quorum(), ("x-delivery-limit", FieldValue::I32(25))]);
    peer.declare(1, &Queue { arguments: more, ..Queue::durable("more") });
    let deliveries = |peer: &mut Peer, queue: &str| {
        peer.publish(1, "", queue, "x");
        let attempts = (1..=30).map_while(|_| {
            let message = peer.get(1, queue, false)?;
            requeue(peer, 1, message.tag);
            Some(())
        });
        let count = attempts.count();
        peer.drain(1, queue);
        count
    };
    assert_eq!((deliveries(&mut peer, "q"), deliveries(&mut peer, "more")), (21, 26));
    broker.ctl(&["set_policy", "p", "", r#"{"delivery-limit":22}"#]);
    assert_eq!((deliveries(&mut peer, "q"), deliveries(&mut peer, "more")), (23, 23));
    broker.ctl(&["set_policy", "p", "", r#"{"delivery-limit":-1}"#]);
    assert_eq!(deliveries(&mut peer, "q"), 30);
}

#[test]
fn policies_limit_at_once() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::named("q"));
    let deliveries = |peer: &mut Peer| {
        peer.publish(1, "", "q", "x");
        let mut deliveries = 0;
        while let Some(message) = peer.get(1, "q", false) {
            deliveries += 1;
            requeue(peer, 1, message.tag);
            if deliveries == 20 {
                assert_eq!(peer.drain(1, "q").len(), 1);
            }
        }
        deliveries
    };
    assert_eq!(deliveries(&mut peer), 20, "for ever");
    broker.ctl(&["set_policy", "p", "", r#"{"delivery-limit":5}"#, "--apply-to", "queues"]);
    assert_eq!(deliveries(&mut peer), 6);
    broker.ctl(&["set_operator_policy", "o", "", r#"{"delivery-limit":2}"#]);
    assert_eq!(deliveries(&mut peer), 3);
    broker.ctl(&["clear_operator_policy", "o"]);
    broker.ctl(&["set_policy", "p", "", r#"{"delivery-limit":-1}"#]);
    assert_eq!(deliveries(&mut peer), 20);
}

#[test]
fn a_limit_that_is_no_integer_is_refused() {
    let mut peer = broker().peer();
    let queue = unique("limited");
    let arguments = table([("x-delivery-limit", text("3"))]);
    let refusal = format!(
        "PRECONDITION_FAILED - invalid arg 'x-delivery-limit' for queue '{queue}' in vhost '/': \
         \"expected integer, got longstr\""
    );
    peer.refused(1, &Queue { arguments, ..Queue::exclusive(&queue) }.method(), 406, &refusal);
}
