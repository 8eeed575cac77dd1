//! Delayed messages across restarts: all are there, each once, with what is known of their failures.

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{Broker, FieldValue, Method, Options, Peer, Publish, Queue, table, text};

const MESSAGES: u64 = 300;

fn declare(peer: &mut Peer, kind: &str) {
    let arguments = table([
        ("x-queue-type", text(kind)),
        ("x-delayed-retry-type", text("all")),
        ("x-delayed-retry-min", FieldValue::I32(3_600_000)),
    ]);
    peer.declare(1, &Queue { arguments, ..Queue::durable(kind) });
}

/// Whatever was staged before is on disk when this returns.
fn sync(peer: &mut Peer) {
    peer.open_channel(2);
    peer.declare(2, &Queue::durable("other"));
    peer.select_confirms(2);
    peer.publish_with(2, &Publish { properties: persistent(), ..Publish::to("", "other") });
    peer.confirmed(2, 1);
}

/// Publishes messages, of which every third is acknowledged, every third fails and the others stay.
fn fill(peer: &mut Peer, queue: &str) {
    peer.select_confirms(1);
    for number in 0..MESSAGES {
        let body = number.to_string();
        let (properties, body) = (persistent(), body.as_bytes());
        peer.publish_with(1, &Publish { properties, body, ..Publish::to("", queue) });
    }
    peer.confirmed(1, MESSAGES);
    for number in 0..MESSAGES {
        let delivery_tag = peer.get(1, queue, false).unwrap().tag;
        match number % 3 {
            0 => peer.ack(1, delivery_tag),
            1 => peer.send(1, &Method::BasicNack { delivery_tag, multiple: false, requeue: true }),
            _ => {}
        }
    }
    assert_eq!(peer.counts(1, queue), (0, 0));
}

#[test]
fn a_kill_loses_none() {
    for kind in ["classic", "quorum"] {
        let mut broker = Broker::start(Options::log());
        let mut peer = broker.peer();
        declare(&mut peer, kind);
        fill(&mut peer, kind);
        sync(&mut peer);
        broker.kill();
        broker.start_again();
        let mut peer = broker.peer();
        let mut found = Vec::new();
        while let Some(message) = peer.get(1, kind, true) {
            let headers = message.properties().headers.unwrap_or_default();
            let failed = headers.get("x-delivery-count").and_then(FieldValue::as_int).unwrap_or(0);
            assert!(message.redelivered);
            found.push((message.text().parse::<u64>().unwrap(), failed));
        }
        let expected =
            (0..MESSAGES).filter(|number| number % 3 > 0).map(|number| (number, i64::from(number % 3 == 1)));
        assert_eq!(found, expected.collect::<Vec<_>>());
        assert!(broker.ctl(&["list_queues", "messages_delayed"]).lines().all(|count| count == "0"));
    }
}
