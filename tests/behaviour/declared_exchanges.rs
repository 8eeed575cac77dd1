//! Declaring and deleting exchanges.

use posthouse_testkit::{Exchange, FieldTable, Method, Peer, expect_method};

use super::{broker, unique};

#[track_caller]
fn delete(peer: &mut Peer, exchange: &str) {
    peer.send(1, &Method::ExchangeDelete { exchange, if_unused: false, nowait: false });
    expect_method!(peer, 1, Method::ExchangeDeleteOk {});
}

#[track_caller]
fn expect_gone(peer: &mut Peer, exchange: &str) {
    let passive = Exchange { passive: true, ..Exchange::named(exchange, "") };
    let text = format!("NOT_FOUND - no exchange '{exchange}' in vhost '/'");
    peer.refused(1, &passive.method(), 404, &text);
}

#[test]
fn some_are_there_from_the_start() {
    let mut peer = broker().peer();
    for (name, exchange_type) in [
        ("amq.direct", "direct"),
        ("amq.fanout", "fanout"),
        ("amq.topic", "topic"),
        ("amq.headers", "headers"),
        ("amq.match", "headers"),
    ] {
        let declared = Exchange { durable: true, ..Exchange::named(name, exchange_type) };
        peer.declare_exchange(1, &declared);
        peer.declare_exchange(1, &Exchange { passive: true, ..Exchange::named(name, "") });
    }
    let trace = Exchange { durable: true, internal: true, ..Exchange::named("amq.rabbitmq.trace", "topic") };
    peer.declare_exchange(1, &trace);
}

#[test]
fn declared_twice_the_same_it_is_the_same() {
    let mut peer = broker().peer();
    for exchange_type in ["direct", "fanout", "topic", "headers"] {
        let name = unique(exchange_type);
        for (durable, auto_delete, internal) in
            [(false, false, false), (true, false, false), (false, true, false), (true, true, true)]
        {
            let exchange =
                Exchange { durable, auto_delete, internal, ..Exchange::named(&name, exchange_type) };
            peer.declare_exchange(1, &exchange);
            peer.declare_exchange(1, &exchange);
            delete(&mut peer, &name);
            expect_gone(&mut peer, &name);
        }
    }
}

#[test]
fn looking_at_one_compares_nothing() {
    let mut peer = broker().peer();
    let name = unique("e");
    peer.declare_exchange(1, &Exchange { durable: true, ..Exchange::named(&name, "topic") });
    let other = Exchange { passive: true, internal: true, ..Exchange::named(&name, "no-such-type") };
    peer.declare_exchange(1, &other);
    delete(&mut peer, &name);
    // Deleting what is not there is fine.
    delete(&mut peer, &name);
}

#[test]
fn auto_delete_goes_with_the_last_binding_from_it() {
    let mut peer = broker().peer();
    let name = unique("e");
    let exchange = Exchange { auto_delete: true, ..Exchange::named(&name, "direct") };
    peer.declare_exchange(1, &exchange);
    // A binding to it does not count.
    peer.bind_exchange(1, &name, "amq.direct", &name);
    let (one, two) = (peer.server_named(1), peer.server_named(1));
    peer.bind(1, &one, &name, "k");
    peer.bind(1, &two, &name, "k");
    peer.unbind(1, &one, &name, "k");
    peer.declare_exchange(1, &exchange);
    // The end of a queue is the end of its bindings.
    peer.delete(1, &two);
    expect_gone(&mut peer, &name);
}

#[test]
fn auto_delete_goes_along_a_chain() {
    let mut peer = broker().peer();
    let (first, second) = (unique("first"), unique("second"));
    for name in [&first, &second] {
        peer.declare_exchange(1, &Exchange { auto_delete: true, ..Exchange::named(name, "fanout") });
    }
    peer.bind_exchange(1, &second, &first, "");
    let queue = peer.server_named(1);
    peer.bind(1, &queue, &second, "");
    peer.delete(1, &queue);
    expect_gone(&mut peer, &second);
    expect_gone(&mut peer, &first);
}

#[test]
fn bindings_go_with_the_exchange() {
    let mut peer = broker().peer();
    let name = unique("e");
    let queue = peer.server_named(1);
    for _ in 0..2 {
        peer.declare_exchange(1, &Exchange::named(&name, "fanout"));
        peer.publish(1, &name, "", "x");
        assert_eq!(peer.counts(1, &queue), (0, 0));
        peer.bind(1, &queue, &name, "");
        delete(&mut peer, &name);
    }
}

#[test]
fn internal_ones_take_from_exchanges() {
    let mut peer = broker().peer();
    let (name, key) = (unique("internal"), unique("key"));
    let exchange = Exchange { internal: true, auto_delete: true, ..Exchange::named(&name, "fanout") };
    peer.declare_exchange(1, &exchange);
    let queue = peer.server_named(1);
    peer.bind(1, &queue, &name, "");
    peer.bind_exchange(1, &name, "amq.direct", &key);
    peer.publish(1, "amq.direct", &key, "x");
    assert_eq!(peer.drain(1, &queue), ["x"]);
}

#[test]
fn without_waiting_there_is_no_answer() {
    let mut peer = broker().peer();
    let name = unique("e");
    peer.send(1, &Exchange { nowait: true, ..Exchange::named(&name, "fanout") }.method());
    let bind = Method::ExchangeBind {
        destination: &name,
        source: "amq.fanout",
        routing_key: "",
        nowait: true,
        arguments: FieldTable::default(),
    };
    peer.send(1, &bind);
    peer.declare_exchange(1, &Exchange { passive: true, ..Exchange::named(&name, "") });
    peer.send(1, &Method::ExchangeDelete { exchange: &name, if_unused: false, nowait: true });
    peer.expect_quiet(1);
    expect_gone(&mut peer, &name);
}
