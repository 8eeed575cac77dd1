//! The firehose: `trace_on` copies what is published and delivered to `amq.rabbitmq.trace`.

use posthouse_testkit::content::Received;
use posthouse_testkit::{
    Broker, Consume, FieldTable, FieldValue, Options, Peer, Properties, Publish, Queue, program, table, text,
};

#[track_caller]
fn ctl(broker: &Broker, words: &[&str]) -> String {
    let output = program().arg("ctl").args(words).arg("--data-dir").arg(broker.data_dir()).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn headers(copy: &Received) -> FieldTable {
    copy.properties().headers.unwrap()
}

#[track_caller]
fn expect_header(copy: &Received, name: &str, expected: FieldValue) {
    assert_eq!(headers(copy).get(name), Some(&expected), "{name}");
}

fn texts<const N: usize>(texts: [&str; N]) -> FieldValue {
    FieldValue::Array(texts.into_iter().map(text).collect())
}

/// A queue that gets all copies, and one to be traced.
fn queues(peer: &mut Peer) {
    peer.declare(1, &Queue::named("copies"));
    peer.bind(1, "copies", "amq.rabbitmq.trace", "#");
    peer.declare(1, &Queue::named("q"));
    peer.bind(1, "q", "amq.topic", "a.*");
}

#[test]
fn copies_say_what_was_published_and_delivered() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    queues(&mut peer);
    // What is remembered of this route must be forgotten when tracing starts.
    peer.publish(1, "amq.topic", "a.b", "untraced");
    assert_eq!(peer.drain(1, "q"), ["untraced"]);
    let said = ctl(&broker, &["trace_on"]);
    assert_eq!(said, "Starting tracing for vhost \"/\" ...\nTrace enabled for vhost /\n");
    assert!(ctl(&broker, &["list_vhosts", "name", "tracing"]).contains("true"));
    let properties = Properties {
        headers: Some(table([("h", text("v")), ("CC", texts(["a.c"])), ("BCC", texts(["secret"]))])),
        content_type: Some("text/plain".into()),
        delivery_mode: Some(2),
        timestamp: Some(1 << 40),
        ..Properties::default()
    };
    peer.publish_with(1, &Publish { properties, body: b"traced", ..Publish::to("amq.topic", "a.b") });
    let copy = peer.get(1, "copies", true).expect("a copy of the publish");
    assert_eq!((copy.text().as_str(), copy.exchange.as_str()), ("traced", "amq.rabbitmq.trace"));
    assert_eq!(copy.routing_key, "publish.amq.topic");
    expect_header(&copy, "exchange_name", text("amq.topic"));
    expect_header(&copy, "routing_keys", texts(["a.b", "a.c"]));
    expect_header(&copy, "routed_queues", texts(["q"]));
    expect_header(&copy, "channel", FieldValue::I32(1));
    expect_header(&copy, "vhost", text("/"));
    expect_header(&copy, "user", text("guest"));
    let name = format!("{} -> {}", peer.stream().local_addr().unwrap(), broker.address());
    expect_header(&copy, "connection", text(&name));
    let Some(FieldValue::Table(traced)) = headers(&copy).get("properties").cloned() else {
        panic!("{copy:?}")
    };
    assert_eq!(traced.get("content_type"), Some(&text("text/plain")));
    assert_eq!(traced.get("delivery_mode"), Some(&FieldValue::I32(2)));
    assert_eq!(traced.get("timestamp"), Some(&FieldValue::I64(1 << 40)));

    peer.get(1, "q", false).expect("the message");
    let copy = peer.get(1, "copies", true).expect("a copy of the delivery");
    assert_eq!((copy.text().as_str(), copy.routing_key.as_str()), ("traced", "deliver.q"));
    expect_header(&copy, "redelivered", FieldValue::I32(0));
    expect_header(&copy, "routing_keys", texts(["a.b", "a.c"]));
    assert_eq!(headers(&copy).get("routed_queues"), None);
    // Copies are not copied.
    assert!(peer.get(1, "copies", true).is_none());
}

#[test]
fn copies_that_find_no_room_are_nobodys_failure() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let arguments = table([("x-max-length", FieldValue::I32(1)), ("x-overflow", text("reject-publish"))]);
    peer.declare(1, &Queue { arguments, ..Queue::named("copies") });
    peer.bind(1, "copies", "amq.rabbitmq.trace", "#");
    peer.declare(1, &Queue::named("q"));
    ctl(&broker, &["trace_on"]);
    peer.select_confirms(1);
    for body in ["1", "2", "3"] {
        peer.publish(1, "", "q", body);
    }
    peer.confirmed(1, 3);
    assert_eq!(peer.counts(1, "copies"), (1, 0));
    assert_eq!(peer.counts(1, "q"), (3, 0));
}

#[test]
fn consumers_are_traced_and_tracing_stops() {
    let broker = Broker::start(Options::log());
    let (mut peer, mut watcher) = (broker.peer(), broker.peer());
    queues(&mut peer);
    ctl(&broker, &["trace_on", "-p", "/"]);
    watcher.consume(1, &Consume::no_ack("copies"));
    peer.consume(1, &Consume::no_ack("q"));
    peer.publish(1, "amq.topic", "a.b", "one");
    assert_eq!(peer.message(1).text(), "one");
    let copies = [watcher.message(1), watcher.message(1)];
    assert_eq!(copies.map(|copy| copy.routing_key), ["publish.amq.topic", "deliver.q"]);
    // What goes nowhere is traced too.
    peer.publish(1, "", "nowhere", "two");
    let copy = watcher.message(1);
    assert_eq!((copy.text().as_str(), copy.routing_key.as_str()), ("two", "publish."));
    expect_header(&copy, "routed_queues", FieldValue::Array(Vec::new()));

    ctl(&broker, &["trace_off"]);
    peer.publish(1, "amq.topic", "a.b", "three");
    assert_eq!(peer.message(1).text(), "three");
    ctl(&broker, &["trace_on"]);
    peer.publish(1, "amq.topic", "a.b", "four");
    assert_eq!(watcher.message(1).text(), "four");
}
