//! Which queues a message reaches, by type of exchange.

use posthouse_testkit::{
    Exchange, FieldTable, FieldValue, Method, Peer, Properties, Publish, expect_method, table, text,
};

use super::{broker, unique};

/// Queues of channel 1, one for each binding of `exchange`.
fn bound(peer: &mut Peer, exchange: &str, bindings: &[(&str, FieldTable)]) -> Vec<String> {
    let mut queues = Vec::new();
    for (key, arguments) in bindings {
        let queue = peer.server_named(1);
        peer.bind_with(1, &queue, exchange, key, arguments.clone());
        queues.push(queue);
    }
    queues
}

/// Which of the queues have a message; they are emptied.
fn reached(peer: &mut Peer, queues: &[String]) -> Vec<usize> {
    let messages: Vec<usize> = queues.iter().map(|queue| peer.drain(1, queue).len()).collect();
    assert!(messages.iter().all(|&count| count <= 1), "expected each message once, got {messages:?}");
    (0..queues.len()).filter(|&i| messages[i] == 1).collect()
}

fn keys<const N: usize>(keys: [&str; N]) -> [(&str, FieldTable); N] {
    keys.map(|key| (key, FieldTable::default()))
}

/// An exchange for one test.
fn exchange(peer: &mut Peer, exchange_type: &str) -> String {
    let name = unique(exchange_type);
    peer.declare_exchange(1, &Exchange { auto_delete: true, ..Exchange::named(&name, exchange_type) });
    name
}

#[test]
fn direct_by_the_exact_key() {
    let mut peer = broker().peer();
    let exchange = exchange(&mut peer, "direct");
    let queues = bound(&mut peer, &exchange, &keys(["a", "b", "a", "", "a.b", "*", "#"]));
    for (key, expected) in [
        ("a", vec![0, 2]),
        ("b", vec![1]),
        ("", vec![3]),
        ("a.b", vec![4]),
        ("c", vec![]),
        ("A", vec![]),
        ("#", vec![6]),
    ] {
        peer.publish(1, &exchange, key, "x");
        assert_eq!(reached(&mut peer, &queues), expected, "{key:?}");
    }
}

#[test]
fn fanout_whatever_the_key() {
    let mut peer = broker().peer();
    let exchange = exchange(&mut peer, "fanout");
    let queues = bound(&mut peer, &exchange, &keys(["", "a", "b"]));
    for key in ["", "a", "anything"] {
        peer.publish(1, &exchange, key, "x");
        assert_eq!(reached(&mut peer, &queues), [0, 1, 2], "{key:?}");
    }
}

#[test]
fn topic_by_words() {
    let mut peer = broker().peer();
    let exchange = exchange(&mut peer, "topic");
    let queues = bound(
        &mut peer,
        &exchange,
        &keys(["#", "*", "*.*", "a.#", "#.b", "a.*.b", "#.m.#", "a.b", "*.#", ""]),
    );
    for (key, expected) in [
        ("", vec![0, 1, 8, 9]),
        ("a", vec![0, 1, 3, 8]),
        ("b", vec![0, 1, 4, 8]),
        ("a.b", vec![0, 2, 3, 4, 7, 8]),
        ("a.x.b", vec![0, 3, 4, 5, 8]),
        ("a..b", vec![0, 3, 4, 5, 8]),
        ("m", vec![0, 1, 6, 8]),
        ("x.m.y.z", vec![0, 6, 8]),
        ("a.m", vec![0, 2, 3, 6, 8]),
        ("ab", vec![0, 1, 8]),
        ("A.b", vec![0, 2, 4, 8]),
    ] {
        peer.publish(1, &exchange, key, "x");
        // An empty key has one empty word, or none: RabbitMQ takes it for none, which `*` does not match.
        let expected = if key.is_empty() { vec![0, 9] } else { expected };
        assert_eq!(reached(&mut peer, &queues), expected, "{key:?}");
    }
}

#[test]
fn headers_by_values_and_types() {
    let mut peer = broker().peer();
    let exchange = exchange(&mut peer, "headers");
    let int = FieldValue::I32;
    let bindings = [
        table([("a", text("1")), ("b", text("2"))]),
        table([("x-match", text("all")), ("a", text("1")), ("b", text("2"))]),
        table([("x-match", text("any")), ("a", text("1")), ("b", text("2"))]),
        table([("x-match", text("any")), ("a", int(1))]),
        // Nothing as a value asks for presence only.
        table([("x-match", text("all")), ("a", FieldValue::Void)]),
        table([("x-match", text("all"))]),
        table([("x-match", text("any"))]),
        table([("x-match", text("all-with-x")), ("x-tag", text("t"))]),
        table([("x-match", text("any-with-x")), ("x-tag", text("t")), ("a", text("1"))]),
        table([("x-match", text("all")), ("x-tag", text("t")), ("a", text("1"))]),
    ];
    let bindings = bindings.map(|arguments| ("", arguments));
    let queues = bound(&mut peer, &exchange, &bindings);
    let rows: [(Option<FieldTable>, Vec<usize>); 7] = [
        (Some(table([("a", text("1")), ("b", text("2")), ("c", text("3"))])), vec![0, 1, 2, 4, 5, 8, 9]),
        (Some(table([("a", text("1"))])), vec![2, 4, 5, 8, 9]),
        (Some(table([("a", int(1))])), vec![3, 4, 5]),
        (Some(table([("a", text("other")), ("b", text("2"))])), vec![2, 4, 5]),
        (Some(table([("x-tag", text("t"))])), vec![5, 7, 8]),
        (Some(FieldTable::default()), vec![5]),
        (None, vec![5]),
    ];
    for (headers, expected) in rows {
        let properties = Properties { headers: headers.clone(), ..Properties::default() };
        peer.publish_with(1, &Publish { properties, ..Publish::to(&exchange, "ignored") });
        assert_eq!(reached(&mut peer, &queues), expected, "{headers:?}");
    }
}

#[test]
fn the_default_exchange_knows_every_queue_by_name() {
    let mut peer = broker().peer();
    let queues = [peer.server_named(1), peer.server_named(1)];
    peer.publish(1, "", &queues[1], "x");
    assert_eq!(reached(&mut peer, &queues), [1]);
}

#[test]
fn several_bindings_are_one_way() {
    let mut peer = broker().peer();
    let exchange = exchange(&mut peer, "topic");
    let queue = peer.server_named(1);
    for key in ["#", "a.*", "a.b", "a.b"] {
        peer.bind(1, &queue, &exchange, key);
    }
    peer.publish(1, &exchange, "a.b", "once");
    assert_eq!(peer.drain(1, &queue), ["once"]);
}

#[test]
fn through_exchanges_bound_to_exchanges() {
    let mut peer = broker().peer();
    let (first, second) = (exchange(&mut peer, "topic"), exchange(&mut peer, "fanout"));
    let queues = bound(&mut peer, &second, &keys([""]));
    peer.bind_exchange(1, &second, &first, "deep.#");
    peer.publish(1, &first, "deep.down", "x");
    assert_eq!(reached(&mut peer, &queues), [0]);
    peer.publish(1, &first, "shallow", "x");
    assert_eq!(reached(&mut peer, &queues), [0; 0]);
    // Another way to the same queue, and a way round in circles: once all the same.
    peer.bind(1, &queues[0], &first, "deep.#");
    peer.bind_exchange(1, &first, &second, "#");
    peer.publish(1, &first, "deep.down", "x");
    assert_eq!(reached(&mut peer, &queues), [0]);
    let unbind = Method::ExchangeUnbind {
        destination: &second,
        source: &first,
        routing_key: "deep.#",
        nowait: false,
        arguments: FieldTable::default(),
    };
    peer.send(1, &unbind);
    expect_method!(peer, 1, Method::ExchangeUnbindOk {});
    peer.unbind(1, &queues[0], &first, "deep.#");
}

#[test]
fn to_the_alternate_exchange_what_goes_nowhere_else() {
    let mut peer = broker().peer();
    let (last, middle) = (exchange(&mut peer, "fanout"), unique("middle"));
    let alternate = |name: &str| table([("alternate-exchange", text(name))]);
    peer.declare_exchange(
        1,
        &Exchange { auto_delete: true, arguments: alternate(&last), ..Exchange::named(&middle, "direct") },
    );
    let front = unique("front");
    peer.declare_exchange(
        1,
        &Exchange { auto_delete: true, arguments: alternate(&middle), ..Exchange::named(&front, "direct") },
    );
    let mut queues = bound(&mut peer, &front, &keys(["front"]));
    queues.extend(bound(&mut peer, &middle, &keys(["middle"])));
    queues.extend(bound(&mut peer, &last, &keys([""])));
    for (key, expected) in [("front", 0), ("middle", 1), ("elsewhere", 2)] {
        peer.publish(1, &front, key, "x");
        assert_eq!(reached(&mut peer, &queues), [expected], "{key}");
    }
    // What an alternate takes is not unroutable.
    peer.publish_with(1, &Publish { mandatory: true, ..Publish::to(&front, "elsewhere") });
    peer.expect_quiet(1);
    assert_eq!(reached(&mut peer, &queues), [2]);
}

#[test]
fn alternates_in_circles_end() {
    let mut peer = broker().peer();
    let (one, two) = (unique("one"), unique("two"));
    for (name, other) in [(&one, &two), (&two, &one)] {
        let arguments = table([("alternate-exchange", text(other))]);
        peer.declare_exchange(1, &Exchange { arguments, ..Exchange::named(name, "direct") });
    }
    peer.publish_with(1, &Publish { mandatory: true, body: b"back", ..Publish::to(&one, "k") });
    assert_eq!(peer.message(1).reply.0, 312);
    for exchange in [&one, &two] {
        peer.send(1, &Method::ExchangeDelete { exchange, if_unused: false, nowait: false });
        expect_method!(peer, 1, Method::ExchangeDeleteOk {});
    }
}

#[test]
fn bindings_count_from_the_next_message_on() {
    let mut peer = broker().peer();
    let exchange = exchange(&mut peer, "direct");
    let queues = bound(&mut peer, &exchange, &keys(["other"]));
    let mut expected = 0;
    for _ in 0..20 {
        peer.publish(1, &exchange, "k", "before");
        peer.bind(1, &queues[0], &exchange, "k");
        peer.publish(1, &exchange, "k", "while");
        expected += 1;
        peer.unbind(1, &queues[0], &exchange, "k");
        peer.publish(1, &exchange, "k", "after");
    }
    assert_eq!(peer.drain(1, &queues[0]), vec!["while"; expected]);
}
