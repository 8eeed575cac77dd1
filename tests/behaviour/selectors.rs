//! The exchange type `x-jms-topic`, and selectors as filters of an operator's commands.

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{
    Broker, Exchange, FieldTable, FieldValue, Method, Options, Peer, Properties, Publish, Queue, table, text,
};

use super::{broker, unique};

fn publish(peer: &mut Peer, exchange: &str, headers: FieldTable, body: &str) {
    let properties = Properties { headers: Some(headers), ..persistent() };
    peer.publish_with(1, &Publish { properties, body: body.as_bytes(), ..Publish::to(exchange, "any key") });
}

fn selector(text: &str) -> FieldTable {
    table([("rjms_selector", FieldValue::string(text))])
}

#[test]
fn every_binding_asks_for_itself_and_survives_a_restart() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare_exchange(1, &Exchange { durable: true, ..Exchange::named("jms", "x-jms-topic") });
    for queue in ["a", "b"] {
        peer.declare(1, &Queue::durable(queue));
    }
    peer.bind_with(1, "a", "jms", "k", selector("tenant = 'acme' AND retries > 2"));
    // The same key and queue, another selector: either of them will do.
    peer.bind_with(1, "a", "jms", "k", selector("properties.priority = 9"));
    let compiled = table([("rjms_erlang_selector", text("{'is_null',{'ident',<<\"tenant\">>}}."))]);
    peer.bind_with(1, "b", "jms", "", compiled);
    for _ in 0..2 {
        let retries = |count| table([("tenant", text("acme")), ("retries", FieldValue::I32(count))]);
        publish(&mut peer, "jms", retries(3), "many");
        publish(&mut peer, "jms", retries(2), "few");
        publish(&mut peer, "jms", FieldTable::default(), "plain");
        let properties = Properties { priority: Some(9), ..persistent() };
        peer.publish_with(1, &Publish { properties, body: b"high", ..Publish::to("jms", "") });
        assert_eq!(peer.drain(1, "a"), ["many", "high"]);
        assert_eq!(peer.drain(1, "b"), ["plain", "high"]);
        broker.restart();
        peer = broker.peer();
    }
    let arguments = selector("properties.priority = 9");
    let unbind = Method::QueueUnbind { queue: "a", exchange: "jms", routing_key: "k", arguments };
    peer.call(1, &unbind);
    publish(&mut peer, "jms", table([("tenant", text("acme")), ("retries", FieldValue::F64(2.5))]), "left");
    assert_eq!(peer.drain(1, "a"), ["left"]);
}

#[test]
fn what_is_no_selector_is_refused() {
    let mut peer = broker().peer();
    let (queue, exchange) = (unique("q"), unique("jms"));
    peer.declare(1, &Queue::named(&queue));
    peer.declare_exchange(1, &Exchange::named(&exchange, "x-jms-topic"));
    let both = FieldTable([selector("true").0, table([("rjms_erlang_selector", text("true"))]).0].concat());
    for (arguments, complaint) in [
        (FieldTable::default(), "expected the argument rjms_erlang_selector or rjms_selector, got none"),
        (both, "expected rjms_erlang_selector or rjms_selector, got both"),
        (
            table([("rjms_selector", FieldValue::I32(1))]),
            "expected rjms_selector to be a longstr, got signedint",
        ),
        (selector("a ="), "rjms_selector: expected a name, a literal or (, got the end at byte 3"),
        (
            table([("rjms_erlang_selector", text("{'='"))]),
            "rjms_erlang_selector: expected , or }, got the end at byte 4",
        ),
    ] {
        let bind = Method::QueueBind {
            queue: &queue,
            exchange: &exchange,
            routing_key: "",
            nowait: false,
            arguments,
        };
        let complaint = format!("PRECONDITION_FAILED - cannot parse selector: {complaint}");
        peer.refused(1, &bind, 406, &complaint);
    }
    peer.delete(1, &queue);
}

#[test]
fn an_operator_chooses_messages_with_them() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("q"));
    peer.declare(1, &Queue::durable("to"));
    for number in 0..6 {
        let headers = Some(table([("number", FieldValue::I32(number))]));
        let properties = Properties { headers, ..persistent() };
        let body = number.to_string();
        peer.publish_with(1, &Publish { properties, body: body.as_bytes(), ..Publish::to("", "q") });
    }
    peer.await_counts(1, "q", (6, 0));
    let filter = "sql:number BETWEEN 1 AND 2 OR number / 2 = 2";
    assert_eq!(broker.ctl(&["browse_queue", "q", "payload", "--filter", filter]), "1\n2\n4\n");
    broker.ctl(&["move_messages", "q", "to", "--filter", filter]);
    assert_eq!(peer.drain(1, "to"), ["1", "2", "4"]);
    assert_eq!(peer.drain(1, "q"), ["0", "3", "5"]);
    let refused = broker.ctl_refused(&["browse_queue", "q", "--filter", "sql:number >"]);
    assert!(
        refused.contains("filter: sql: expected a name, a literal or (, got the end at byte 8"),
        "{refused}"
    );
}
