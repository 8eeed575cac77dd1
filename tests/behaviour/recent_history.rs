//! Recent history exchanges: what is bound late gets the last messages.

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{
    Broker, Exchange, FieldTable, FieldValue, Options, Peer, Properties, Publish, Queue, table, text,
};

use super::{broker, unique};

fn exchange(peer: &mut Peer, arguments: FieldTable) -> String {
    let name = unique("history");
    peer.declare_exchange(1, &Exchange { arguments, ..Exchange::named(&name, "x-recent-history") });
    name
}

/// What a queue that is bound now has.
fn late(peer: &mut Peer, exchange: &str) -> Vec<String> {
    let queue = peer.server_named(1);
    peer.bind(1, &queue, exchange, "any key");
    peer.drain(1, &queue)
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|i| i.to_string()).collect()
}

fn publish(peer: &mut Peer, exchange: &str, range: std::ops::Range<usize>) {
    for body in numbers(range) {
        peer.publish(1, exchange, "k", &body);
    }
}

#[test]
fn a_new_binding_gets_the_last_messages_in_order() {
    let mut peer = broker().peer();
    let exchange = exchange(&mut peer, FieldTable::default());
    publish(&mut peer, &exchange, 0..25);
    assert_eq!(late(&mut peer, &exchange), numbers(5..25));
    // Others have not lost them, and bound queues get what comes as from a fanout exchange.
    let queue = peer.server_named(1);
    peer.bind(1, &queue, &exchange, "");
    publish(&mut peer, &exchange, 25..27);
    assert_eq!(peer.drain(1, &queue), numbers(5..27));
    // A binding that exists gets nothing again, another key does.
    peer.bind(1, &queue, &exchange, "");
    assert_eq!(peer.drain(1, &queue).len(), 0);
    peer.bind(1, &queue, &exchange, "other");
    assert_eq!(peer.drain(1, &queue), numbers(7..27));
}

#[test]
fn messages_come_as_they_were_published() {
    let mut peer = broker().peer();
    let exchange = exchange(&mut peer, table([("x-recent-history-length", FieldValue::I32(1))]));
    let properties = Properties {
        headers: Some(table([("h", text("v")), ("BCC", FieldValue::Array(vec![text("hidden")]))])),
        message_id: Some("id".into()),
        ..persistent()
    };
    let message = Publish { properties, body: b"first", ..Publish::to(&exchange, "key") };
    peer.publish_with(1, &message);
    let queue = peer.server_named(1);
    peer.bind(1, &queue, &exchange, "");
    let got = peer.get(1, &queue, true).expect("the message");
    assert_eq!((got.text().as_str(), &got.exchange, got.routing_key.as_str()), ("first", &exchange, "key"));
    assert!(!got.redelivered);
    let properties = got.properties();
    assert_eq!((properties.message_id.as_deref(), properties.delivery_mode), (Some("id"), Some(2)));
    assert_eq!(properties.headers, Some(table([("h", text("v"))])));
}

#[test]
fn no_store_and_unroutable() {
    let mut peer = broker().peer();
    let exchange = exchange(&mut peer, FieldTable::default());
    let headers = Some(table([("x-recent-history-no-store", FieldValue::Bool(true))]));
    let properties = Properties { headers, ..Properties::default() };
    peer.publish_with(1, &Publish { properties, body: b"secret", ..Publish::to(&exchange, "k") });
    // Kept is not routed: a mandatory message comes back.
    peer.publish_with(1, &Publish { mandatory: true, body: b"kept", ..Publish::to(&exchange, "k") });
    let returned = peer.method(1);
    assert_eq!(peer.message_after(1, &returned).reply, (312, "NO_ROUTE".to_owned()));
    assert_eq!(late(&mut peer, &exchange), ["kept"]);
}

#[test]
fn exchanges_before_and_behind_it() {
    let mut peer = broker().peer();
    let history = exchange(&mut peer, FieldTable::default());
    let (front, behind) = (unique("front"), unique("behind"));
    peer.declare_exchange(1, &Exchange::named(&front, "direct"));
    peer.declare_exchange(1, &Exchange::named(&behind, "topic"));
    peer.bind_exchange(1, &history, &front, "a.b");
    let queue = peer.server_named(1);
    peer.bind(1, &queue, &behind, "a.*");
    peer.publish(1, &front, "a.b", "one");
    peer.publish(1, &front, "x", "nowhere");
    peer.publish(1, &history, "b.b", "two");
    peer.bind_exchange(1, &behind, &history, "");
    assert_eq!(peer.drain(1, &queue), ["one"]);
    assert_eq!(late(&mut peer, &history), ["one", "two"]);
}

#[test]
fn an_exchange_that_goes_takes_its_history_with_it() {
    let mut peer = broker().peer();
    let exchange = unique("history");
    let declared = Exchange { auto_delete: true, ..Exchange::named(&exchange, "x-recent-history") };
    peer.declare_exchange(1, &declared);
    publish(&mut peer, &exchange, 0..3);
    let queue = peer.server_named(1);
    peer.bind(1, &queue, &exchange, "");
    assert_eq!(peer.drain(1, &queue), numbers(0..3));
    peer.unbind(1, &queue, &exchange, "");
    peer.declare_exchange(1, &declared);
    assert_eq!(late(&mut peer, &exchange), [""; 0]);
}

#[test]
fn a_durable_queue_keeps_what_it_was_given_and_the_exchange_forgets() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare_exchange(1, &Exchange { durable: true, ..Exchange::named("h", "x-recent-history") });
    let properties = persistent();
    peer.publish_with(1, &Publish { properties, body: b"kept", ..Publish::to("h", "k") });
    peer.declare(1, &Queue::durable("q"));
    peer.bind(1, "q", "h", "");
    peer.close();
    broker.restart();
    let mut peer = broker.peer();
    assert_eq!(peer.drain(1, "q"), ["kept"]);
    assert_eq!(late(&mut peer, "h"), [""; 0]);
}

#[test]
fn a_queue_without_room_refuses_nobody() {
    let mut peer = broker().peer();
    let exchange = exchange(&mut peer, FieldTable::default());
    peer.select_confirms(1);
    publish(&mut peer, &exchange, 0..3);
    peer.confirmed(1, 3);
    let queue = unique("q");
    let arguments = table([("x-max-length", FieldValue::I32(1)), ("x-overflow", text("reject-publish"))]);
    peer.declare(1, &Queue { arguments, exclusive: true, ..Queue::named(&queue) });
    peer.bind(1, &queue, &exchange, "");
    assert_eq!(peer.drain(1, &queue), numbers(0..1));
}
