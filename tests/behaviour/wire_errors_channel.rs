//! What ends a channel: code, text and the ids of the method at fault, row by row of RabbitMQ's table.

use posthouse_testkit::{
    Consume, Exchange, FieldTable, FieldValue, Handshake, Method, Peer, Properties, Publish, Queue,
    expect_method, table, text,
};

use super::{broker, unique};

/// A method and what it is refused with.
type Row<'a> = (Method<'a>, u16, String);

fn none() -> FieldTable {
    FieldTable::default()
}

fn bind<'a>(queue: &'a str, exchange: &'a str, routing_key: &'a str, arguments: FieldTable) -> Method<'a> {
    Method::QueueBind { queue, exchange, routing_key, nowait: false, arguments }
}

fn unbind<'a>(queue: &'a str, exchange: &'a str) -> Method<'a> {
    Method::QueueUnbind { queue, exchange, routing_key: "", arguments: none() }
}

fn bind_exchange<'a>(destination: &'a str, source: &'a str) -> Method<'a> {
    Method::ExchangeBind { destination, source, routing_key: "", nowait: false, arguments: none() }
}

fn unbind_exchange<'a>(destination: &'a str, source: &'a str) -> Method<'a> {
    Method::ExchangeUnbind { destination, source, routing_key: "", nowait: false, arguments: none() }
}

fn delete_exchange(exchange: &str) -> Method<'_> {
    Method::ExchangeDelete { exchange, if_unused: false, nowait: false }
}

fn passive_exchange(exchange: &str) -> Method<'_> {
    Exchange { passive: true, ..Exchange::named(exchange, "") }.method()
}

/// The channel is closed and opened again for each row.
#[track_caller]
fn check(peer: &mut Peer, rows: Vec<Row<'_>>) {
    for (method, code, text) in rows {
        peer.refused(1, &method, code, &text);
    }
    peer.expect_quiet(1);
}

#[track_caller]
fn check_publishes(peer: &mut Peer, rows: Vec<(Publish<'_>, u16, String)>) {
    for (publish, code, text) in rows {
        peer.publish_with(1, &publish);
        peer.expect_channel_close(1, code, &text, (60, 40));
        peer.open_channel(1);
    }
    peer.expect_quiet(1);
}

#[test]
fn what_does_not_exist() {
    let mut peer = broker().peer();
    let queue = &unique("no-queue");
    let exchange = &unique("no-exchange");
    let there = &peer.server_named(1);
    let no_queue = || format!("NOT_FOUND - no queue '{queue}' in vhost '/'");
    let no_exchange = || format!("NOT_FOUND - no exchange '{exchange}' in vhost '/'");
    let rows = vec![
        (Queue::passive(queue).method(), 404, no_queue()),
        (Method::BasicGet { queue, no_ack: true }, 404, no_queue()),
        (Consume::from(queue).method(), 404, no_queue()),
        (Method::QueuePurge { queue, nowait: false }, 404, no_queue()),
        (bind(queue, "amq.direct", "", none()), 404, no_queue()),
        (passive_exchange(exchange), 404, no_exchange()),
        (bind(there, exchange, "", none()), 404, no_exchange()),
        (bind_exchange(exchange, "amq.direct"), 404, no_exchange()),
        (bind_exchange("amq.direct", exchange), 404, no_exchange()),
    ];
    check(&mut peer, rows);
    check_publishes(&mut peer, vec![(Publish::to(exchange, "k"), 404, no_exchange())]);
}

#[test]
fn an_empty_name_with_nothing_declared() {
    let mut peer = broker().peer();
    let missing = || "NOT_FOUND - no previously declared queue".to_owned();
    let rows = vec![
        (Method::BasicGet { queue: "", no_ack: true }, 404, missing()),
        (Consume::from("").method(), 404, missing()),
        (Method::QueuePurge { queue: "", nowait: false }, 404, missing()),
        (Queue::passive("").method(), 404, missing()),
        (bind("", "amq.direct", "", none()), 404, missing()),
        (unbind("", "amq.direct"), 404, missing()),
        (Method::QueueDelete { queue: "", if_unused: false, if_empty: false, nowait: false }, 404, missing()),
    ];
    check(&mut peer, rows);
}

#[test]
fn names_that_are_the_brokers() {
    let mut peer = broker().peer();
    let name = &unique("amq.foo");
    let reserved = |kind| format!("ACCESS_REFUSED - {kind} name '{name}' contains reserved prefix 'amq.*'");
    let queue = peer.server_named(1);
    let default = || "ACCESS_REFUSED - operation not permitted on the default exchange".to_owned();
    let rows = vec![
        (Queue::named(name).method(), 403, reserved("queue")),
        (Exchange::named(name, "direct").method(), 403, reserved("exchange")),
        (Exchange::named("", "direct").method(), 403, default()),
        (delete_exchange(""), 403, default()),
        (bind(&queue, "", "k", none()), 403, default()),
        (unbind(&queue, ""), 403, default()),
        (bind_exchange("amq.direct", ""), 403, default()),
        (bind_exchange("", "amq.direct"), 403, default()),
        (unbind_exchange("amq.direct", ""), 403, default()),
    ];
    check(&mut peer, rows);
    let system = ["amq.direct", "amq.fanout", "amq.topic", "amq.headers", "amq.match", "amq.rabbitmq.trace"];
    let rows = system.iter().map(|name| {
        let text = format!("ACCESS_REFUSED - deletion of system exchange '{name}' in vhost '/' not allowed");
        (delete_exchange(name), 403, text)
    });
    let rows = rows.collect();
    check(&mut peer, rows);
}

#[test]
fn exchanges_declared_otherwise() {
    let mut peer = broker().peer();
    let exchange = &unique("e");
    let declared = Exchange {
        durable: true,
        arguments: table([("alternate-exchange", text("amq.fanout"))]),
        ..Exchange::named(exchange, "direct")
    };
    peer.declare_exchange(1, &declared);
    let other = |what: &str, received: &str, current: &str| {
        format!(
            "PRECONDITION_FAILED - inequivalent arg '{what}' for exchange '{exchange}' in vhost '/': received \
             {received} but current is {current}"
        )
    };
    let alternate = "alternate-exchange";
    let foo = || table([(alternate, text("foo"))]);
    let rows = vec![
        (
            Exchange { exchange_type: "fanout", ..declared.clone() }.method(),
            406,
            other("type", "'fanout'", "'direct'"),
        ),
        (
            Exchange { durable: false, ..declared.clone() }.method(),
            406,
            other("durable", "'false'", "'true'"),
        ),
        (
            Exchange { auto_delete: true, ..declared.clone() }.method(),
            406,
            other("auto_delete", "'true'", "'false'"),
        ),
        (
            Exchange { internal: true, ..declared.clone() }.method(),
            406,
            other("internal", "'true'", "'false'"),
        ),
        (
            Exchange { arguments: foo(), ..declared.clone() }.method(),
            406,
            other(alternate, "'foo'", "'amq.fanout'"),
        ),
        (
            Exchange { arguments: none(), ..declared.clone() }.method(),
            406,
            other(alternate, "none", "the value 'amq.fanout' of type 'longstr'"),
        ),
    ];
    check(&mut peer, rows);
    peer.declare_exchange(1, &declared);
    peer.send(1, &delete_exchange(exchange));
    expect_method!(peer, 1, Method::ExchangeDeleteOk {});
}

#[test]
fn exchanges_of_unknown_types_and_with_bad_arguments() {
    let mut peer = broker().peer();
    let exchange = &unique("e");
    let arguments = table([("alternate-exchange", FieldValue::I32(1))]);
    let rows = vec![
        (
            Exchange::named(exchange, "nosuch").method(),
            406,
            "PRECONDITION_FAILED - unknown exchange type 'nosuch'".to_owned(),
        ),
        (
            Exchange { arguments, ..Exchange::named(exchange, "direct") }.method(),
            406,
            format!(
                "PRECONDITION_FAILED - invalid type 'signedint' for arg 'alternate-exchange' in exchange \
                 '{exchange}' in vhost '/'"
            ),
        ),
    ];
    check(&mut peer, rows);
}

#[test]
fn exchanges_in_use() {
    let mut peer = broker().peer();
    let exchange = &unique("e");
    peer.declare_exchange(1, &Exchange::named(exchange, "direct"));
    let queue = peer.server_named(1);
    peer.bind(1, &queue, exchange, "k");
    let text = format!("PRECONDITION_FAILED - exchange '{exchange}' in vhost '/' in use");
    let delete = || Method::ExchangeDelete { exchange, if_unused: true, nowait: false };
    check(&mut peer, vec![(delete(), 406, text)]);
    peer.unbind(1, &queue, exchange, "k");
    peer.send(1, &delete());
    expect_method!(peer, 1, Method::ExchangeDeleteOk {});
}

#[test]
fn bindings_that_make_no_sense() {
    let mut peer = broker().peer();
    let queue = &peer.server_named(1);
    let x_match = |value| table([("x-match", value)]);
    let invalid = "PRECONDITION_FAILED - Invalid x-match field";
    let rows = vec![
        (
            bind(queue, "amq.headers", "", x_match(text("foo"))),
            406,
            format!("{invalid} value <<\"foo\">>; expected all, any, all-with-x, or any-with-x"),
        ),
        (
            bind(queue, "amq.headers", "", x_match(FieldValue::I32(1))),
            406,
            format!("{invalid} type signedint (value 1); expected longstr"),
        ),
        (
            bind(queue, "amq.topic", "#.a.#.b.#", none()),
            406,
            "PRECONDITION_FAILED - Topic binding key '#.a.#.b.#' uses 3 '#' wildcards, at most 2 are allowed"
                .to_owned(),
        ),
        (
            bind("amq.rabbitmq.reply-to", "amq.direct", "", none()),
            403,
            "ACCESS_REFUSED - cannot bind or unbind to a volatile (direct reply-to) queue".to_owned(),
        ),
    ];
    check(&mut peer, rows);
}

#[test]
fn queue_arguments_with_bad_values() {
    let mut peer = broker().peer();
    let queue = &unique("q");
    let invalid = |argument: &str, reason: &str| {
        format!("PRECONDITION_FAILED - invalid arg '{argument}' for queue '{queue}' in vhost '/': {reason}")
    };
    let declare =
        |name: &str, value| Queue { arguments: table([(name, value)]), ..Queue::named(queue) }.method();
    let of_other_type = format!(
        "PRECONDITION_FAILED - invalid arg 'x-max-age' for queue '{queue}' in vhost '/' of queue type \
         rabbit_classic_queue"
    );
    let rows = vec![
        (
            declare("x-queue-type", text("foo")),
            406,
            invalid("x-queue-type", "\"unsupported queue type 'foo'\""),
        ),
        (
            declare("x-queue-version", FieldValue::I32(1)),
            406,
            invalid("x-queue-version", "\"unsupported queue version '1'\""),
        ),
        (
            declare("x-queue-leader-locator", text("nowhere")),
            406,
            invalid("x-queue-leader-locator", "invalid_queue_locator_arg"),
        ),
        (declare("x-max-age", text("1D")), 406, of_other_type),
    ];
    check(&mut peer, rows);
}

#[test]
fn consumers_that_are_refused() {
    let mut peer = broker().peer();
    peer.open_channel(2);
    let queue = &peer.server_named(2);
    let arguments = |name: &str, value| Consume { arguments: table([(name, value)]), ..Consume::from(queue) };
    let q = format!("queue '{queue}' in vhost '/'");
    peer.consume(2, &Consume::from(queue));
    let exclusive = || Consume { exclusive: true, ..Consume::from(queue) }.method();
    let in_use = || format!("ACCESS_REFUSED - {q} in exclusive use");
    let rows = vec![
        (
            arguments("x-priority", text("1")).method(),
            406,
            format!(
                "PRECONDITION_FAILED - invalid arg 'x-priority' for {q}: \"expected integer, got longstr\""
            ),
        ),
        (
            arguments("x-stream-offset", text("first")).method(),
            406,
            format!(
                "PRECONDITION_FAILED - invalid arg 'x-stream-offset' for {q} of queue type rabbit_classic_queue"
            ),
        ),
        (exclusive(), 403, in_use()),
    ];
    check(&mut peer, rows);
    let alone = &peer.server_named(2);
    peer.consume(2, &Consume { exclusive: true, ..Consume::from(alone) });
    let in_use = || format!("ACCESS_REFUSED - queue '{alone}' in vhost '/' in exclusive use");
    let rows = vec![
        (Consume::from(alone).method(), 403, in_use()),
        (Consume { exclusive: true, ..Consume::from(alone) }.method(), 403, in_use()),
    ];
    check(&mut peer, rows);
}

#[test]
fn acknowledgements_of_what_is_not_outstanding() {
    let mut peer = broker().peer();
    let unknown = |tag| format!("PRECONDITION_FAILED - unknown delivery tag {tag}");
    let rows = vec![
        (Method::BasicAck { delivery_tag: 5, multiple: false }, 406, unknown(5)),
        (Method::BasicAck { delivery_tag: 5, multiple: true }, 406, unknown(5)),
        (Method::BasicAck { delivery_tag: 0, multiple: false }, 406, unknown(0)),
        (Method::BasicNack { delivery_tag: 7, multiple: false, requeue: true }, 406, unknown(7)),
        (Method::BasicReject { delivery_tag: 8, requeue: false }, 406, unknown(8)),
    ];
    check(&mut peer, rows);
    let queue = peer.server_named(1);
    peer.publish(1, "", &queue, "x");
    peer.get(1, &queue, false).expect("a message");
    peer.ack(1, 1);
    let twice = Method::BasicAck { delivery_tag: 1, multiple: false };
    check(&mut peer, vec![(twice, 406, unknown(1))]);
    peer.publish(1, "", &queue, "x");
    peer.get(1, &queue, true).expect("a message");
    let never = Method::BasicAck { delivery_tag: 1, multiple: false };
    check(&mut peer, vec![(never, 406, unknown(1))]);
}

#[test]
fn modes_do_not_mix() {
    let mut peer = broker().peer();
    let not = || "PRECONDITION_FAILED - channel is not transactional".to_owned();
    check(&mut peer, vec![(Method::TxCommit {}, 406, not()), (Method::TxRollback {}, 406, not())]);
    peer.select_confirms(1);
    let text = "PRECONDITION_FAILED - cannot switch from confirm to tx mode";
    peer.refused(1, &Method::TxSelect {}, 406, text);
    peer.send(1, &Method::TxSelect {});
    expect_method!(peer, 1, Method::TxSelectOk {});
    let text = "PRECONDITION_FAILED - cannot switch from tx to confirm mode";
    peer.refused(1, &Method::ConfirmSelect { nowait: false }, 406, text);
}

#[test]
fn messages_that_are_refused() {
    let mut peer = broker().peer();
    let internal = &unique("internal");
    let exchange = Exchange { internal: true, auto_delete: true, ..Exchange::named(internal, "fanout") };
    peer.declare_exchange(1, &exchange);
    let with = |properties| Publish { properties, ..Publish::to("amq.direct", "k") };
    let headers = |name: &str, value| {
        with(Properties { headers: Some(table([(name, value)])), ..Properties::default() })
    };
    let unacceptable =
        |what: &str| format!("PRECONDITION_FAILED - invalid message: {{unacceptable_type_in_header,{what}}}");
    let rows = vec![
        (
            Publish::to(internal, ""),
            403,
            format!("ACCESS_REFUSED - cannot publish to internal exchange '{internal}' in vhost '/'"),
        ),
        (
            Publish::to("amq.rabbitmq.trace", ""),
            403,
            "ACCESS_REFUSED - cannot publish to internal exchange 'amq.rabbitmq.trace' in vhost '/'"
                .to_owned(),
        ),
        (
            with(Properties { user_id: Some("bob".into()), ..Properties::default() }),
            406,
            "PRECONDITION_FAILED - user_id property set to 'bob' but authenticated user was 'guest'"
                .to_owned(),
        ),
        (headers("CC", text("k")), 406, unacceptable("\"CC\",longstr")),
        (headers("BCC", FieldValue::I32(1)), 406, unacceptable("\"BCC\",signedint")),
        (
            with(Properties { reply_to: Some("amq.rabbitmq.reply-to".into()), ..Properties::default() }),
            406,
            "PRECONDITION_FAILED - fast reply consumer does not exist".to_owned(),
        ),
    ];
    check_publishes(&mut peer, rows);
    peer.send(1, &delete_exchange(internal));
    expect_method!(peer, 1, Method::ExchangeDeleteOk {});
}

#[test]
fn expirations_that_are_no_number_of_milliseconds() {
    let mut peer = broker().peer();
    let rows = [
        ("abc", "no_integer"),
        ("-1", "{value_negative,-1}"),
        ("10.5", "{leftover_string,\".5\"}"),
        ("315360000001", "{value_too_large,315360000001}"),
    ];
    let rows = rows.into_iter().map(|(value, reason)| {
        let properties = Properties { expiration: Some(value.into()), ..Properties::default() };
        let text = format!("PRECONDITION_FAILED - invalid expiration '{value}': {reason}");
        (Publish { properties, ..Publish::to("amq.direct", "k") }, 406, text)
    });
    let rows = rows.collect();
    check_publishes(&mut peer, rows);
}

#[test]
fn texts_are_cut_to_what_a_short_string_holds() {
    let mut peer = broker().peer();
    let long = "n".repeat(250);
    let whole = format!("NOT_FOUND - no queue '{long}' in vhost '/'");
    let cut = format!("{}...", &whole[..252]);
    check(&mut peer, vec![(Queue::passive(&long).method(), 404, cut)]);
}

#[test]
fn clients_without_capabilities_are_told_the_same() {
    let mut peer = broker().peer_with(&Handshake::default().without_capabilities());
    let queue = &unique("no-queue");
    let text = format!("NOT_FOUND - no queue '{queue}' in vhost '/'");
    check(&mut peer, vec![(Method::BasicGet { queue, no_ack: true }, 404, text)]);
}
