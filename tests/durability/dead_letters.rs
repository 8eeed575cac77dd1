//! SIGKILL while messages are dead-lettered: what was confirmed is in the one queue or in the other, and in both only
//! if it says that it may have been seen before.
//!
//! Six cycles; 100 with `POSTHOUSE_LONG=1`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use posthouse_amqp::method::write_method;
use posthouse_testkit::calls::persistent;
use posthouse_testkit::peer::Arrival;
use posthouse_testkit::{
    Broker, Consume, FieldValue, Handshake, Method, Options, Peer, Publish, Queue, TIMEOUT, table, text,
};

/// Publishes that may wait for their confirms.
const WINDOW: u64 = 200;

fn arguments(more: &[(&str, FieldValue)]) -> posthouse_testkit::FieldTable {
    let mut arguments =
        table([("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text("grave"))]);
    arguments.0.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    arguments
}

#[test]
fn the_rejected_are_here_or_there() {
    cycles(&[], true, 0xdead);
}

#[test]
fn those_that_are_too_many_are_here_or_there() {
    cycles(&[("x-max-length", FieldValue::I32(20))], false, 0xbeef);
}

#[test]
fn what_a_command_moves_is_here_or_there() {
    let options = Options::log().set("POSTHOUSE__LOG__FILE_SIZE", "1MiB").set("POSTHOUSE__LOG__FILES", "4");
    let mut broker = Broker::start(options);
    for (round, killed_at) in [1u32, 700, 1900].into_iter().enumerate() {
        let mut peer = broker.peer();
        let (work, grave) = (format!("work{round}"), format!("grave{round}"));
        for queue in [&work, &grave] {
            peer.declare(1, &Queue::durable(queue));
        }
        peer.select_confirms(1);
        for number in 0..2_000 {
            let body = format!("{number:0900}");
            let publish =
                Publish { properties: persistent(), body: body.as_bytes(), ..Publish::to("", &work) };
            peer.publish_with(1, &publish);
        }
        peer.confirmed(1, 2_000);
        let mut moving = posthouse_testkit::broker::program();
        moving.args(["ctl", "-s", "--data-dir"]).arg(broker.data_dir());
        moving.args(["move_messages", &work, &grave, "--rate", "2000"]).stderr(std::process::Stdio::null());
        let mut moving = moving.spawn().expect("posthouse ctl");
        let patience = Instant::now() + TIMEOUT;
        while peer.counts(1, &grave).0 < killed_at {
            assert!(Instant::now() < patience, "nothing is moved");
        }
        broker.kill();
        moving.wait().expect("posthouse ctl ends");
        broker.start_again();
        let mut peer = broker.peer();
        let mut found: Vec<(u64, bool)> = Vec::new();
        for queue in [&work, &grave] {
            for message in std::iter::from_fn(|| peer.get(1, queue, true)) {
                found.push((message.text().parse().expect("a number"), message.redelivered));
            }
        }
        found.sort_unstable();
        assert!(found.windows(2).all(|pair| pair[0].0 != pair[1].0 || (pair[0].1 && pair[1].1)));
        found.dedup_by_key(|found| found.0);
        assert_eq!(found.len(), 2_000);
    }
}

fn cycles(more: &[(&str, FieldValue)], consumed: bool, seed: u64) {
    let cycles = if std::env::var_os("POSTHOUSE_LONG").is_some() { 50 } else { 3 };
    let options = Options::log()
        .set("POSTHOUSE__LOG__FILE_SIZE", "1MiB")
        .set("POSTHOUSE__LOG__FILES", "4")
        .set("POSTHOUSE__MEMORY__BUDGET", "16MiB");
    let mut broker = Broker::start(options);
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("grave"));
    peer.declare(1, &Queue { arguments: arguments(more), ..Queue::durable("work") });
    peer.close();
    let (mut next, mut random) = (0, seed);
    for cycle in 0..cycles {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let confirmed = run_and_kill(&mut broker, consumed, (random >> 33) % 5_000 + 200, &mut next);
        if cycle % 2 == 0 {
            broker.check();
        }
        broker.start_again();
        inspect(&broker, &confirmed);
    }
    broker.stop();
    broker.check();
}

/// Publishes, and has everything rejected if `consumed`, until so many messages were confirmed; those.
fn run_and_kill(broker: &mut Broker, consumed: bool, events: u64, next: &mut u64) -> Vec<u64> {
    let address = broker.address();
    let (progress, happened) = channel();
    let from = *next;
    // Set up before anything happens, because the broker may be killed soon after.
    let consumer = consumed.then(|| consumer_of_all(address)).map(|peer| thread::spawn(|| reject_all(peer)));
    let publisher = thread::spawn(move || publish(address, from, &progress));
    wait_for(&happened, events);
    broker.kill();
    let (to, confirmed) = publisher.join().expect("the publisher");
    if let Some(consumer) = consumer {
        consumer.join().expect("the consumer");
    }
    *next = to;
    confirmed
}

fn wait_for(happened: &Receiver<()>, events: u64) {
    for _ in 0..events {
        happened.recv_timeout(TIMEOUT).expect("progress");
    }
}

/// Publishes numbers from `from` on until the broker is gone: the number after the last one, and those confirmed.
fn publish(address: SocketAddr, from: u64, progress: &Sender<()>) -> (u64, Vec<u64>) {
    let mut peer = Peer::open(address, &Handshake::default());
    peer.open_channel(1);
    peer.select_confirms(1);
    let (mut sent, mut confirmed, mut upto) = (0, Vec::new(), 0);
    loop {
        let mut batch = Vec::new();
        while sent < upto + WINDOW {
            let body = format!("{:0400}", from + sent);
            let publish =
                Publish { properties: persistent(), body: body.as_bytes(), ..Publish::to("", "work") };
            publish.write(1, 131_072, &mut batch);
            sent += 1;
        }
        if !peer.try_send_bytes(&batch) {
            return (from + sent, confirmed);
        }
        match peer.arrival(TIMEOUT) {
            Arrival::Frame(frame) => match Method::decode(&frame.payload) {
                Ok(Method::BasicAck { delivery_tag, multiple }) => {
                    let first = if multiple { upto + 1 } else { delivery_tag };
                    for tag in first..=delivery_tag {
                        confirmed.push(from + tag - 1);
                        let _ = progress.send(());
                    }
                    upto = upto.max(delivery_tag);
                }
                other => panic!("expected a confirm, got {other:?}"),
            },
            _ => return (from + sent, confirmed),
        }
    }
}

fn consumer_of_all(address: SocketAddr) -> Peer {
    let mut peer = Peer::open(address, &Handshake::default());
    peer.open_channel(1);
    peer.prefetch(1, 100, false);
    peer.consume(1, &Consume::from("work"));
    peer
}

/// Rejects everything in `work` until the broker is gone.
fn reject_all(mut peer: Peer) {
    loop {
        let Arrival::Frame(frame) = peer.arrival(TIMEOUT) else { return };
        if let Ok(Method::BasicDeliver { delivery_tag, .. }) = Method::decode(&frame.payload) {
            let mut nack = Vec::new();
            write_method(&mut nack, 1, &Method::BasicNack { delivery_tag, multiple: false, requeue: false });
            if !peer.try_send_bytes(&nack) {
                return;
            }
        }
    }
}

/// Takes everything that is left, and compares.
fn inspect(broker: &Broker, confirmed: &[u64]) {
    // What was too many before the crash is so again.
    let patience = Instant::now() + TIMEOUT;
    while !broker.ctl(&["list_queues", "name,messages_dlx"]).contains("work\t0\n") {
        assert!(Instant::now() < patience, "messages go on leaving");
    }
    let mut peer = broker.peer();
    let mut found: HashMap<u64, Vec<(&str, bool)>> = HashMap::new();
    for queue in ["work", "grave"] {
        for message in std::iter::from_fn(|| peer.get(1, queue, true)) {
            let number = message.text().trim_start_matches('0').parse().unwrap_or(0);
            found.entry(number).or_default().push((queue, message.redelivered));
        }
    }
    for number in confirmed {
        assert!(found.contains_key(number), "{number} was confirmed and is gone");
    }
    for (number, places) in found.iter().filter(|(_, places)| places.len() > 1) {
        assert!(places.iter().all(|(_, redelivered)| *redelivered), "{number} is in {places:?}");
    }
}
