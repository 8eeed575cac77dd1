//! Exchanges of the type `x-message-deduplication`.

use posthouse_testkit::{
    Exchange, FieldTable, FieldValue, Method, Options, Peer, Properties, Publish, Queue, expect_method,
    table, text,
};

use super::{broker, unique};

const KIND: &str = "x-message-deduplication";

/// An exchange with these arguments, and a queue that is bound to it.
fn declare(peer: &mut Peer, arguments: FieldTable, queue: FieldTable) -> (String, String) {
    let (exchange, name) = (unique("once"), unique("bound"));
    peer.declare_exchange(1, &Exchange { arguments, ..Exchange::named(&exchange, KIND) });
    peer.declare(1, &Queue { arguments: queue, ..Queue::exclusive(&name) });
    peer.bind(1, &name, &exchange, "ignored");
    (exchange, name)
}

fn of_size(size: i32) -> FieldTable {
    table([("x-cache-size", FieldValue::I32(size))])
}

fn publish(peer: &mut Peer, exchange: &str, headers: FieldTable, body: &str) {
    let properties = Properties { headers: Some(headers), ..Properties::default() };
    let publish =
        Publish { properties, mandatory: true, body: body.as_bytes(), ..Publish::to(exchange, "key") };
    peer.publish_with(1, &publish);
}

fn value(value: &str) -> FieldTable {
    table([("x-deduplication-header", text(value))])
}

#[test]
fn a_value_passes_once_even_when_its_message_is_gone() {
    let mut peer = broker().peer();
    let (exchange, queue) = declare(&mut peer, of_size(9), table([]));
    peer.select_confirms(1);
    for (id, body) in [("a", "1"), ("b", "2"), ("a", "again")] {
        publish(&mut peer, &exchange, value(id), body);
    }
    publish(&mut peer, &exchange, table([]), "without");
    publish(&mut peer, &exchange, table([]), "without");
    peer.confirmed(1, 5);
    assert_eq!(peer.drain(1, &queue), ["1", "2", "without", "without"]);
    publish(&mut peer, &exchange, value("b"), "again");
    expect_method!(peer, 1, Method::BasicAck { delivery_tag: 6, .. });
    assert_eq!(peer.counts(1, &queue).0, 0);
}

#[test]
fn the_oldest_value_makes_room() {
    let mut peer = broker().peer();
    let (exchange, queue) = declare(&mut peer, of_size(2), table([]));
    for (id, body) in [("a", "1"), ("b", "2"), ("c", "3"), ("b", "again"), ("a", "4")] {
        publish(&mut peer, &exchange, value(id), body);
    }
    assert_eq!(peer.drain(1, &queue), ["1", "2", "3", "4"]);
}

#[test]
fn a_value_passes_again_when_its_time_is_over() {
    let mut peer = broker().peer();
    let mut arguments = of_size(9);
    arguments.0.push(("x-cache-ttl".to_owned(), FieldValue::I32(600_000)));
    let (exchange, queue) = declare(&mut peer, arguments, table([]));
    let short = |id| {
        let mut headers = value(id);
        headers.0.push(("x-cache-ttl".to_owned(), FieldValue::I32(30)));
        headers
    };
    publish(&mut peer, &exchange, value("long"), "1");
    publish(&mut peer, &exchange, short("short"), "2");
    assert_eq!(peer.drain(1, &queue), ["1", "2"]);
    let mut tries = 0;
    while peer.counts(1, &queue).0 == 0 {
        publish(&mut peer, &exchange, short("short"), "3");
        publish(&mut peer, &exchange, value("long"), "never");
        tries += 1;
    }
    assert!(tries > 0);
    assert_eq!(peer.drain(1, &queue), ["3"]);
}

#[test]
fn what_nobody_got_may_come_again() {
    let mut peer = broker().peer();
    let exchange = unique("once");
    peer.declare_exchange(1, &Exchange { arguments: of_size(9), ..Exchange::named(&exchange, KIND) });
    publish(&mut peer, &exchange, value("a"), "unroutable");
    expect_method!(peer, 1, Method::BasicReturn { reply_code: 312, .. });
    peer.frame(1);
    peer.frame(1);
    let full = table([("x-max-length", FieldValue::I32(1)), ("x-overflow", text("reject-publish"))]);
    let queue = unique("bound");
    peer.declare(1, &Queue { arguments: full, ..Queue::exclusive(&queue) });
    peer.bind(1, &queue, &exchange, "");
    peer.select_confirms(1);
    publish(&mut peer, &exchange, value("a"), "first");
    peer.confirmed_up_to(1, 1);
    publish(&mut peer, &exchange, value("b"), "too much");
    expect_method!(peer, 1, Method::BasicNack { delivery_tag: 2, .. });
    assert_eq!(peer.drain(1, &queue), ["first"]);
    publish(&mut peer, &exchange, value("b"), "now");
    expect_method!(peer, 1, Method::BasicAck { delivery_tag: 3, .. });
    publish(&mut peer, &exchange, value("b"), "again");
    expect_method!(peer, 1, Method::BasicAck { delivery_tag: 4, .. });
    assert_eq!(peer.drain(1, &queue), ["now"]);
}

/// Without confirms nobody is told which of the messages of one read was refused; the exchange knows.
#[test]
fn only_what_was_refused_may_come_again() {
    let mut peer = broker().peer();
    let full = table([("x-max-length", FieldValue::I32(2)), ("x-overflow", text("reject-publish"))]);
    let (exchange, queue) = declare(&mut peer, of_size(9), full);
    let all = ["a", "b", "c"].map(|id| {
        let properties = Properties { headers: Some(value(id)), ..Properties::default() };
        let mut bytes = Vec::new();
        Publish { properties, body: id.as_bytes(), ..Publish::to(&exchange, "") }
            .write(1, 131_072, &mut bytes);
        bytes
    });
    let all = all.concat();
    peer.send_bytes(&all);
    assert_eq!(peer.drain(1, &queue), ["a", "b"]);
    peer.send_bytes(&all);
    assert_eq!(peer.drain(1, &queue), ["c"]);
}

/// The duplicate of a message is answered as that one is.
#[test]
fn a_duplicate_of_what_is_refused_is_refused() {
    let mut peer = broker().peer();
    let full = table([("x-max-length", FieldValue::I32(1)), ("x-overflow", text("reject-publish"))]);
    let (exchange, queue) = declare(&mut peer, of_size(9), full);
    peer.select_confirms(1);
    let message = |id| {
        let properties = Properties { headers: Some(value(id)), ..Properties::default() };
        let mut bytes = Vec::new();
        Publish { properties, body: b"x", ..Publish::to(&exchange, "") }.write(1, 131_072, &mut bytes);
        bytes
    };
    peer.send_bytes(&[message("a"), message("b"), message("b"), message("a")].concat());
    for tag in [2, 3] {
        let nacked = expect_method!(peer, 1, Method::BasicNack { delivery_tag, .. } => delivery_tag);
        assert_eq!(nacked, tag);
    }
    expect_method!(peer, 1, Method::BasicAck { delivery_tag: 4, .. });
    assert_eq!(peer.drain(1, &queue).len(), 1);
}

/// Two connections that publish the same: each message enters once, and everything is confirmed.
#[test]
fn duplicates_at_the_same_time_are_confirmed() {
    const MESSAGES: u32 = 3_000;
    let mut peer = broker().peer();
    let (exchange, queue) = (unique("once"), unique("bound"));
    peer.declare_exchange(1, &Exchange { arguments: of_size(9_000), ..Exchange::named(&exchange, KIND) });
    peer.declare(1, &Queue::durable(&queue));
    peer.bind(1, &queue, &exchange, "");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut peer = broker().peer();
                peer.select_confirms(1);
                let mut bytes = Vec::new();
                for number in 0..MESSAGES {
                    let headers = Some(value(&number.to_string()));
                    let properties = Properties { headers, delivery_mode: Some(2), ..Properties::default() };
                    let body = number.to_string();
                    Publish { properties, body: body.as_bytes(), ..Publish::to(&exchange, "") }
                        .write(1, 131_072, &mut bytes);
                }
                peer.send_bytes(&bytes);
                peer.confirmed_up_to(1, MESSAGES.into());
            });
        }
    });
    let mut numbers: Vec<u32> = peer.drain(1, &queue).iter().map(|body| body.parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..MESSAGES).collect::<Vec<_>>());
    peer.delete(1, &queue);
    peer.send(1, &Method::ExchangeDelete { exchange: &exchange, if_unused: false, nowait: false });
    expect_method!(peer, 1, Method::ExchangeDeleteOk {});
}

#[test]
fn bound_exchanges_compare_and_duplicates_have_no_alternate() {
    let mut peer = broker().peer();
    let (front, aside, lost) = (unique("front"), unique("aside"), unique("lost"));
    let mut arguments = of_size(9);
    arguments.0.push(("alternate-exchange".to_owned(), text("amq.fanout")));
    let (exchange, queue) = declare(&mut peer, arguments, table([]));
    peer.declare_exchange(1, &Exchange { auto_delete: true, ..Exchange::named(&front, "fanout") });
    peer.bind_exchange(1, &exchange, &front, "");
    for name in [&aside, &lost] {
        peer.declare(1, &Queue::exclusive(name));
    }
    peer.bind(1, &aside, &front, "");
    peer.bind(1, &lost, "amq.fanout", "");
    for body in ["1", "2"] {
        publish(&mut peer, &front, value("a"), body);
    }
    publish(&mut peer, &exchange, value("a"), "3");
    assert_eq!(peer.drain(1, &queue), ["1"]);
    assert_eq!(peer.drain(1, &aside), ["1", "2"]);
    assert_eq!(peer.counts(1, &lost).0, 0);
}

/// A dead letter that comes by again is no duplicate of itself.
#[test]
fn dead_letters_are_not_compared() {
    let mut peer = broker().peer();
    let (exchange, queue) = declare(&mut peer, of_size(9), table([]));
    let source = unique("source");
    let arguments = table([("x-dead-letter-exchange", text(&exchange))]);
    peer.declare(1, &Queue { arguments, ..Queue::exclusive(&source) });
    publish(&mut peer, &exchange, value("a"), "1");
    publish(&mut peer, "", value("a"), "unroutable");
    let properties = Properties { headers: Some(value("a")), ..Properties::default() };
    expect_method!(peer, 1, Method::BasicReturn { reply_code: 312, .. });
    peer.frame(1);
    peer.frame(1);
    peer.publish_with(1, &Publish { properties, body: b"2", ..Publish::to("", &source) });
    let got = peer.get(1, &source, false).expect("a message");
    peer.send(1, &Method::BasicReject { delivery_tag: got.tag, requeue: false });
    peer.await_counts(1, &queue, (2, 0));
    assert_eq!(peer.drain(1, &queue), ["1", "2"]);
}

#[test]
fn a_restart_forgets_and_deleting_does() {
    let mut broker = posthouse_testkit::Broker::start(Options::log());
    let mut peer = broker.peer();
    let durable = || Exchange { durable: true, arguments: of_size(9), ..Exchange::named("once", KIND) };
    let set_up = |peer: &mut Peer| {
        peer.declare_exchange(1, &durable());
        peer.declare(1, &Queue::durable("bound"));
        peer.bind(1, "bound", "once", "");
        publish(peer, "once", value("a"), "x");
        peer.drain(1, "bound").len()
    };
    assert_eq!((set_up(&mut peer), set_up(&mut peer)), (1, 0));
    peer.send(1, &Method::ExchangeDelete { exchange: "once", if_unused: false, nowait: false });
    expect_method!(peer, 1, Method::ExchangeDeleteOk {});
    assert_eq!((set_up(&mut peer), set_up(&mut peer)), (1, 0));
    peer.close();
    broker.restart();
    let mut peer = broker.peer();
    assert_eq!((set_up(&mut peer), set_up(&mut peer)), (1, 0));
}

#[test]
fn arguments_are_checked() {
    let mut peer = broker().peer();
    let exchange = unique("once");
    let mut refused = |channel: u16, arguments: FieldTable, code: u16, reason: &str| {
        peer.open_channel(channel);
        let declare = Exchange { arguments, ..Exchange::named(&exchange, KIND) };
        peer.refused(channel, &declare.method(), code, reason);
    };
    let size =
        "PRECONDITION_FAILED - Missing or invalid argument, 'x-cache-size' must be an integer greater than 0";
    refused(2, table([]), 406, size);
    refused(3, of_size(0), 406, size);
    let mut arguments = of_size(1);
    arguments.0.push(("x-cache-ttl".to_owned(), FieldValue::I32(0)));
    let ttl = "PRECONDITION_FAILED - Invalid argument, 'x-cache-ttl' must be an integer greater than 0";
    refused(4, arguments, 406, ttl);
    let mut arguments = of_size(1);
    arguments.0.push(("x-cache-persistence".to_owned(), text("paper")));
    let word =
        "PRECONDITION_FAILED - Invalid argument, 'x-cache-persistence' must be either 'disk' or 'memory'";
    refused(5, arguments, 406, word);
    let mut arguments = of_size(1_000_001);
    arguments.0.push(("x-cache-persistence".to_owned(), text("disk")));
    let most = format!(
        "PRECONDITION_FAILED - invalid arg 'x-cache-size' for exchange '{exchange}' in vhost '/': \"expected at most \
         1000000 on disk, got 1000001\""
    );
    refused(6, arguments, 406, &most);
}
