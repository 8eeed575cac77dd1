//! Making and removing bindings.

use posthouse_testkit::{FieldTable, FieldValue, Method, expect_method, table, text};

use super::{broker, unique};

#[test]
fn made_twice_it_is_one() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    let key = unique("key");
    peer.bind(1, &queue, "amq.direct", &key);
    peer.bind(1, &queue, "amq.direct", &key);
    peer.publish(1, "amq.direct", &key, "x");
    assert_eq!(peer.drain(1, &queue), ["x"]);
    peer.unbind(1, &queue, "amq.direct", &key);
    peer.publish(1, "amq.direct", &key, "x");
    assert_eq!(peer.drain(1, &queue), [""; 0]);
}

#[test]
fn arguments_tell_bindings_apart() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    let key = unique("key");
    let one = || table([("a", text("1")), ("b", FieldValue::I32(2))]);
    peer.bind_with(1, &queue, "amq.direct", &key, one());
    peer.bind(1, &queue, "amq.direct", &key);
    peer.unbind(1, &queue, "amq.direct", &key);
    peer.publish(1, "amq.direct", &key, "x");
    assert_eq!(peer.drain(1, &queue), ["x"]);
    // The order of arguments does not matter.
    let arguments = table([("b", FieldValue::I32(2)), ("a", text("1"))]);
    let unbind = Method::QueueUnbind { queue: &queue, exchange: "amq.direct", routing_key: &key, arguments };
    peer.send(1, &unbind);
    expect_method!(peer, 1, Method::QueueUnbindOk {});
    peer.publish(1, "amq.direct", &key, "x");
    assert_eq!(peer.drain(1, &queue), [""; 0]);
}

#[test]
fn removing_what_is_not_there_is_fine() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    let (missing_queue, missing_exchange) = (unique("q"), unique("e"));
    peer.unbind(1, &queue, "amq.direct", "never bound");
    peer.unbind(1, &missing_queue, "amq.direct", "k");
    peer.unbind(1, &queue, &missing_exchange, "k");
    for (destination, source) in [("amq.fanout", &missing_exchange[..]), (&missing_exchange, "amq.fanout")] {
        let arguments = FieldTable::default();
        let unbind =
            Method::ExchangeUnbind { destination, source, routing_key: "", nowait: false, arguments };
        peer.send(1, &unbind);
        expect_method!(peer, 1, Method::ExchangeUnbindOk {});
    }
}

#[test]
fn a_binding_goes_with_its_queue() {
    let mut peer = broker().peer();
    let (name, key) = (unique("q"), unique("key"));
    for _ in 0..2 {
        peer.declare(1, &posthouse_testkit::Queue::exclusive(&name));
        peer.publish(1, "amq.direct", &key, "before it was bound");
        peer.bind(1, &name, "amq.direct", &key);
        assert_eq!(peer.delete(1, &name), 0);
    }
}
