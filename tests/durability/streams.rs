//! Streams outlive restarts and crashes, read from anywhere in little memory, and give back what they no longer keep.

use std::time::Instant;

use posthouse_testkit::{
    Broker, Consume, FieldTable, FieldValue, Method, Options, Peer, Properties, Publish, Queue, TIMEOUT, text,
};

const BODY_BYTES: usize = 120;

fn options() -> Options {
    Options::log()
        .set("POSTHOUSE__MEMORY__BUDGET", "16MiB")
        .set("POSTHOUSE__LOG__FILE_SIZE", "1MiB")
        .set("POSTHOUSE__LOG__FILES", "4")
}

fn declare(peer: &mut Peer, name: &str, arguments: &[(&str, FieldValue)]) {
    let mut entries = vec![("x-queue-type".to_owned(), text("stream"))];
    entries.extend(arguments.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    peer.declare(1, &Queue { arguments: FieldTable(entries), ..Queue::durable(name) });
}

fn body(number: u64) -> Vec<u8> {
    let mut body = number.to_string().into_bytes();
    body.resize(BODY_BYTES, b'.');
    body
}

fn number_of(body: &[u8]) -> u64 {
    std::str::from_utf8(body).expect("text").trim_end_matches('.').parse().expect("a number")
}

/// Publishes `from..to`, transient, on a channel of their own, and waits until they are confirmed.
fn publish(peer: &mut Peer, stream: &str, from: u64, to: u64) {
    peer.open_channel(8);
    peer.select_confirms(8);
    for numbers in (from..to).collect::<Vec<_>>().chunks(500) {
        let mut out = Vec::new();
        for &number in numbers {
            let (properties, body) =
                (Properties { delivery_mode: Some(1), ..Properties::default() }, body(number));
            Publish { properties, body: &body, ..Publish::to("", stream) }.write(8, peer.frame_max, &mut out);
        }
        peer.send_bytes(&out);
    }
    peer.confirmed_up_to(8, to - from);
    peer.close_channel(8);
}

/// Starts a reader on a channel of its own.
fn start(peer: &mut Peer, channel: u16, stream: &str, offset: FieldValue) {
    peer.open_channel(channel);
    peer.prefetch(channel, 1_000, false);
    let arguments = FieldTable(vec![("x-stream-offset".into(), offset)]);
    peer.consume(channel, &Consume { arguments, ..Consume::from(stream) });
}

/// Takes the numbers `from..to` at their offsets, acknowledging every 500th with all before it.
fn take(peer: &mut Peer, channel: u16, from: u64, to: u64) {
    for number in from..to {
        let message = peer.message(channel);
        let headers = message.properties().headers.expect("headers");
        let offset = headers.get("x-stream-offset").and_then(FieldValue::as_int);
        assert_eq!((number_of(&message.body), offset), (number, Some(number as i64)));
        if message.tag.is_multiple_of(500) {
            peer.send(channel, &Method::BasicAck { delivery_tag: message.tag, multiple: true });
        }
    }
}

#[test]
fn a_long_stream_is_read_from_anywhere_before_and_after_restarts() {
    const MESSAGES: u64 = 150_000;
    let mut broker = Broker::start(options());
    let mut peer = broker.peer();
    declare(&mut peer, "s", &[]);
    publish(&mut peer, "s", 0, MESSAGES);
    let mut end = MESSAGES;
    for time in 0..2 {
        for (channel, from) in [(2, 0), (3, end / 2), (4, end - 10)] {
            start(&mut peer, channel, "s", FieldValue::I64(from as i64));
        }
        // Slow readers do not keep others back.
        take(&mut peer, 4, end - 10, end);
        take(&mut peer, 3, end / 2, end);
        publish(&mut peer, "s", end, end + 100);
        for (channel, from) in [(2, 0), (3, end), (4, end)] {
            take(&mut peer, channel, from, end + 100);
        }
        end += 100;
        let resident = broker.process().resident_bytes();
        assert!(resident < 110 << 20, "{resident} bytes are resident");
        peer.close();
        if time == 0 {
            broker.stop();
            let report = broker.check();
            assert!(report.contains(&format!("messages: {end}\n")), "{report}");
            broker.start_again();
        } else {
            broker.kill();
            broker.check();
            broker.start_again();
        }
        peer = broker.peer();
        assert_eq!(peer.counts(1, "s"), (end as u32, 0));
    }
    start(&mut peer, 2, "s", text("1h"));
    take(&mut peer, 2, 0, end);
    start(&mut peer, 3, "s", FieldValue::Timestamp(4_000_000_000));
    publish(&mut peer, "s", end, end + 1);
    take(&mut peer, 3, end, end + 1);
}

#[test]
fn space_is_given_back_and_the_rest_stays_where_it_was() {
    const MESSAGES: u64 = 200_000;
    let mut broker = Broker::start(options());
    let mut peer = broker.peer();
    let limits = [
        ("x-max-length-bytes", FieldValue::I64(4 << 20)),
        ("x-stream-max-segment-size-bytes", FieldValue::I64(1 << 20)),
    ];
    declare(&mut peer, "s", &limits);
    declare(&mut peer, "other", &[]);
    publish(&mut peer, "s", 0, MESSAGES);
    let (kept, _) = peer.counts(1, "s");
    // A record is the body and some 50 bytes.
    assert!((15_000..40_000).contains(&kept), "{kept} messages are kept");
    let patience = Instant::now() + TIMEOUT;
    let mut other = 0;
    loop {
        // Files go with the next checkpoint, and those come with use of the log.
        publish(&mut peer, "other", other, other + 1000);
        other += 1000;
        let bytes = directory_bytes(&broker, "segments");
        if bytes < (24 << 20) + other * 400 {
            break;
        }
        assert!(Instant::now() < patience, "segments take {bytes} bytes");
    }
    let first = MESSAGES - u64::from(kept);
    for restart in [true, false] {
        start(&mut peer, 2, "s", text("first"));
        take(&mut peer, 2, first, MESSAGES);
        peer.close();
        if restart {
            broker.restart();
        }
        peer = broker.peer();
    }
}

fn directory_bytes(broker: &Broker, name: &str) -> u64 {
    let entries = std::fs::read_dir(broker.data_dir().join(name)).expect("a directory");
    entries.map(|entry| entry.expect("an entry").metadata().map_or(0, |metadata| metadata.len())).sum()
}

/// SIGKILL while messages are published and read: what was confirmed is there, at the offset at which it was read.
#[test]
fn kills_lose_nothing_that_was_confirmed() {
    let cycles = if std::env::var_os("POSTHOUSE_LONG").is_some() { 100 } else { 4 };
    let mut broker = Broker::start(options());
    let mut peer = broker.peer();
    declare(&mut peer, "s", &[]);
    peer.close();
    // The numbers that are known to be there, each at its offset.
    let mut known: Vec<u64> = Vec::new();
    let mut next = 0;
    for cycle in 0..cycles {
        let mut peer = broker.peer();
        peer.open_channel(8);
        peer.select_confirms(8);
        start(&mut peer, 2, "s", FieldValue::I64(known.len() as i64));
        let mut confirmed = 0;
        // Another number of batches each time, and the last are not waited for.
        let batches = 20 + cycle * 7 % 31;
        for batch in 0..batches {
            let mut out = Vec::new();
            for _ in 0..200 {
                let body = body(next);
                Publish { body: &body, ..Publish::to("", "s") }.write(8, peer.frame_max, &mut out);
                next += 1;
            }
            peer.send_bytes(&out);
            if batch + 3 < batches {
                confirmed += 200;
                peer.confirmed_up_to(8, confirmed);
            }
        }
        let mut read = Vec::new();
        while read.len() < confirmed as usize {
            let message = peer.message(2);
            read.push(number_of(&message.body));
            if message.tag.is_multiple_of(500) {
                peer.send(2, &Method::BasicAck { delivery_tag: message.tag, multiple: true });
            }
        }
        broker.kill();
        broker.check();
        broker.start_again();
        // The first of what was read were confirmed; those after them may be gone.
        known.extend(&read[..confirmed as usize]);
        let mut peer = broker.peer();
        let (count, _) = peer.counts(1, "s");
        assert!(count as usize >= known.len(), "{count} messages are left of {}", known.len());
        start(&mut peer, 3, "s", text("first"));
        let mut there = Vec::new();
        while there.len() < count as usize {
            let message = peer.message(3);
            there.push(number_of(&message.body));
            if message.tag.is_multiple_of(500) {
                peer.send(3, &Method::BasicAck { delivery_tag: message.tag, multiple: true });
            }
        }
        assert!(there.starts_with(&known), "what was confirmed is where it was");
        assert!(there.is_sorted_by(|a, b| a < b), "no message is there twice, nor out of order");
        known = there;
        peer.close();
    }
}
