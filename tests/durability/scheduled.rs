//! Messages that wait for a time, over restarts and SIGKILL: what was confirmed comes once it is due, and twice only if it
//! says so.
//!
//! Six cycles; 100 with `POSTHOUSE_LONG=1`.

use std::collections::HashSet;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{
    Broker, Consume, FieldValue, Options, Peer, Properties, Publish, Queue, TIMEOUT, table,
};

fn delayed(ms: u32) -> Properties {
    Properties { headers: Some(table([("x-delay", FieldValue::U32(ms))])), ..persistent() }
}

fn at(due_ms: u64) -> Properties {
    let headers = table([("x-deliver-at", FieldValue::I64(due_ms as i64))]);
    Properties { headers: Some(headers), ..persistent() }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn small_files() -> Options {
    Options::log()
        .set("POSTHOUSE__LOG__FILE_SIZE", "1MiB")
        .set("POSTHOUSE__LOG__FILES", "4")
        .set("POSTHOUSE__MEMORY__BUDGET", "16MiB")
}

fn publish(peer: &mut Peer, properties: Properties, body: &str) {
    peer.publish_with(1, &Publish { properties, body: body.as_bytes(), ..Publish::to("", "q") });
}

fn confirming(broker: &Broker) -> Peer {
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("q"));
    peer.select_confirms(1);
    peer
}

#[test]
fn they_wait_through_restarts_and_come_in_order() {
    let mut broker = Broker::start(Options::log());
    let mut peer = confirming(&broker);
    let delays = [3_000, 700, 1, 2_000, 350];
    for delay in delays {
        publish(&mut peer, delayed(delay), &delay.to_string());
    }
    let transient = Properties { delivery_mode: Some(1), ..delayed(500) };
    publish(&mut peer, transient, "not kept");
    let far = Properties { headers: Some(table([("x-delay", FieldValue::I64(1 << 38))])), ..persistent() };
    publish(&mut peer, far, "for years");
    peer.confirmed(1, 7);
    broker.stop();
    let report = broker.check();
    assert!(report.contains("\nof them scheduled for later: "), "{report}");
    assert!(!report.contains("undefined"), "{report}");
    broker.start_again();
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    peer.consume(1, &Consume::no_ack("q"));
    assert_eq!(peer.messages(1, 5), ["1", "350", "700", "2000", "3000"]);
    peer.expect_quiet(1);
}

#[test]
fn what_became_due_while_the_broker_was_down_comes_at_once_in_order() {
    const COUNT: u64 = 6_000;
    // Again if it took so long to publish them that some were due before.
    let (mut broker, mut expected) = loop {
        let broker = Broker::start(small_files());
        let mut peer = confirming(&broker);
        let base = now_ms() + 1_000;
        let due = |number: u64| base + number * 7_919 % 1_201;
        let mut out = Vec::new();
        for number in 0..COUNT {
            let body = format!("{} {number:0900}", due(number));
            let publish =
                Publish { properties: at(due(number)), body: body.as_bytes(), ..Publish::to("", "q") };
            publish.write(1, peer.frame_max, &mut out);
        }
        peer.send_bytes(&out);
        peer.confirmed_up_to(1, COUNT);
        if now_ms() < base {
            break (broker, (0..COUNT).map(|number| (due(number), number)).collect::<Vec<_>>());
        }
    };
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    peer.consume(1, &Consume::no_ack("q"));
    let all = peer.messages(1, expected.len());
    let parts = all.iter().map(|body| body.split_once(' ').unwrap());
    let came: Vec<(u64, u64)> =
        parts.map(|(due, number)| (due.parse().unwrap(), number.parse().unwrap())).collect();
    expected.sort_unstable();
    assert!(came == expected, "they come in another order");
    broker.stop();
    broker.check();
}

#[test]
fn a_crowded_slot_is_taken_apart_and_survives_that() {
    // More than is noted message by message.
    const COUNT: usize = 40;
    let mut broker = Broker::start(small_files());
    for killed_at in [0, 1, COUNT / 2] {
        let mut peer = confirming(&broker);
        // The beginning of a slot that is one second wide.
        let base = now_ms() / 1_024 * 1_024 + 2_048;
        for number in 0..COUNT as u64 {
            let due = base + number * 17 % 400;
            publish(&mut peer, at(due), &format!("{due}{}", " ".repeat(1_000_000)));
        }
        peer.confirmed(1, COUNT as u64);
        let patience = Instant::now() + TIMEOUT;
        while (peer.counts(1, "q").0 as usize) < killed_at {
            assert!(Instant::now() < patience, "nothing is handed over");
        }
        broker.kill();
        broker.check();
        broker.start_again();
        let mut peer = broker.peer();
        peer.consume(1, &Consume::no_ack("q"));
        let came: Vec<u64> =
            peer.messages(1, COUNT).iter().map(|body| body.trim().parse().unwrap()).collect();
        let mut expected: Vec<u64> = (0..COUNT as u64).map(|number| base + number * 17 % 400).collect();
        expected.sort_unstable();
        assert_eq!(came, expected);
        peer.expect_quiet(1);
    }
}

#[test]
fn killed_at_any_moment_it_loses_nothing() {
    let cycles = if std::env::var_os("POSTHOUSE_LONG").is_some() { 100 } else { 6 };
    let mut broker = Broker::start(small_files());
    let (mut next, mut random) = (0u64, 0x5c4ed);
    let mut random = move |below: u64| {
        random = u64::wrapping_mul(random, 6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for cycle in 0..cycles {
        let mut peer = confirming(&broker);
        let from = next;
        let wanted = 300 + random(1_500);
        let mut out = Vec::new();
        for number in from..from + wanted {
            let body = format!("{number:0600}");
            let properties = delayed(1 + random(700) as u32);
            let publish = Publish { properties, body: body.as_bytes(), ..Publish::to("", "q") };
            publish.write(1, peer.frame_max, &mut out);
        }
        peer.send_bytes(&out);
        next += wanted;
        let confirmed = 1 + random(wanted);
        peer.confirmed_up_to(1, confirmed);
        // Some time later, while messages are handed over.
        let handed_over = random(confirmed.min(200)) as u32;
        let mut other = broker.peer();
        let patience = Instant::now() + TIMEOUT;
        while other.counts(1, "q").0 < handed_over {
            assert!(Instant::now() < patience, "nothing is handed over");
        }
        broker.kill();
        if cycle % 2 == 0 {
            broker.check();
        }
        broker.start_again();
        collect(&broker, from, from + confirmed, next);
    }
    broker.stop();
    broker.check();
}

/// Takes all that comes from the queue: every message up to `confirmed`, and some of the others that were sent, each once.
fn collect(broker: &Broker, from: u64, confirmed: u64, sent: u64) {
    let mut peer = broker.peer();
    peer.consume(1, &Consume::no_ack("q"));
    // Nothing waits for longer than this one.
    publish(&mut peer, delayed(1_000), "last");
    let mut seen = HashSet::new();
    loop {
        let message = peer.message(1);
        let text = message.text();
        if text == "last" {
            break;
        }
        let number: u64 = text.parse().unwrap();
        assert!((from..sent).contains(&number), "{number} was not sent in this cycle");
        assert!(seen.insert(number), "{number} came twice");
    }
    let missing = (from..confirmed).filter(|number| !seen.contains(number)).count();
    assert_eq!(missing, 0, "of {} confirmed", confirmed - from);
}
