//! Length limits across a crash: what was dropped stays dropped, and the limits hold for what was found on disk.

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{Broker, FieldValue, Options, Peer, Publish, Queue, table};

fn declare(peer: &mut Peer, name: &str, argument: &str, limit: i64) {
    let arguments = table([(argument, FieldValue::I64(limit))]);
    peer.declare(1, &Queue { arguments, ..Queue::durable(name) });
}

fn publish(peer: &mut Peer, queue: &str, bodies: &[String]) {
    peer.open_channel(9);
    peer.select_confirms(9);
    for body in bodies {
        peer.publish_with(
            9,
            &Publish { properties: persistent(), body: body.as_bytes(), ..Publish::to("", queue) },
        );
    }
    peer.confirmed(9, bodies.len() as u64);
    peer.close_channel(9);
}

#[test]
fn what_was_dropped_does_not_come_back() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    declare(&mut peer, "short", "x-max-length", 5);
    let bodies: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    publish(&mut peer, "short", &bodies);
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    declare(&mut peer, "short", "x-max-length", 5);
    publish(&mut peer, "short", &["new".to_owned()]);
    assert_eq!(peer.drain(1, "short"), ["96", "97", "98", "99", "new"]);
}

#[test]
fn bytes_on_disk_count_after_a_restart() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    declare(&mut peer, "bytes", "x-max-length-bytes", 6_000_000);
    let bodies: Vec<String> = (0..50).map(|number| format!("{number:>050000}").repeat(2)).collect();
    publish(&mut peer, "bytes", &bodies);
    peer.close();
    broker.restart();
    let mut peer = broker.peer();
    assert_eq!(peer.counts(1, "bytes").0, 50);
    publish(&mut peer, "bytes", &bodies[..20]);
    peer.await_counts(1, "bytes", (60, 0));
    assert_eq!(peer.get(1, "bytes", true).map(|got| got.body), Some(bodies[10].clone().into_bytes()));
}
