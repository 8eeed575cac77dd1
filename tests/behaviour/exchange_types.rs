//! Exchanges that send each message to one of their queues.

use posthouse_testkit::{Exchange, Peer, Properties, Publish, table, text};

use super::{broker, unique};

/// An exchange of that type and four queues bound to it with that key.
fn exchange(peer: &mut Peer, declared: &Exchange<'_>, key: &str) -> Vec<String> {
    peer.declare_exchange(1, declared);
    let queues: Vec<String> = (0..4).map(|_| peer.server_named(1)).collect();
    for queue in &queues {
        peer.bind(1, queue, declared.exchange, key);
    }
    queues
}

/// Publishes one message per key and property; how many each queue got.
fn publish(peer: &mut Peer, exchange: &str, messages: impl Iterator<Item = (String, Properties)>) {
    for (key, properties) in messages {
        peer.publish_with(1, &Publish { properties, ..Publish::to(exchange, &key) });
    }
}

fn counts(peer: &mut Peer, queues: &[String]) -> Vec<usize> {
    queues.iter().map(|queue| peer.drain(1, queue).len()).collect()
}

fn plain(key: impl Into<String>) -> (String, Properties) {
    (key.into(), Properties::default())
}

#[test]
fn consistent_hash_keeps_a_key_at_one_queue() {
    let mut peer = broker().peer();
    let name = unique("hash");
    let queues = exchange(&mut peer, &Exchange::named(&name, "x-consistent-hash"), "10");
    for i in 0..20 {
        publish(&mut peer, &name, (0..5).map(|_| plain(format!("key {i}"))));
        let mut got = counts(&mut peer, &queues);
        got.sort_unstable();
        assert_eq!(got, [0, 0, 0, 5]);
    }
    publish(&mut peer, &name, (0..400).map(|i| plain(format!("key {i}"))));
    let got = counts(&mut peer, &queues);
    assert!(got.iter().all(|count| (60..140).contains(count)), "{got:?}");
}

#[test]
fn consistent_hash_of_a_property_is_taken_for_every_message() {
    let mut peer = broker().peer();
    let name = unique("hash");
    let arguments = table([("hash-property", text("message_id"))]);
    let declared = Exchange { arguments, ..Exchange::named(&name, "x-consistent-hash") };
    let queues = exchange(&mut peer, &declared, "1");
    let with_id = |id: String| Properties { message_id: Some(id), ..Properties::default() };
    publish(&mut peer, &name, (0..400).map(|i| ("k".to_owned(), with_id(format!("id {i}")))));
    let got = counts(&mut peer, &queues);
    assert!(got.iter().all(|count| (60..140).contains(count)), "{got:?}");
    publish(&mut peer, &name, (0..20).map(|i| (format!("key {i}"), with_id("same".to_owned()))));
    let mut got = counts(&mut peer, &queues);
    got.sort_unstable();
    assert_eq!(got, [0, 0, 0, 20]);
}

#[test]
fn chance_is_taken_for_every_message() {
    for (exchange_type, key) in [("x-random", "any"), ("x-local-random", "")] {
        let mut peer = broker().peer();
        let name = unique("random");
        let queues = exchange(&mut peer, &Exchange::named(&name, exchange_type), key);
        publish(&mut peer, &name, (0..400).map(|_| plain("k")));
        let got = counts(&mut peer, &queues);
        assert_eq!(got.iter().sum::<usize>(), 400);
        assert!(got.iter().all(|count| (60..140).contains(count)), "{exchange_type}: {got:?}");
    }
}

#[test]
fn chance_behind_another_exchange_is_taken_for_every_message() {
    let mut peer = broker().peer();
    let (front, name) = (unique("front"), unique("random"));
    let queues = exchange(&mut peer, &Exchange::named(&name, "x-random"), "");
    peer.declare_exchange(1, &Exchange::named(&front, "direct"));
    peer.bind_exchange(1, &name, &front, "k");
    publish(&mut peer, &front, (0..400).map(|_| plain("k")));
    let got = counts(&mut peer, &queues);
    assert!(got.iter().all(|count| (60..140).contains(count)), "{got:?}");
}

#[test]
fn modulus_hash_keeps_a_key_at_one_queue() {
    let mut peer = broker().peer();
    let name = unique("modulus");
    let queues = exchange(&mut peer, &Exchange::named(&name, "x-modulus-hash"), "whatever");
    publish(&mut peer, &name, (0..20).map(|_| plain("k")));
    let mut got = counts(&mut peer, &queues);
    got.sort_unstable();
    assert_eq!(got, [0, 0, 0, 20]);
    publish(&mut peer, &name, (0..400).map(|i| plain(format!("key {i}"))));
    let got = counts(&mut peer, &queues);
    assert!(got.iter().all(|count| (60..140).contains(count)), "{got:?}");
}
