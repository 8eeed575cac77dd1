//! Streams that remember where their consumers were, let them take turns, and keep once what is published twice.

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{Broker, Consume, FieldValue, Method, Options, Peer, Properties, Publish, text};

use super::broker;
use super::streams::{self, table};

const TRACKING: &str = "x-stream-automatic-offset-tracking";
const NAME: &str = "x-stream-consumer-name";
const SINGLE: &str = "x-single-active-consumer";

/// A stream with the messages 0, 1, 2, ..., all of them confirmed.
fn stream(peer: &mut Peer, messages: usize) -> String {
    let name = streams::stream(peer, messages);
    peer.close_channel(9);
    name
}

/// Publishes one more, and waits until it is confirmed.
fn publish(peer: &mut Peer, stream: &str, body: &str) {
    peer.open_channel(9);
    peer.select_confirms(9);
    peer.publish(9, "", stream, body);
    peer.confirmed_up_to(9, 1);
    peer.close_channel(9);
}

/// Starts a consumer on a channel of its own, from the first message unless something is stored.
fn read(peer: &mut Peer, channel: u16, stream: &str, tag: &str, arguments: &[(&str, FieldValue)]) {
    peer.open_channel(channel);
    peer.prefetch(channel, 10, false);
    let mut arguments = arguments.to_vec();
    arguments.push(("x-stream-offset", text("first")));
    peer.consume(
        channel,
        &Consume { consumer_tag: tag, arguments: table(&arguments), ..Consume::from(stream) },
    );
}

fn ack(peer: &mut Peer, channel: u16, delivery_tag: u64, multiple: bool) {
    peer.send(channel, &Method::BasicAck { delivery_tag, multiple });
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn a_consumer_goes_on_where_it_was_also_after_a_crash() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let stream = stream(&mut peer, 30);
    read(&mut peer, 2, &stream, "app", &[(TRACKING, FieldValue::Bool(true))]);
    assert_eq!(peer.messages(2, 10), numbers(0..10));
    // 3 is left out, so whatever comes after it may come again.
    ack(&mut peer, 2, 3, true);
    ack(&mut peer, 2, 5, false);
    assert_eq!(peer.messages(2, 4), numbers(10..14));
    peer.close_channel(2);
    let again: &[(&str, FieldValue)] = &[(NAME, text("app"))];
    read(&mut peer, 2, &stream, "t", again);
    assert_eq!(peer.messages(2, 10), numbers(3..13), "the tag and the name are one");
    ack(&mut peer, 2, 10, true);
    assert_eq!(peer.messages(2, 10), numbers(13..23));
    read(&mut peer, 3, &stream, "other", &[(TRACKING, FieldValue::Bool(true))]);
    assert_eq!(peer.messages(3, 1), numbers(0..1), "names are apart");
    // The log is written in order, and so a confirm says that the acknowledgements are on disk.
    publish(&mut peer, &stream, "30");
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    read(&mut peer, 2, &stream, "app", again);
    assert_eq!(peer.messages(2, 10), numbers(13..23));
    ack(&mut peer, 2, 10, true);
    assert_eq!(peer.messages(2, 8), numbers(23..31));
    peer.close();
    // A clean stop keeps it in the checkpoint.
    broker.restart();
    let mut peer = broker.peer();
    read(&mut peer, 2, &stream, "app", again);
    assert_eq!(peer.messages(2, 8), numbers(23..31));
}

#[test]
fn a_consumer_that_asks_for_the_next_message_misses_none_while_it_is_away() {
    let mut peer = broker().peer();
    let stream = stream(&mut peer, 5);
    for round in 0..2 {
        peer.open_channel(2);
        peer.prefetch(2, 10, false);
        let arguments = table(&[(TRACKING, FieldValue::Bool(true))]);
        peer.consume(2, &Consume { consumer_tag: "late", arguments, ..Consume::from(&stream) });
        if round == 0 {
            peer.expect_quiet(2);
            peer.close_channel(2);
            publish(&mut peer, &stream, "5");
        } else {
            assert_eq!(peer.messages(2, 1), ["5"]);
        }
    }
}

#[test]
fn what_is_given_back_comes_again() {
    let mut peer = broker().peer();
    let stream = stream(&mut peer, 12);
    read(&mut peer, 2, &stream, "app", &[(TRACKING, FieldValue::Bool(true))]);
    assert_eq!(peer.messages(2, 10), numbers(0..10));
    peer.send(2, &Method::BasicReject { delivery_tag: 5, requeue: true });
    ack(&mut peer, 2, 10, true);
    assert_eq!(peer.messages(2, 2), numbers(10..12), "not for this consumer");
    peer.close_channel(2);
    read(&mut peer, 2, &stream, "app", &[(TRACKING, FieldValue::Bool(true))]);
    assert_eq!(peer.messages(2, 8), numbers(4..12));
}

#[test]
fn one_consumer_of_a_group_is_active_and_the_next_takes_over() {
    let broker = Broker::start(Options::log());
    let (mut first, mut second) = (broker.peer(), broker.peer());
    let stream = stream(&mut first, 20);
    let group = [(SINGLE, FieldValue::Bool(true)), (NAME, text("group"))];
    read(&mut first, 2, &stream, "a", &group);
    assert_eq!(first.messages(2, 10), numbers(0..10));
    read(&mut second, 2, &stream, "b", &group);
    read(&mut second, 3, &stream, "c", &group);
    read(&mut second, 4, &stream, "d", &[(SINGLE, FieldValue::Bool(true))]);
    assert_eq!(second.messages(4, 1), numbers(0..1), "another group, by its tag");
    ack(&mut first, 2, 4, true);
    assert_eq!(first.messages(2, 4), numbers(10..14));
    second.expect_quiet(2);
    let shown = broker.ctl(&["list_consumers", "consumer_tag,active,activity_status"]);
    for line in ["a\ttrue\tsingle_active", "b\tfalse\twaiting", "c\tfalse\twaiting", "d\ttrue\tsingle_active"]
    {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    first.close();
    assert_eq!(second.messages(2, 10), numbers(4..14), "what the other had not settled comes, too");
    ack(&mut second, 2, 10, true);
    assert_eq!(second.messages(2, 6), numbers(14..20));
    second.send(2, &Method::BasicCancel { consumer_tag: "b", nowait: true });
    assert_eq!(second.messages(3, 6), numbers(14..20));
}

#[test]
fn names_that_cannot_be_are_refused() {
    let mut peer = broker().peer();
    let stream = stream(&mut peer, 0);
    let invalid = |name: &str, reason: &str| {
        format!("PRECONDITION_FAILED - invalid arg '{name}' for queue '{stream}' in vhost '/': {reason}")
    };
    peer.open_channel(2);
    peer.prefetch(2, 10, false);
    for (name, value, expected) in [
        (
            TRACKING,
            FieldValue::Bool(true),
            format!(
                "PRECONDITION_FAILED - consumer name is not set for stream queue '{stream}' in vhost '/': its offset \
                 is stored under its tag or 'x-stream-consumer-name'"
            ),
        ),
        (NAME, text(""), invalid(NAME, "\"expected 1 to 255 bytes, got 0\"")),
        (SINGLE, text("yes"), invalid(SINGLE, "{unacceptable_type,longstr}")),
    ] {
        let arguments = table(&[(name, value)]);
        let consume = Consume { arguments, ..Consume::from(&stream) };
        peer.refused(2, &consume.method(), 406, &expected);
        peer.prefetch(2, 10, false);
    }
}

#[test]
fn offsets_are_shown_and_forgotten() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let stream = stream(&mut peer, 5);
    read(&mut peer, 2, &stream, "app", &[(TRACKING, FieldValue::Bool(true))]);
    assert_eq!(peer.messages(2, 5), numbers(0..5));
    ack(&mut peer, 2, 2, true);
    peer.close_channel(2);
    number(&mut peer, &stream, "writer", &[7]);
    let listed = broker.ctl(&["list_stream_tracking", &stream]);
    assert_eq!(listed, "offset\tapp\t2\nwriter\twriter\t7\n");
    assert_eq!(broker.ctl(&["list_stream_tracking", &stream, "--writer"]), "writer\twriter\t7\n");
    broker.ctl(&["reset_offset", "--stream", &stream, "--reference", "app"]);
    assert_eq!(broker.ctl(&["list_stream_tracking", &stream, "--offset"]), "");
    let refused = broker.ctl_refused(&["reset_offset", "--stream", &stream, "--reference", "app"]);
    assert_eq!(refused, format!("no offset is stored for 'app' in stream '{stream}' in vhost '/'"));
    let refused = broker.ctl_refused(&["list_stream_tracking", "no"]);
    assert_eq!(refused, "no stream 'no' in vhost '/'");
    read(&mut peer, 2, &stream, "app", &[(TRACKING, FieldValue::Bool(true))]);
    assert_eq!(peer.messages(2, 1), numbers(0..1));
}

/// Publishes numbered messages as `publisher` on channel 8, and waits until they are confirmed.
fn number(peer: &mut Peer, stream: &str, publisher: &str, ids: &[i64]) {
    peer.open_channel(8);
    peer.select_confirms(8);
    for id in ids {
        let headers = Some(table(&[
            ("x-stream-publisher-reference", text(publisher)),
            ("x-stream-publishing-id", FieldValue::I64(*id)),
        ]));
        let (properties, body) = (Properties { headers, ..persistent() }, format!("{publisher}{id}"));
        peer.publish_with(8, &Publish { properties, body: body.as_bytes(), ..Publish::to("", stream) });
    }
    peer.confirmed_up_to(8, ids.len() as u64);
    peer.close_channel(8);
}

#[test]
fn what_is_published_twice_is_kept_once_also_after_a_crash() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let stream = stream(&mut peer, 0);
    number(&mut peer, &stream, "a", &[1, 2, 2, 3]);
    number(&mut peer, &stream, "b", &[2]);
    number(&mut peer, &stream, "a", &[2, 3, 10]);
    let expected = ["a1", "a2", "a3", "b2", "a10"];
    let there = |peer: &mut Peer, expected: &[&str]| {
        read(peer, 2, &stream, "t", &[]);
        assert_eq!(peer.messages(2, expected.len()), expected);
        peer.expect_quiet(2);
        peer.close_channel(2);
    };
    there(&mut peer, &expected);
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    number(&mut peer, &stream, "a", &[3, 10]);
    there(&mut peer, &expected);
    peer.close();
    broker.restart();
    let mut peer = broker.peer();
    number(&mut peer, &stream, "b", &[1, 2]);
    number(&mut peer, &stream, "a", &[9, 11]);
    there(&mut peer, &[&expected[..], &["a11"]].concat());
    // A queue beside the stream gets what is published, however often.
    let queue = peer.server_named(1);
    for name in [&stream, &queue] {
        peer.bind(1, name, "amq.fanout", "");
    }
    let headers = Some(table(&[
        ("x-stream-publisher-reference", text("a")),
        ("x-stream-publishing-id", FieldValue::I64(11)),
    ]));
    let properties = Properties { headers, ..persistent() };
    peer.publish_with(1, &Publish { properties, body: b"a11", ..Publish::to("amq.fanout", "") });
    assert_eq!(peer.get(1, &queue, true).expect("the message").text(), "a11");
    assert_eq!(peer.counts(1, &stream).0, 6);
}

#[test]
fn publishers_that_number_wrongly_are_refused() {
    let mut peer = broker().peer();
    let stream = stream(&mut peer, 0);
    let (reference, id) = ("x-stream-publisher-reference", "x-stream-publishing-id");
    let no_id = "PRECONDITION_FAILED - invalid header 'x-stream-publishing-id': expected an integer from 0 to \
                 9223372036854775807";
    let no_name = "PRECONDITION_FAILED - invalid header 'x-stream-publisher-reference': expected a long string of 1 \
                   to 255 bytes";
    for (headers, expected) in [
        (table(&[(reference, text("a"))]), no_id),
        (table(&[(reference, text("a")), (id, FieldValue::I64(-1))]), no_id),
        (table(&[(reference, text("a")), (id, text("1"))]), no_id),
        (table(&[(reference, text("")), (id, FieldValue::I64(1))]), no_name),
        (table(&[(reference, FieldValue::Void), (id, FieldValue::I64(1))]), no_name),
    ] {
        for transaction in [false, true] {
            peer.open_channel(2);
            if transaction {
                peer.send(2, &Method::TxSelect {});
                assert_eq!(peer.method(2).get(), Method::TxSelectOk {});
            }
            let properties = Properties { headers: Some(headers.clone()), ..persistent() };
            peer.publish_with(2, &Publish { properties, body: b"x", ..Publish::to("", &stream) });
            peer.expect_channel_close(2, 406, expected, (60, 40));
        }
    }
    assert_eq!(peer.counts(1, &stream).0, 0);
}
