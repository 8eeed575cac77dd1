//! Counts of deliveries across restarts: they go on, and what has left stays away.

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{Broker, FieldValue, Method, Options, Peer, Publish, Queue, table};

use super::sync;

fn declare(peer: &mut Peer) {
    let arguments = table([("x-delivery-limit", FieldValue::I32(3))]);
    peer.declare(1, &Queue { arguments, ..Queue::durable("q") });
}

fn publish(peer: &mut Peer, bodies: &[&str]) {
    peer.select_confirms(1);
    for body in bodies {
        peer.publish_with(
            1,
            &Publish { properties: persistent(), body: body.as_bytes(), ..Publish::to("", "q") },
        );
    }
    peer.confirmed(1, bodies.len() as u64);
}

/// Takes what is ready, and what came of it before: body and `x-delivery-count`.
fn take(peer: &mut Peer) -> (Vec<(String, i64)>, u64) {
    let mut taken = Vec::new();
    let mut last = 0;
    while let Some(message) = peer.get(1, "q", false) {
        let headers = message.properties().headers.unwrap_or_default();
        let count = headers.get("x-delivery-count").and_then(FieldValue::as_int).unwrap_or(0);
        taken.push((message.text(), count));
        last = message.tag;
    }
    (taken, last)
}

fn requeue(peer: &mut Peer, delivery_tag: u64, multiple: bool) {
    peer.send(1, &Method::BasicNack { delivery_tag, multiple, requeue: true });
}

fn counted(pairs: &[(&str, i64)]) -> Vec<(String, i64)> {
    pairs.iter().map(|&(body, count)| (body.to_owned(), count)).collect()
}

/// `kill` and a clean stop, in turn: the log tells of the first, the checkpoint of the second.
#[test]
fn counts_go_on_after_a_kill_and_after_a_stop() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    declare(&mut peer);
    publish(&mut peer, &["a", "b", "c"]);
    let (taken, last) = take(&mut peer);
    assert_eq!(taken, counted(&[("a", 0), ("b", 0), ("c", 0)]));
    requeue(&mut peer, last, true);
    let (_, last) = take(&mut peer);
    requeue(&mut peer, last, false);
    peer.ack(1, last - 2);
    sync(&mut peer);
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    let (taken, last) = take(&mut peer);
    // The one that was handed out when the broker was killed has not come back by then.
    assert_eq!(taken, counted(&[("b", 1), ("c", 2)]));
    requeue(&mut peer, last, true);
    sync(&mut peer);
    drop(peer);
    broker.restart();
    let mut peer = broker.peer();
    let (taken, last) = take(&mut peer);
    assert_eq!(taken, counted(&[("b", 2), ("c", 3)]));
    requeue(&mut peer, last, true);
    sync(&mut peer);
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    assert_eq!(take(&mut peer).0, counted(&[("b", 3)]), "the other one has failed too often");
}
