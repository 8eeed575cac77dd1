//! Orderly restarts: what is durable is there again as it was, what is not is gone.

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{
    Broker, Consume, Exchange, FieldValue, Method, Options, Peer, Properties, Publish, Queue, expect_method,
    table, text,
};

/// Publishes persistent texts and waits until they are confirmed.
fn publish_all(peer: &mut Peer, exchange: &str, routing_key: &str, bodies: &[String]) {
    peer.open_channel(9);
    peer.select_confirms(9);
    for body in bodies {
        let to = Publish::to(exchange, routing_key);
        peer.publish_with(9, &Publish { properties: persistent(), body: body.as_bytes(), ..to });
    }
    peer.confirmed(9, bodies.len() as u64);
    peer.close_channel(9);
}

fn texts(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix} {number}")).collect()
}

/// Whether a queue is there.
fn has_queue(peer: &mut Peer, queue: &str) -> bool {
    let answer = peer.call(1, &Queue::passive(queue).method());
    match answer.get() {
        Method::QueueDeclareOk { .. } => true,
        Method::ChannelClose { reply_code: 404, .. } => {
            peer.send(1, &Method::ChannelCloseOk {});
            peer.open_channel(1);
            false
        }
        other => panic!("expected an answer to a passive declare, got {other:?}"),
    }
}

/// Whether an exchange is there.
fn has_exchange(peer: &mut Peer, exchange: &str) -> bool {
    let answer = peer.call(1, &Exchange { passive: true, ..Exchange::named(exchange, "direct") }.method());
    match answer.get() {
        Method::ExchangeDeclareOk {} => true,
        Method::ChannelClose { reply_code: 404, .. } => {
            peer.send(1, &Method::ChannelCloseOk {});
            peer.open_channel(1);
            false
        }
        other => panic!("expected an answer to a passive declare, got {other:?}"),
    }
}

#[test]
fn exchanges_queues_and_bindings() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let exchanges = || {
        let alternate = table([("alternate-exchange", text("the-fanout"))]);
        [
            Exchange { durable: true, ..Exchange::named("the-direct", "direct") },
            Exchange { durable: true, ..Exchange::named("the-fanout", "fanout") },
            Exchange { durable: true, internal: true, ..Exchange::named("the-headers", "headers") },
            Exchange { durable: true, arguments: alternate, ..Exchange::named("the-topic", "topic") },
        ]
    };
    for exchange in exchanges() {
        peer.declare_exchange(1, &exchange);
    }
    peer.declare_exchange(1, &Exchange::named("transient-exchange", "direct"));
    for queue in ["a", "b"] {
        peer.declare(1, &Queue::durable(queue));
    }
    peer.declare(1, &Queue::named("transient-queue"));
    peer.declare(1, &Queue { durable: true, ..Queue::exclusive("exclusive-queue") });
    peer.declare(1, &Queue { durable: true, auto_delete: true, ..Queue::named("auto-delete-queue") });
    peer.bind(1, "a", "the-direct", "one");
    peer.bind(1, "a", "the-direct", "removed");
    peer.unbind(1, "a", "the-direct", "removed");
    peer.bind(1, "b", "the-fanout", "");
    peer.bind(1, "a", "transient-exchange", "x");
    peer.bind(1, "transient-queue", "the-direct", "one");
    let any = table([("x-match", text("any")), ("kind", text("urgent")), ("n", FieldValue::I32(7))]);
    peer.bind_with(1, "a", "the-headers", "", any);
    peer.bind_exchange(1, "the-headers", "the-topic", "news.#");
    peer.close();
    broker.restart();
    let mut peer = broker.peer();
    assert!(!has_exchange(&mut peer, "transient-exchange"));
    assert!(!has_queue(&mut peer, "transient-queue"));
    assert!(!has_queue(&mut peer, "exclusive-queue"));
    assert!(has_queue(&mut peer, "auto-delete-queue"));
    for exchange in exchanges() {
        // Other properties would be refused.
        peer.declare_exchange(1, &exchange);
    }
    for queue in ["a", "b"] {
        peer.declare(1, &Queue::durable(queue));
    }
    peer.publish(1, "the-direct", "one", "direct");
    peer.publish(1, "the-direct", "removed", "never");
    let headers = table([("kind", text("urgent"))]);
    let properties = Properties { headers: Some(headers), ..Properties::default() };
    let news = Publish::to("the-topic", "news.today");
    peer.publish_with(1, &Publish { properties, body: b"headers", ..news });
    // Not for any binding: the alternate exchange has it.
    peer.publish(1, "the-topic", "weather", "alternate");
    assert_eq!(peer.drain(1, "a"), ["direct", "headers"]);
    assert_eq!(peer.drain(1, "b"), ["alternate"]);
    peer.close();
    broker.stop();
    broker.check();
}

#[test]
fn what_was_deleted_stays_deleted() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    for queue in ["deleted", "made-anew", "purged"] {
        peer.declare(1, &Queue::durable(queue));
        publish_all(&mut peer, "", queue, &texts(queue, 10));
    }
    peer.declare_exchange(1, &Exchange { durable: true, ..Exchange::named("deleted", "fanout") });
    peer.bind(1, "purged", "deleted", "");
    peer.send(1, &Method::ExchangeDelete { exchange: "deleted", if_unused: false, nowait: false });
    expect_method!(peer, 1, Method::ExchangeDeleteOk {});
    for queue in ["deleted", "made-anew"] {
        peer.send(1, &Method::QueueDelete { queue, if_unused: false, if_empty: false, nowait: false });
        expect_method!(peer, 1, Method::QueueDeleteOk { message_count: 10 });
    }
    peer.declare(1, &Queue::durable("made-anew"));
    publish_all(&mut peer, "", "made-anew", &texts("anew", 2));
    peer.send(1, &Method::QueuePurge { queue: "purged", nowait: false });
    expect_method!(peer, 1, Method::QueuePurgeOk { message_count: 10 });
    peer.close();
    for unclean in [false, true, false] {
        if unclean {
            broker.kill();
            broker.start_again();
        } else {
            broker.restart();
        }
        let mut peer = broker.peer();
        assert!(!has_queue(&mut peer, "deleted"));
        assert!(!has_exchange(&mut peer, "deleted"));
        assert_eq!(peer.counts(1, "purged"), (0, 0));
        assert_eq!(peer.counts(1, "made-anew"), (2, 0));
        peer.close();
    }
    broker.stop();
    broker.check();
}

#[test]
fn persistent_messages_in_order_with_all_properties_and_no_transient_ones() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("q"));
    peer.select_confirms(1);
    let properties = |number: u32| Properties {
        delivery_mode: Some(if number.is_multiple_of(3) { 1 } else { 2 }),
        content_type: Some("text/plain".into()),
        correlation_id: Some(format!("c{number}")),
        headers: Some(table([("n", FieldValue::I32(number as i32))])),
        ..Properties::default()
    };
    for number in 0..1_000 {
        let body = number.to_string();
        let to = Publish::to("", "q");
        peer.publish_with(1, &Publish { properties: properties(number), body: body.as_bytes(), ..to });
    }
    peer.confirmed(1, 1_000);
    assert_eq!(peer.counts(1, "q"), (1_000, 0));
    peer.close();
    broker.restart();
    broker.restart();
    let mut peer = broker.peer();
    let persistent: Vec<u32> = (0..1_000_u32).filter(|number| !number.is_multiple_of(3)).collect();
    assert_eq!(peer.counts(1, "q"), (persistent.len() as u32, 0));
    peer.consume(1, &Consume::no_ack("q"));
    for number in persistent {
        let message = peer.message(1);
        assert_eq!(message.text(), number.to_string());
        assert!(!message.redelivered, "{number} was never delivered");
        assert_eq!(message.properties(), properties(number));
    }
    peer.expect_quiet(1);
    peer.close();
    broker.restart();
    assert_eq!(broker.peer().counts(1, "q"), (0, 0));
    broker.stop();
    broker.check();
}

#[test]
fn unacknowledged_messages_return_and_only_they_are_redelivered() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("q"));
    publish_all(&mut peer, "", "q", &texts("m", 20));
    peer.prefetch(1, 10, false);
    peer.consume(1, &Consume::from("q"));
    let first: Vec<u64> = (0..10).map(|_| peer.message(1).tag).collect();
    // These are done with; their room is taken by the next three.
    for &tag in &first[2..5] {
        peer.ack(1, tag);
        assert_eq!(peer.message(1).tag, tag + 8);
    }
    drop(peer);
    broker.restart();
    let mut peer = broker.peer();
    peer.consume(1, &Consume::no_ack("q"));
    let expected = (0..20).filter(|number| !(2..5).contains(number));
    for number in expected {
        let message = peer.message(1);
        assert_eq!((message.text(), message.redelivered), (format!("m {number}"), number < 13));
    }
    peer.expect_quiet(1);
}

#[test]
fn fan_out_survives_in_every_queue_until_each_has_had_it() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare_exchange(1, &Exchange { durable: true, ..Exchange::named("all", "fanout") });
    let queues: Vec<String> = (0..10).map(|number| format!("q{number}")).collect();
    for queue in &queues {
        peer.declare(1, &Queue::durable(queue));
        peer.bind(1, queue, "all", "");
    }
    // One that is not durable has them until the restart only.
    peer.declare(1, &Queue::named("transient"));
    peer.bind(1, "transient", "all", "");
    let bodies = texts("to all", 300);
    publish_all(&mut peer, "all", "", &bodies);
    assert_eq!(peer.counts(1, "transient"), (300, 0));
    assert_eq!(peer.drain(1, &queues[0]), bodies);
    peer.close();
    for _ in 0..2 {
        broker.restart();
        let mut peer = broker.peer();
        assert_eq!(peer.counts(1, &queues[0]), (0, 0));
        assert!(!has_queue(&mut peer, "transient"));
        peer.close();
    }
    let mut peer = broker.peer();
    for queue in &queues[1..] {
        assert_eq!(peer.drain(1, queue), bodies, "{queue}");
    }
    peer.close();
    broker.stop();
    broker.check();
}

#[test]
fn large_messages() {
    // Each is larger than a log file, together they are larger than all of them.
    let mut broker = Broker::start(Options::log().set("POSTHOUSE__LOG__FILE_SIZE", "1MiB"));
    let bodies: Vec<Vec<u8>> = [0, 1, 131_064, 131_065, 2_000_003, 10 << 20, 16 << 20]
        .iter()
        .map(|&bytes| (0..bytes).map(|at: usize| (at / 3 + bytes) as u8).collect())
        .collect();
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("q"));
    peer.select_confirms(1);
    for body in &bodies {
        peer.publish_with(1, &Publish { properties: persistent(), body, ..Publish::to("", "q") });
    }
    peer.confirmed(1, bodies.len() as u64);
    broker.kill();
    broker.check();
    broker.start_again();
    broker.restart();
    let mut peer = broker.peer();
    peer.consume(1, &Consume::no_ack("q"));
    for body in &bodies {
        assert!(peer.message(1).body == *body, "a body of {} bytes came back differently", body.len());
    }
    peer.close();
    broker.stop();
    broker.check();
}

#[test]
fn memory_only_keeps_nothing_and_makes_no_file() {
    let mut broker = Broker::start(Options::memory());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("q"));
    publish_all(&mut peer, "", "q", &texts("m", 10));
    assert_eq!(std::fs::read_dir(broker.data_dir()).unwrap().count(), 0);
    peer.close();
    broker.restart();
    assert!(!has_queue(&mut broker.peer(), "q"));
    assert_eq!(std::fs::read_dir(broker.data_dir()).unwrap().count(), 0);
}
