//! Messages that are delivered later: `x-delay` and `x-deliver-at`, through any exchange.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use posthouse_testkit::{
    Broker, Consume, Exchange, FieldValue, Method, Options, Peer, Properties, Publish, Queue, expect_method,
    table, text,
};

use super::{broker, unique};

/// Longer than any test takes.
const FAR: FieldValue = FieldValue::I32(600_000);

fn with(header: &str, value: FieldValue) -> Properties {
    Properties { headers: Some(table([(header, value)])), ..Properties::default() }
}

pub(super) fn delayed(ms: i32) -> Properties {
    with("x-delay", FieldValue::I32(ms))
}

pub(super) fn publish(peer: &mut Peer, exchange: &str, key: &str, properties: Properties, body: &str) {
    let publish = Publish { properties, body: body.as_bytes(), ..Publish::to(exchange, key) };
    peer.publish_with(1, &publish);
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

#[test]
fn messages_come_in_the_order_of_their_times_and_not_before() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    peer.open_channel(2);
    peer.consume(2, &Consume::no_ack(&queue));
    let start = Instant::now();
    let delays = [500, 100, 300, 200, 100, 400, 0, -5];
    for (number, delay) in delays.into_iter().enumerate() {
        publish(&mut peer, "", &queue, delayed(delay), &format!("{number}"));
    }
    for expected in [6, 7, 1, 4, 3, 2, 5, 0] {
        let message = peer.message(2);
        assert_eq!(message.text(), expected.to_string());
        let (delay, waited) = (delays[expected], start.elapsed());
        // Times are whole milliseconds.
        assert!(waited >= Duration::from_millis((delay - 1).max(0) as u64), "{delay}: {waited:?}");
        // What waited says so, and would not wait again.
        assert_eq!(message.properties(), delayed(if delay > 0 { -delay } else { delay }));
        assert_eq!((message.exchange.as_str(), &message.routing_key), ("", &queue));
        assert!(!message.redelivered);
    }
}

#[test]
fn a_message_may_have_an_absolute_time() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    let at = now_ms() + 250;
    publish(&mut peer, "", &queue, with("x-deliver-at", FieldValue::I64(at)), "then");
    publish(&mut peer, "", &queue, with("x-deliver-at", FieldValue::I64(at - 10_000)), "past");
    publish(
        &mut peer,
        "",
        &queue,
        with("x-deliver-at", FieldValue::Timestamp(at as u64 / 1000 + 3_600)),
        "far",
    );
    peer.consume(1, &Consume::no_ack(&queue));
    assert_eq!(peer.message(1).text(), "past");
    let then = peer.message(1);
    assert_eq!(then.text(), "then");
    assert!(now_ms() >= at);
    assert_eq!(then.properties(), with("x-deliver-at", FieldValue::I64(at)));
    peer.expect_quiet(1);
}

#[test]
fn it_is_routed_when_it_is_due() {
    let mut peer = broker().peer();
    let (exchange, gone) = (unique("x"), unique("x"));
    for name in [&exchange, &gone] {
        peer.declare_exchange(1, &Exchange::named(name, "topic"));
    }
    let (before, after) = (peer.server_named(1), peer.server_named(1));
    peer.bind(1, &before, &exchange, "a.*");
    peer.bind(1, &after, &gone, "#");
    publish(&mut peer, &gone, "a.b", delayed(200), "nowhere");
    publish(&mut peer, &exchange, "a.b", delayed(300), "rerouted");
    let mut headers =
        table([("x-delay", FieldValue::I32(300)), ("BCC", FieldValue::Array(vec![text("bcc")]))]);
    headers.0.push(("CC".to_owned(), FieldValue::Array(vec![text("cc")])));
    let copied = Properties { headers: Some(headers), ..Properties::default() };
    publish(&mut peer, &exchange, "none", copied, "copied");
    peer.unbind(1, &before, &exchange, "a.*");
    for key in ["a.*", "cc", "bcc"] {
        peer.bind(1, &after, &exchange, key);
    }
    let deleted = peer.call(1, &Method::ExchangeDelete { exchange: &gone, if_unused: false, nowait: false });
    assert!(matches!(deleted.get(), Method::ExchangeDeleteOk {}));
    peer.consume(1, &Consume::no_ack(&after));
    let message = peer.message(1);
    assert_eq!((message.text().as_str(), message.routing_key.as_str()), ("rerouted", "a.b"));
    let copied = peer.message(1);
    assert_eq!(copied.text(), "copied");
    // Nobody sees the other one.
    let names: Vec<_> = copied.properties().headers.unwrap().0.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["x-delay", "CC"]);
    assert!(peer.get(1, &before, true).is_none());
    peer.expect_quiet(1);
}

#[test]
fn a_delayed_message_exchange_routes_as_it_is_told() {
    let mut peer = broker().peer();
    for (kind, key, other) in [("direct", "a.b", "a.c"), ("topic", "a.*", "b.b"), ("fanout", "", "")] {
        let exchange = unique("delayed");
        let arguments = table([("x-delayed-type", text(kind))]);
        peer.declare_exchange(1, &Exchange { arguments, ..Exchange::named(&exchange, "x-delayed-message") });
        let queue = peer.server_named(1);
        peer.bind(1, &queue, &exchange, key);
        publish(&mut peer, &exchange, "a.b", delayed(150), "second");
        publish(&mut peer, &exchange, "a.b", delayed(50), "first");
        // Without a route now or then, and without a way back.
        if !other.is_empty() {
            let nowhere =
                Publish { mandatory: true, properties: delayed(10), ..Publish::to(&exchange, other) };
            peer.publish_with(1, &nowhere);
        }
        publish(&mut peer, &exchange, "a.b", Properties::default(), "at once");
        let tag = peer.consume(1, &Consume::no_ack(&queue));
        assert_eq!(peer.messages(1, 3), ["at once", "first", "second"], "{kind}");
        peer.cancel(1, &tag);
    }
}

#[test]
fn a_delayed_message_exchange_must_know_how_to_route() {
    let mut peer = broker().peer();
    let exchange = unique("delayed");
    for (arguments, reply) in [
        (table([]), "Invalid argument, 'x-delayed-type' must be an existing exchange type"),
        (table([("x-delayed-type", text("nosuch"))]), "unknown exchange type 'nosuch'"),
        (
            table([("x-delayed-type", text("x-delayed-message"))]),
            "Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'",
        ),
    ] {
        let declare = Exchange { arguments, ..Exchange::named(&exchange, "x-delayed-message") };
        peer.refused(1, &declare.method(), 406, &format!("PRECONDITION_FAILED - {reply}"));
    }
    let declare = |kind| {
        let arguments = table([("x-delayed-type", text(kind))]);
        Exchange { arguments, ..Exchange::named(&exchange, "x-delayed-message") }
    };
    peer.declare_exchange(1, &declare("topic"));
    peer.declare_exchange(1, &declare("topic"));
    let reply = format!(
        "PRECONDITION_FAILED - inequivalent arg 'x-delayed-type' for exchange '{exchange}' in vhost '/': received \
         'direct' but current is 'topic'"
    );
    peer.refused(1, &declare("direct").method(), 406, &reply);
}

#[test]
fn a_delayed_message_exchange_is_exported_and_imported() {
    let source = Broker::start(Options::log());
    let mut peer = source.peer();
    let arguments = table([("x-delayed-type", text("topic"))]);
    let exchange = Exchange { durable: true, arguments, ..Exchange::named("later", "x-delayed-message") };
    peer.declare_exchange(1, &exchange);
    peer.declare(1, &Queue::durable("q"));
    peer.bind(1, "q", "later", "a.#");
    let document = source.ctl(&["export_definitions", "-"]);
    let file = source.data_dir().join("definitions.json");
    std::fs::write(&file, &document).unwrap();
    let target = Broker::start(Options::log());
    target.ctl(&["import_definitions", file.to_str().unwrap()]);
    let mut peer = target.peer();
    peer.declare_exchange(1, &exchange);
    publish(&mut peer, "later", "a.b", delayed(30), "there");
    peer.consume(1, &Consume::no_ack("q"));
    assert_eq!(peer.message(1).text(), "there");
}

#[test]
fn a_deleted_queues_messages_go_nowhere() {
    let mut peer = broker().peer();
    let (queue, other) = (peer.server_named(1), peer.server_named(1));
    publish(&mut peer, "", &queue, delayed(100), "gone");
    publish(&mut peer, "", &other, delayed(150), "there");
    peer.delete(1, &queue);
    peer.consume(1, &Consume::no_ack(&other));
    assert_eq!(peer.message(1).text(), "there");
}

#[test]
fn mandatory_is_about_the_time_of_publishing() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    let nowhere = unique("none");
    let publish =
        Publish { mandatory: true, properties: delayed(50), body: b"b", ..Publish::to("", &nowhere) };
    peer.publish_with(1, &publish);
    let returned = peer.message(1);
    assert_eq!((returned.reply.0, returned.properties()), (312, delayed(50)));
    peer.publish_with(1, &Publish { routing_key: &queue, ..publish });
    peer.consume(1, &Consume::no_ack(&queue));
    assert_eq!(peer.message(1).text(), "b");
}

#[test]
fn a_time_to_live_begins_when_the_message_enters_its_queue() {
    let mut peer = broker().peer();
    let queue = unique("ttl");
    let arguments = table([
        ("x-message-ttl", FieldValue::I32(150)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(&format!("{queue}-dead"))),
    ]);
    peer.declare(1, &Queue { arguments, ..Queue::named(&queue) });
    let dead = format!("{queue}-dead");
    peer.declare(1, &Queue::named(&dead));
    let start = Instant::now();
    let properties = Properties { expiration: Some("100".to_owned()), ..delayed(300) };
    publish(&mut peer, "", &queue, properties, "late");
    peer.consume(1, &Consume::no_ack(&dead));
    let message = peer.message(1);
    // Times are whole milliseconds.
    assert!(start.elapsed() >= Duration::from_millis(398), "{:?}", start.elapsed());
    let deaths = message.properties().headers.unwrap();
    assert_eq!(deaths.get("x-first-death-reason"), Some(&text("expired")));
}

/// A deduplication exchange compares a message when it is due: what is cancelled before, or goes nowhere then, was not seen.
#[test]
fn what_waits_is_compared_when_it_is_due() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let arguments = table([("x-cache-size", FieldValue::I32(9))]);
    peer.declare_exchange(1, &Exchange { arguments, ..Exchange::named("once", "x-message-deduplication") });
    peer.declare(1, &Queue::named("q"));
    let of_value = |id: &str, delay: i32| {
        let value = ("x-deduplication-header", text(id));
        let delay = ("x-delay", FieldValue::I32(delay));
        let message_id = Some(id.to_owned());
        Properties { headers: Some(table([value, delay])), message_id, ..Properties::default() }
    };
    publish(&mut peer, "once", "", of_value("nowhere", 10), "goes nowhere");
    let until = Instant::now() + Duration::from_secs(10);
    while !broker.ctl(&["list_vhosts", "messages_scheduled", "--quiet"]).starts_with('0') {
        assert!(Instant::now() < until, "it waits for ever");
    }
    // One that nothing is bound for yet is not too early to be a duplicate.
    for body in ["one of two", "one of two"] {
        publish(&mut peer, "once", "", of_value("twice", 900), body);
    }
    peer.bind(1, "q", "once", "");
    peer.select_confirms(1);
    publish(&mut peer, "once", "", of_value("cancelled", 600_000), "cancelled");
    publish(&mut peer, "once", "", of_value("overtaken", 2_000), "too late");
    peer.confirmed(1, 2);
    let cancel = ["cancel_scheduled", "--filter", "message_id=cancelled", "--formatter", "json"];
    assert_eq!(broker.ctl(&cancel).trim(), r#"{"messages":1}"#);
    for value in ["nowhere", "cancelled", "overtaken"] {
        publish(&mut peer, "once", "", of_value(value, 0), value);
    }
    publish(&mut peer, "", "q", delayed(2_200), "last");
    peer.open_channel(2);
    peer.consume(2, &Consume::no_ack("q"));
    let mut all = peer.messages(2, 5);
    all[..4].sort();
    assert_eq!(all, ["cancelled", "nowhere", "one of two", "overtaken", "last"]);
    peer.expect_quiet(2);
}

#[test]
fn what_cannot_be_is_refused() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    let publish = Publish { properties: with("x-delay", text("soon")), ..Publish::to("", &queue) };
    let mut out = Vec::new();
    publish.write(1, peer.frame_max, &mut out);
    peer.send_bytes(&out);
    let text = "PRECONDITION_FAILED - invalid message: expected header 'x-delay' to be a number of milliseconds, \
                got 'soon'";
    peer.expect_channel_close(1, 406, text, (60, 40));
}

#[test]
fn a_transaction_schedules_when_it_is_committed() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    peer.open_channel(2);
    peer.call(2, &Method::TxSelect {});
    let message = Publish { properties: delayed(30), body: b"tx", ..Publish::to("", &queue) };
    peer.publish_with(2, &message);
    peer.call(2, &Method::TxRollback {});
    peer.publish_with(2, &Publish { body: b"kept", ..message });
    peer.call(2, &Method::TxCommit {});
    peer.consume(1, &Consume::no_ack(&queue));
    assert_eq!(peer.message(1).text(), "kept");
    peer.expect_quiet(1);
}

#[test]
fn nobody_sees_where_they_wait() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    broker.ctl(&["set_vhost_limits", r#"{"max-queues":2}"#]);
    broker.ctl(&[
        "set_policy",
        "all",
        ".*",
        r#"{"max-length":0,"message-ttl":1}"#,
        "--apply-to",
        "exchanges",
    ]);
    peer.declare(1, &Queue::named("a"));
    publish(&mut peer, "", "a", with("x-delay", FAR), "waits");
    publish(&mut peer, "", "b", delayed(50), "comes");
    // The limit does not count it, and the policy means others.
    peer.declare(1, &Queue::named("b"));
    peer.await_counts(1, "b", (1, 0));
    assert_eq!(broker.ctl(&["list_queues", "name", "messages", "--quiet"]).lines().count(), 2);
    let refused = peer.call(1, &Queue::passive("amq.posthouse.schedule").method());
    assert!(matches!(refused.get(), Method::ChannelClose { reply_code: 404, .. }));
    assert!(!broker.ctl(&["export_definitions", "-"]).contains("posthouse.schedule"));
}

#[test]
fn an_operator_lists_and_cancels_what_waits() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare_exchange(1, &Exchange::named("x", "fanout"));
    peer.declare(1, &Queue::named("q"));
    peer.bind(1, "q", "x", "");
    for (minutes, key, id) in [(50, "b", "2"), (10, "a", "1"), (70_000, "c", "3")] {
        let delay = with("x-delay", FieldValue::I64(minutes * 60_000));
        let properties = Properties { message_id: Some(id.to_owned()), delivery_mode: Some(2), ..delay };
        publish(&mut peer, "x", key, properties, "0123456789");
    }
    publish(&mut peer, "", "q", delayed(400), "comes");
    peer.select_confirms(1);
    publish(&mut peer, "", "q", Properties::default(), "first");
    peer.confirmed(1, 1);
    let listed = |more: &[&str]| -> Vec<Vec<String>> {
        let columns =
            ["routing_key", "id", "due_at", "exchange", "payload_bytes", "persistent", "properties"];
        let mut words = vec!["list_scheduled", "--quiet"];
        words.extend(columns.into_iter().chain(more.iter().copied()));
        let text = broker.ctl(&words);
        text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
    };
    let keys = |rows: Vec<Vec<String>>| rows.into_iter().map(|row| row[0].clone()).collect::<Vec<_>>();
    assert_eq!(keys(listed(&["--count", "3", "--filter", "exchange=x"])), ["a", "b", "c"]);
    assert_eq!(keys(listed(&["--count", "2", "--filter", "exchange=x"])), ["a", "b"]);
    assert_eq!(keys(listed(&["--filter", "message_id=3"])), ["c"]);
    let one = listed(&["--filter", "routing_key=a"]).remove(0);
    assert_eq!(one[3..6], ["x", "10", "true"]);
    assert!(one[6].contains("{x-delay,600000}"), "{}", one[6]);
    let due: i64 = one[2].parse().unwrap();
    assert!((now_ms()..=now_ms() + 600_000).contains(&due), "{due}");
    assert!(broker.ctl(&["list_vhosts", "messages_scheduled", "--quiet"]).starts_with('4'));
    assert_eq!(listed(&["--due-at", &one[2]]), std::slice::from_ref(&one));
    assert!(listed(&["--due-at", &(due + 1).to_string()]).is_empty());
    let id = &one[1];
    let unknown = format!("no scheduled message with id {id} in vhost '/'");
    let (other, none) = ((due + 1).to_string(), "0000000000000001");
    for (words, text) in [
        (
            &["cancel_scheduled", "--id", none][..],
            "no scheduled message with id 0000000000000001 in vhost '/'",
        ),
        (&["cancel_scheduled", "--id", id, "--due-at", &other], &unknown),
    ] {
        let refused = broker.ctl_refused(words);
        assert!(refused.contains(text), "{refused}");
    }
    let cancel = |which: [&str; 2]| {
        let [option, value] = which;
        broker.ctl(&["cancel_scheduled", option, value, "--formatter", "json"]).trim().to_owned()
    };
    let words = ["cancel_scheduled", "--id", id, "--due-at", &one[2], "--formatter", "json"];
    assert_eq!(broker.ctl(&words).trim(), r#"{"messages":1}"#);
    let refused = broker.ctl_refused(&["cancel_scheduled", "--id", id]);
    assert!(refused.contains(&unknown), "{refused}");
    let id = listed(&["--filter", "routing_key=b"]).remove(0).remove(1);
    assert_eq!(cancel(["--id", &id]), r#"{"messages":1}"#);
    assert_eq!(cancel(["--filter", "exchange=x"]), r#"{"messages":1}"#);
    assert_eq!(cancel(["--filter", "exchange=x"]), r#"{"messages":0}"#);
    for (words, text) in [
        (&["cancel_scheduled"][..], "expected an id or a filter, got neither"),
        (&["cancel_scheduled", "--id", "one"], "id: expected hexadecimal digits, got \"one\""),
        (&["list_scheduled", "--count", "0"], "count: expected 1 to 10000, got 0"),
        (&["list_scheduled", "-p", "none"], "none"),
    ] {
        let refused = broker.ctl_refused(words);
        assert!(refused.contains(text), "{refused}");
    }
    peer.open_channel(2);
    peer.consume(2, &Consume::no_ack("q"));
    assert_eq!(peer.messages(2, 2), ["first", "comes"]);
    assert!(listed(&[]).is_empty());
}

#[test]
fn a_deleted_virtual_host_takes_what_waits_with_it() {
    let mut broker = Broker::start(Options::log());
    for _ in 0..2 {
        broker.ctl(&["add_vhost", "v"]);
        broker.ctl(&["set_permissions", "-p", "v", "guest", ".*", ".*", ".*"]);
        let handshake = posthouse_testkit::Handshake { vhost: "v".to_owned(), ..Default::default() };
        let mut peer = broker.peer_with(&handshake);
        peer.declare(1, &Queue::durable("q"));
        peer.select_confirms(1);
        publish(&mut peer, "", "q", Properties { delivery_mode: Some(2), ..delayed(100) }, "waits");
        peer.confirmed(1, 1);
        broker.ctl(&["delete_vhost", "v"]);
    }
    broker.stop();
    broker.check();
    broker.start_again();
    let mut peer = broker.peer();
    peer.declare(1, &Queue::named("q"));
    publish(&mut peer, "", "q", delayed(200), "other");
    peer.consume(1, &Consume::no_ack("q"));
    assert_eq!(peer.message(1).text(), "other");
    peer.expect_quiet(1);
}

#[test]
fn a_confirm_comes_at_once() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    peer.select_confirms(1);
    publish(&mut peer, "", &queue, with("x-delay", FAR), "waits");
    expect_method!(peer, 1, Method::BasicAck { delivery_tag: 1, .. });
    assert_eq!(peer.counts(1, &queue).0, 0);
}
