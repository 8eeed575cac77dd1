//! The event exchange: what happens is published there, with RabbitMQ's keys and headers.

use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_testkit::{Broker, Consume, Exchange, Handshake, Options, Peer, Queue, table, text};

const EXCHANGE: &str = "amq.rabbitmq.event";

fn broker() -> Broker {
    Broker::start(Options::log().set("POSTHOUSE__SERVER__EVENT_EXCHANGE", "/"))
}

/// A peer that consumes all events with these keys.
fn listener(broker: &Broker, keys: &[&str]) -> Peer {
    let mut peer = broker.peer();
    let queue = peer.server_named(1);
    for key in keys {
        peer.bind(1, &queue, EXCHANGE, key);
    }
    peer.consume(1, &Consume::no_ack(&queue));
    peer
}

/// The next event: its key and headers, of which the time is checked and taken out.
fn next(peer: &mut Peer) -> (String, FieldTable) {
    let message = peer.message(1);
    let properties = message.properties();
    assert_eq!((message.body.len(), properties.delivery_mode), (0, Some(2)));
    let mut headers = properties.headers.expect("headers");
    let at_ms = headers.get("timestamp_in_ms").and_then(FieldValue::as_int).expect("a time") as u64;
    assert_eq!(properties.timestamp, Some(at_ms / 1000));
    headers.0.retain(|(name, _)| name != "timestamp_in_ms");
    (message.routing_key, headers)
}

#[track_caller]
fn expect<const N: usize>(peer: &mut Peer, key: &str, user: &str, headers: [(&str, FieldValue); N]) {
    let (got_key, got) = next(peer);
    let sorted = |mut table: FieldTable| {
        table.0.sort_by(|a, b| a.0.cmp(&b.0));
        table
    };
    let mut expected = table(headers);
    expected.0.push(("user_who_performed_action".to_owned(), text(user)));
    assert_eq!((got_key.as_str(), sorted(got)), (key, sorted(expected)));
}

#[test]
fn queues_exchanges_and_bindings() {
    let broker = broker();
    let mut peer = broker.peer();
    let mut events = listener(&broker, &["queue.*", "exchange.*", "binding.*"]);
    // The queue's own bindings come first: the last, and those before it that were published after it was made.
    loop {
        let (key, headers) = next(&mut events);
        assert_eq!(key, "binding.created");
        if headers.get("routing_key") == Some(&text("binding.*")) {
            break;
        }
    }
    peer.declare(1, &Queue { arguments: table([("x-a", FieldValue::I32(1))]), ..Queue::durable("q") });
    peer.declare(1, &Queue { arguments: table([("x-a", FieldValue::I32(1))]), ..Queue::durable("q") });
    peer.declare_exchange(1, &Exchange::named("e", "topic"));
    peer.bind(1, "q", "e", "k");
    peer.bind(1, "q", "e", "k");
    peer.delete(1, "q");
    let (yes, no) = (FieldValue::Bool(true), FieldValue::Bool(false));
    let arguments = FieldValue::Table(table([("x-a", FieldValue::I32(1))]));
    let none = FieldValue::Table(FieldTable::default());
    let created = [
        ("name", text("q")),
        ("vhost", text("/")),
        ("type", text("classic")),
        ("durable", yes),
        ("auto_delete", no.clone()),
        ("exclusive", no.clone()),
        ("arguments", arguments),
    ];
    expect(&mut events, "queue.created", "guest", created);
    let created = [
        ("name", text("e")),
        ("vhost", text("/")),
        ("type", text("topic")),
        ("durable", no.clone()),
        ("auto_delete", no.clone()),
        ("internal", no),
        ("arguments", none.clone()),
        ("policy", text("")),
    ];
    expect(&mut events, "exchange.created", "guest", created);
    let binding = || {
        [
            ("source_name", text("e")),
            ("source_kind", text("exchange")),
            ("destination_name", text("q")),
            ("destination_kind", text("queue")),
            ("routing_key", text("k")),
            ("vhost", text("/")),
            ("arguments", none.clone()),
        ]
    };
    expect(&mut events, "binding.created", "guest", binding());
    expect(&mut events, "binding.deleted", "guest", binding());
    expect(&mut events, "queue.deleted", "guest", [("name", text("q")), ("vhost", text("/"))]);
    broker.ctl(&["add_vhost", "other"]);
    events.expect_quiet(1);
}

#[test]
fn connections_channels_and_consumers() {
    let broker = broker();
    let mut events = listener(&broker, &["connection.*", "channel.*", "consumer.*", "user.#"]);
    let (key, own) = next(&mut events);
    assert_eq!((key.as_str(), own.get("prefetch_count")), ("consumer.created", Some(&FieldValue::I64(0))));
    let mut peer = broker.peer();
    let expect_key = |events: &mut Peer, key: &str| {
        let (got, headers) = next(events);
        assert_eq!(got, key);
        headers
    };
    let login = expect_key(&mut events, "user.authentication.success");
    assert_eq!(
        (login.get("name"), login.get("auth_mechanism")),
        (Some(&text("guest")), Some(&text("PLAIN")))
    );
    let created = expect_key(&mut events, "connection.created");
    assert_eq!((created.get("user"), created.get("vhost")), (Some(&text("guest")), Some(&text("/"))));
    let port = peer.stream().local_addr().expect("connected").port();
    assert_eq!(created.get("peer_port"), Some(&FieldValue::I64(port.into())));
    let pid = created.get("pid").expect("a number").clone();
    let channel = expect_key(&mut events, "channel.created");
    assert_eq!((channel.get("number"), channel.get("connection")), (Some(&FieldValue::I64(1)), Some(&pid)));
    let queue = peer.server_named(1);
    let tag = peer.consume(1, &Consume::from(&queue));
    peer.cancel(1, &tag);
    let consumer = expect_key(&mut events, "consumer.created");
    assert_eq!(
        (consumer.get("queue"), consumer.get("consumer_tag")),
        (Some(&text(&queue)), Some(&text(&tag)))
    );
    let consumer = expect_key(&mut events, "consumer.deleted");
    assert_eq!(consumer.get("consumer_tag"), Some(&text(&tag)));
    peer.close();
    let closed = expect_key(&mut events, "channel.closed");
    assert_eq!(closed.get("pid"), channel.get("pid"));
    assert_eq!(expect_key(&mut events, "connection.closed").get("pid"), Some(&pid));
    let mut stranger = broker.socket();
    stranger.start();
    stranger.send(0, &Handshake::plain("guest", "wrong").start_ok());
    let refused = expect_key(&mut events, "user.authentication.failure");
    assert_eq!(refused.get("error"), Some(&text("user 'guest': invalid credentials")));
}

#[test]
fn what_an_operator_does() {
    let broker = broker();
    let mut events = listener(&broker, &["user.#", "vhost.#", "permission.*", "policy.*", "parameter.*"]);
    broker.ctl(&["add_user", "u", "secret"]);
    broker.ctl(&["set_user_tags", "u", "a", "b"]);
    broker.ctl(&["set_permissions", "u", "c", "w", "r"]);
    broker.ctl(&["set_user_limits", "u", r#"{"max-channels":3}"#]);
    broker.ctl(&["add_vhost", "v", "--description", "d"]);
    broker.ctl(&["set_policy", "-p", "v", "p", "^x", r#"{"max-length":3}"#]);
    broker.ctl(&["clear_policy", "-p", "v", "p"]);
    broker.ctl(&["set_global_parameter", "g", "1"]);
    broker.ctl(&["delete_vhost", "v"]);
    broker.ctl(&["delete_user", "u"]);
    let cli = "rmq-cli";
    expect(&mut events, "user.created", cli, [("name", text("u"))]);
    let tags = FieldValue::Array(vec![text("a"), text("b")]);
    expect(&mut events, "user.tags.set", cli, [("name", text("u")), ("tags", tags)]);
    let permission = [
        ("user", text("u")),
        ("vhost", text("/")),
        ("configure", text("c")),
        ("write", text("w")),
        ("read", text("r")),
    ];
    expect(&mut events, "permission.created", cli, permission);
    let limits = [("name", text("limits")), ("username", text("u")), ("max-channels", FieldValue::I64(3))];
    expect(&mut events, "user.limits.set", cli, limits);
    let created = [
        ("name", text("v")),
        ("description", text("d")),
        ("tags", FieldValue::Array(Vec::new())),
        ("default_queue_type", text("undefined")),
        ("tracing", FieldValue::Bool(false)),
    ];
    expect(&mut events, "vhost.created", cli, created);
    let policy = [
        ("name", text("p")),
        ("vhost", text("v")),
        ("pattern", text("^x")),
        ("apply-to", text("all")),
        ("priority", FieldValue::I64(0)),
        ("definition", text(r#"{"max-length":3}"#)),
    ];
    expect(&mut events, "policy.set", cli, policy);
    expect(&mut events, "policy.cleared", cli, [("name", text("p")), ("vhost", text("v"))]);
    let parameter = [("component", text("global")), ("name", text("g")), ("value", text("1"))];
    expect(&mut events, "parameter.set", cli, parameter);
    expect(&mut events, "vhost.deleted", cli, [("name", text("v"))]);
    expect(&mut events, "user.deleted", cli, [("name", text("u"))]);
}

#[test]
fn a_durable_queue_gets_events_again_after_a_restart() {
    let mut broker = broker();
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("log"));
    peer.bind(1, "log", EXCHANGE, "user.created");
    peer.close();
    broker.restart();
    broker.ctl(&["add_user", "u", "secret"]);
    let mut peer = broker.peer();
    peer.await_counts(1, "log", (1, 0));
    let kind = broker.ctl(&["list_exchanges", "name", "type", "internal"]);
    assert!(kind.contains("amq.rabbitmq.event\ttopic\ttrue\n"), "{kind}");
}

#[test]
fn there_are_none_unless_asked_for() {
    let broker = Broker::start(Options::log());
    assert!(!broker.ctl(&["list_exchanges"]).contains(EXCHANGE));
}
