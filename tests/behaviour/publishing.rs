//! From a publisher to a consumer: nothing changes on the way, and what has no way comes back.

use posthouse_testkit::{
    Consume, Exchange, FieldTable, FieldValue, Properties, Publish, Received, table, text,
};

use super::{broker, unique};

/// Every property, and every type of field.
fn everything() -> Properties {
    let nested = table([("deep", FieldValue::Table(table([("deeper", FieldValue::Void)])))]);
    let array = vec![FieldValue::I32(1), text("two"), FieldValue::Array(vec![FieldValue::Bool(false)])];
    let headers = table([
        ("bool", FieldValue::Bool(true)),
        ("i8", FieldValue::I8(-8)),
        ("u8", FieldValue::U8(200)),
        ("i16", FieldValue::I16(-1616)),
        ("u16", FieldValue::U16(61616)),
        ("i32", FieldValue::I32(i32::MIN)),
        ("u32", FieldValue::U32(u32::MAX)),
        ("i64", FieldValue::I64(i64::MIN)),
        ("f32", FieldValue::F32(1.5)),
        ("f64", FieldValue::F64(-2.25)),
        ("decimal", FieldValue::Decimal { scale: 2, value: 314 }),
        ("text", text("text")),
        ("bytes", FieldValue::Bytes(vec![0, 255, 128])),
        ("timestamp", FieldValue::Timestamp(1 << 40)),
        ("array", FieldValue::Array(array)),
        ("table", FieldValue::Table(nested)),
        ("void", FieldValue::Void),
        ("", text("no name")),
        ("text", text("the same name again")),
    ]);
    Properties {
        content_type: Some("text/plain".into()),
        content_encoding: Some("identity".into()),
        headers: Some(headers),
        delivery_mode: Some(2),
        priority: Some(9),
        correlation_id: Some("correlation".into()),
        reply_to: Some("somewhere".into()),
        expiration: None,
        message_id: Some("message".into()),
        timestamp: Some(u64::MAX),
        message_type: Some("type".into()),
        user_id: Some("guest".into()),
        app_id: Some("app".into()),
        cluster_id: Some("cluster".into()),
    }
}

/// Deliveries by consumer, by hand and returned.
#[test]
fn properties_come_as_they_were_sent() {
    let mut peer = broker().peer();
    peer.open_channel(2);
    let (one, two) = (peer.server_named(1), peer.server_named(1));
    peer.consume(2, &Consume::no_ack(&one));
    let nowhere = unique("nowhere");
    for properties in [everything(), Properties::default()] {
        let mut header = Vec::new();
        properties.encode(4, &mut header);
        for queue in [&one, &two, &nowhere] {
            let publish =
                Publish { properties: properties.clone(), mandatory: true, ..Publish::to("", queue) };
            peer.publish_with(1, &Publish { body: b"body", ..publish });
        }
        let returned = peer.message(1);
        let delivered = peer.message(2);
        let got = peer.get(1, &two, true).expect("a message");
        for received in [returned, delivered, got] {
            assert_eq!((&received.header, received.body.as_slice()), (&header, &b"body"[..]));
        }
    }
}

/// A header that our own encoder would write otherwise: `L` for a 64-bit integer.
#[test]
fn bytes_of_headers_are_not_written_anew() {
    use posthouse_amqp::frame::FrameKind;
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    let entries = [b"\x01aL", &[0; 8][..]].concat();
    let mut header = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, entries.len() as u8];
    header.extend_from_slice(&entries);
    peer.send(1, &Publish::to("", &queue).method());
    peer.send_frame(FrameKind::Header, 1, &header);
    assert_eq!(peer.get(1, &queue, true).map(|m| m.header), Some(header));
}

#[test]
fn empty_bodies_have_no_frames() {
    let mut peer = broker().peer();
    peer.open_channel(2);
    let queue = peer.server_named(1);
    peer.consume(2, &Consume::no_ack(&queue));
    peer.publish(1, "", &queue, "");
    peer.publish(1, "", &queue, "next");
    let Received { body, pieces, .. } = peer.message(2);
    assert_eq!((body, pieces), (vec![], vec![]));
    assert_eq!(peer.message(2).text(), "next");
}

#[test]
fn exchange_and_key_are_told() {
    let mut peer = broker().peer();
    peer.open_channel(2);
    let queue = peer.server_named(1);
    let key = format!("{}.{}", unique("key"), "k".repeat(200));
    peer.bind(1, &queue, "amq.topic", &key);
    let tag = peer.consume(2, &Consume { consumer_tag: "the tag", ..Consume::no_ack(&queue) });
    peer.publish(1, "amq.topic", &key, "x");
    let message = peer.message(2);
    assert_eq!((message.exchange.as_str(), &message.routing_key), ("amq.topic", &key));
    assert_eq!((tag.as_str(), message.consumer_tag.as_str(), message.tag), ("the tag", "the tag", 1));
}

#[test]
fn mandatory_messages_come_back_whole() {
    let mut peer = broker().peer();
    let exchange = unique("e");
    peer.declare_exchange(1, &Exchange { auto_delete: true, ..Exchange::named(&exchange, "topic") });
    let body = vec![b'x'; 300_000];
    let publish = Publish { mandatory: true, body: &body, ..Publish::to(&exchange, "no.way") };
    peer.publish_with(1, &publish);
    let returned = peer.message(1);
    assert_eq!((returned.reply.0, returned.reply.1.as_str()), (312, "NO_ROUTE"));
    assert_eq!((returned.exchange.as_str(), returned.routing_key.as_str()), (exchange.as_str(), "no.way"));
    assert!(returned.body == body);
    // With a way, or without the wish, nothing comes back.
    let queue = peer.server_named(1);
    peer.publish(1, &exchange, "no.way", "dropped");
    peer.bind(1, &queue, &exchange, "#");
    peer.publish_with(1, &publish);
    peer.expect_quiet(1);
    assert_eq!(peer.counts(1, &queue), (1, 0));
}

#[test]
fn more_keys_in_cc_and_bcc() {
    let mut peer = broker().peer();
    let names = [unique("a"), unique("b"), unique("c"), unique("d")];
    let queues: Vec<String> = names
        .iter()
        .map(|name| {
            let queue = peer.server_named(1);
            peer.bind(1, &queue, "amq.direct", name);
            queue
        })
        .collect();
    let list = |keys: &[&String]| FieldValue::Array(keys.iter().map(|key| text(key)).collect());
    let headers = table([
        ("CC", list(&[&names[1], &names[0]])),
        ("kept", text("as it is")),
        ("BCC", list(&[&names[2]])),
    ]);
    let properties = Properties { headers: Some(headers.clone()), ..Properties::default() };
    peer.publish_with(1, &Publish { properties, body: b"x", ..Publish::to("amq.direct", &names[0]) });
    let seen = table([("CC", list(&[&names[1], &names[0]])), ("kept", text("as it is"))]);
    for queue in &queues[..3] {
        let message = peer.get(1, queue, true).expect("a message");
        assert_eq!((message.routing_key.as_str(), message.body.as_slice()), (names[0].as_str(), &b"x"[..]));
        assert_eq!(message.properties().headers, Some(seen.clone()));
        // Named twice, it has it once.
        assert_eq!(peer.get(1, queue, true), None);
    }
    assert_eq!(peer.get(1, &queues[3], true), None);
}

#[test]
fn hidden_keys_leave_no_trace() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    let headers = table([("BCC", FieldValue::Array(vec![text(&queue)]))]);
    let properties = Properties { headers: Some(headers), ..Properties::default() };
    let nowhere = unique("nowhere");
    // The hidden key is a way: nothing comes back.
    peer.publish_with(1, &Publish { properties, mandatory: true, ..Publish::to("", &nowhere) });
    let message = peer.get(1, &queue, true).expect("a message");
    assert_eq!(message.routing_key, nowhere);
    let left = message.properties().headers.unwrap_or_default();
    assert_eq!(left, FieldTable::default());
}

#[test]
fn thousands_at_once_arrive_in_order() {
    const MESSAGES: usize = 5000;
    let mut peer = broker().peer();
    peer.open_channel(2);
    let queue = peer.server_named(1);
    let mut out = Vec::new();
    for i in 0..MESSAGES {
        let body = i.to_string();
        Publish { body: body.as_bytes(), ..Publish::to("", &queue) }.write(1, 131_072, &mut out);
    }
    peer.send_bytes(&out);
    assert_eq!(peer.counts(1, &queue), (MESSAGES as u32, 0));
    peer.consume(2, &Consume::no_ack(&queue));
    for i in 0..MESSAGES {
        let message = peer.message(2);
        assert_eq!((message.text(), message.tag), (i.to_string(), i as u64 + 1));
    }
}
