//! Streams: everyone reads everything, from where they like.

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{
    Broker, Consume, FieldTable, FieldValue, Method, Options, Peer, Properties, Publish, Queue, text,
};

use super::{broker, unique};

pub(super) fn table(entries: &[(&str, FieldValue)]) -> FieldTable {
    FieldTable(entries.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

/// A stream with the messages 0, 1, 2, ..., all of them confirmed; channel 9 has been used for them.
pub(super) fn stream(peer: &mut Peer, messages: usize) -> String {
    let name = unique("stream");
    let arguments = table(&[("x-queue-type", text("stream"))]);
    peer.declare(1, &Queue { arguments, ..Queue::durable(&name) });
    peer.open_channel(9);
    peer.select_confirms(9);
    for i in 0..messages {
        peer.publish(9, "", &name, &i.to_string());
    }
    if messages > 0 {
        peer.confirmed(9, messages as u64);
    }
    name
}

/// Starts a reader on a channel of its own.
fn read(peer: &mut Peer, channel: u16, stream: &str, prefetch: u16, arguments: &[(&str, FieldValue)]) {
    peer.open_channel(channel);
    peer.prefetch(channel, prefetch, false);
    peer.consume(channel, &Consume { arguments: table(arguments), ..Consume::from(stream) });
}

const FIRST: &str = "x-stream-offset";

fn offset_of(properties: &Properties) -> i64 {
    let headers = properties.headers.as_ref().expect("headers");
    headers.get("x-stream-offset").and_then(FieldValue::as_int).expect("an offset")
}

#[test]
fn each_reader_has_a_place_of_its_own() {
    let mut peer = broker().peer();
    let stream = stream(&mut peer, 100);
    for (channel, start) in [(2, 0), (3, 50), (4, 99)] {
        read(&mut peer, channel, &stream, 1000, &[(FIRST, FieldValue::I64(start))]);
        for expected in start..100 {
            let message = peer.message(channel);
            assert_eq!((message.text(), offset_of(&message.properties())), (expected.to_string(), expected));
            assert!(!message.redelivered);
        }
    }
    peer.publish(9, "", &stream, "later");
    for channel in 2..=4 {
        let message = peer.message(channel);
        assert_eq!((message.text(), offset_of(&message.properties())), ("later".to_owned(), 100));
    }
    assert_eq!(peer.counts(1, &stream), (101, 3));
}

#[test]
fn a_reader_that_goes_and_comes_finds_everything_again() {
    let mut peer = broker().peer();
    let stream = stream(&mut peer, 5);
    for channel in 2..6 {
        read(&mut peer, channel, &stream, 2, &[(FIRST, text("first"))]);
        assert_eq!(peer.messages(channel, 2), ["0", "1"]);
        peer.ack(channel, 1);
        assert_eq!(peer.messages(channel, 1), ["2"]);
        peer.close_channel(channel);
    }
}

#[test]
fn acknowledgements_are_credit_and_nothing_comes_back() {
    let mut peer = broker().peer();
    let stream = stream(&mut peer, 10);
    read(&mut peer, 2, &stream, 3, &[(FIRST, text("first"))]);
    assert_eq!(peer.messages(2, 3), ["0", "1", "2"]);
    peer.expect_quiet(2);
    peer.send(2, &Method::BasicNack { delivery_tag: 2, multiple: true, requeue: true });
    assert_eq!(peer.messages(2, 2), ["3", "4"]);
    peer.send(2, &Method::BasicReject { delivery_tag: 3, requeue: true });
    assert_eq!(peer.messages(2, 1), ["5"]);
    peer.expect_quiet(2);
    peer.send(2, &Method::BasicAck { delivery_tag: 6, multiple: true });
    assert_eq!(peer.messages(2, 3), ["6", "7", "8"]);
    peer.send(2, &Method::BasicRecover { requeue: true });
    let answer = peer.method(2);
    assert_eq!(answer.get(), Method::BasicRecoverOk {});
    assert_eq!(peer.messages(2, 1), ["9"]);
    peer.expect_quiet(2);
}

#[test]
fn last_next_and_times() {
    let mut peer = broker().peer();
    let stream = stream(&mut peer, 7);
    read(&mut peer, 2, &stream, 10, &[(FIRST, text("last"))]);
    assert_eq!(peer.messages(2, 1), ["6"]);
    read(&mut peer, 3, &stream, 10, &[(FIRST, text("next"))]);
    read(&mut peer, 4, &stream, 10, &[]);
    read(&mut peer, 5, &stream, 10, &[(FIRST, FieldValue::Timestamp(4_000_000_000))]);
    for channel in 3..=5 {
        peer.expect_quiet(channel);
    }
    read(&mut peer, 6, &stream, 10, &[(FIRST, text("1h"))]);
    assert_eq!(peer.messages(6, 7), ["0", "1", "2", "3", "4", "5", "6"]);
    read(&mut peer, 7, &stream, 10, &[(FIRST, FieldValue::I64(9))]);
    for later in ["7", "8", "9"] {
        peer.publish(9, "", &stream, later);
    }
    for channel in [2, 3, 4, 5, 6] {
        assert_eq!(peer.messages(channel, 3), ["7", "8", "9"], "channel {channel}");
    }
    assert_eq!(peer.messages(7, 1), ["9"]);
}

#[test]
fn filters_are_exact() {
    let mut peer = broker().peer();
    let stream = stream(&mut peer, 0);
    for i in 0..30 {
        let (value, body) = (["a", "b", "c"][i % 3], i.to_string());
        let headers = (i % 5 != 0).then(|| table(&[("x-stream-filter-value", text(value))]));
        let properties = Properties { headers, ..persistent() };
        peer.publish_with(9, &Publish { properties, body: body.as_bytes(), ..Publish::to("", &stream) });
    }
    peer.confirmed(9, 30);
    let wanted =
        |which: &dyn Fn(usize) -> bool| (0..30).filter(|i| which(*i)).map(|i| i.to_string()).collect();
    let filter = |values: &[&str]| FieldValue::Array(values.iter().map(|value| text(value)).collect());
    let unfiltered = ("x-stream-match-unfiltered", FieldValue::Bool(true));
    let first = (FIRST, text("first"));
    read(&mut peer, 2, &stream, 100, &[first.clone(), ("x-stream-filter", text("a"))]);
    let expected: Vec<String> = wanted(&|i| i % 3 == 0 && i % 5 != 0);
    assert_eq!(peer.messages(2, expected.len()), expected);
    peer.expect_quiet(2);
    read(&mut peer, 3, &stream, 100, &[first.clone(), ("x-stream-filter", filter(&["b", "c"])), unfiltered]);
    let expected: Vec<String> = wanted(&|i| i % 3 != 0 || i % 5 == 0);
    assert_eq!(peer.messages(3, expected.len()), expected);
    peer.expect_quiet(3);
    // What does not match takes no credit.
    read(&mut peer, 4, &stream, 1, &[first, ("x-stream-filter", text("c"))]);
    assert_eq!(peer.messages(4, 1), ["2"]);
    peer.ack(4, 1);
    assert_eq!(peer.messages(4, 1), ["8"]);
}

#[test]
fn large_messages_come_through_whole() {
    let mut peer = broker().peer();
    let stream = stream(&mut peer, 0);
    let bodies: Vec<Vec<u8>> = [0, 1, 16 << 10, 500_000, 3].iter().map(|&size| vec![b'x'; size]).collect();
    for body in &bodies {
        peer.publish_with(9, &Publish { properties: persistent(), body, ..Publish::to("", &stream) });
    }
    peer.confirmed(9, bodies.len() as u64);
    read(&mut peer, 2, &stream, 10, &[(FIRST, text("first"))]);
    for (expected, body) in (0..).zip(&bodies) {
        let message = peer.message(2);
        assert!(message.body == *body, "message {expected}");
        assert_eq!(
            (offset_of(&message.properties()), message.properties().delivery_mode),
            (expected, Some(2))
        );
    }
}

#[test]
fn a_classic_queue_and_a_stream_get_the_same_message() {
    let mut peer = broker().peer();
    let stream = stream(&mut peer, 0);
    let queue = peer.server_named(1);
    for name in [&stream, &queue] {
        peer.bind(1, name, "amq.direct", &stream);
    }
    peer.publish(9, "amq.direct", &stream, "both");
    peer.confirmed(9, 1);
    read(&mut peer, 2, &stream, 1, &[(FIRST, text("first"))]);
    let message = peer.message(2);
    assert_eq!((message.text().as_str(), message.exchange.as_str()), ("both", "amq.direct"));
    assert!(message.properties().headers.is_some());
    let got = peer.get(1, &queue, true).expect("the message");
    assert_eq!((got.text(), got.properties().headers), ("both".into(), None));
}

#[test]
fn deleting_a_stream_tells_its_readers() {
    let mut peer = broker().peer();
    let stream = stream(&mut peer, 3);
    read(&mut peer, 2, &stream, 10, &[(FIRST, text("first"))]);
    peer.messages(2, 3);
    let in_use = Method::QueueDelete { queue: &stream, if_unused: true, if_empty: false, nowait: false };
    peer.refused(1, &in_use, 406, &format!("PRECONDITION_FAILED - queue '{stream}' in vhost '/' in use"));
    assert_eq!(peer.delete(1, &stream), 3);
    let cancelled = peer.method(2);
    assert!(matches!(cancelled.get(), Method::BasicCancel { .. }), "{:?}", cancelled.get());
}

#[test]
fn policies_say_how_much_is_kept_while_it_is_used() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let stream = stream(&mut peer, 0);
    let fill = |peer: &mut Peer, messages: u64| {
        peer.open_channel(8);
        peer.select_confirms(8);
        for _ in 0..messages {
            let body = [b'x'; 20_000];
            peer.publish_with(
                8,
                &Publish { properties: persistent(), body: &body, ..Publish::to("", &stream) },
            );
        }
        peer.confirmed_up_to(8, messages);
        peer.close_channel(8);
        peer.counts(1, &stream).0
    };
    assert_eq!(fill(&mut peer, 100), 100);
    let limit = r#"{"max-length-bytes":500000,"stream-max-segment-size-bytes":100000}"#;
    broker.ctl(&["set_policy", "short", "^stream", limit, "--apply-to", "streams"]);
    // Of the 25 that the limit allows a segment may have gone too many. It is as large as what came in one read, where that is
    // more than was asked for: a block of up to 256 KiB, or 13 messages and one that had begun to come before.
    let kept = fill(&mut peer, 60);
    assert!((11..=30).contains(&kept), "{kept} are kept");
    broker.kill();
    broker.start_again();
    peer = broker.peer();
    let kept = fill(&mut peer, 60);
    assert!((11..=30).contains(&kept), "{kept} are kept after a restart");
    broker.ctl(&["clear_policy", "short"]);
    assert_eq!(fill(&mut peer, 60), kept + 60);
}

#[test]
fn a_stream_can_be_browsed() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let stream = stream(&mut peer, 20);
    let shown = broker.ctl(&["browse_queue", &stream, "--skip", "17", "payload"]);
    assert_eq!(shown.lines().collect::<Vec<_>>(), ["17", "18", "19"], "{shown}");
    assert_eq!(peer.counts(1, &stream), (20, 0));
}
