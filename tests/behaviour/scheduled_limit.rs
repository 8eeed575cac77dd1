//! The limit of a virtual host's messages that wait for a time. Each test has a broker of its own.

use posthouse_testkit::{
    Broker, Consume, FieldValue, Method, Options, Peer, Properties, Publish, Queue, table,
};

fn publish(peer: &mut Peer, queue: &str, delay_ms: i32, body: &str) {
    let headers = Some(table([("x-delay", FieldValue::I32(delay_ms))]));
    let properties = Properties { headers, delivery_mode: Some(2), ..Properties::default() };
    peer.publish_with(1, &Publish { properties, body: body.as_bytes(), ..Publish::to("", queue) });
}

/// What became of every publish up to `last`: the numbers of those that were refused.
fn refused(peer: &mut Peer, first: u64, last: u64) -> Vec<u64> {
    let mut open: std::collections::BTreeSet<u64> = (first..=last).collect();
    let mut refused = Vec::new();
    while !open.is_empty() {
        let method = peer.method(1);
        let (tag, multiple, is_refused) = match method.get() {
            Method::BasicAck { delivery_tag, multiple } => (delivery_tag, multiple, false),
            Method::BasicNack { delivery_tag, multiple, .. } => (delivery_tag, multiple, true),
            other => panic!("expected a confirm, got {other:?}"),
        };
        let told: Vec<u64> = if multiple {
            open.range(..=tag).copied().collect()
        } else {
            open.take(&tag).into_iter().collect()
        };
        for number in told {
            open.remove(&number);
            if is_refused {
                refused.push(number);
            }
        }
    }
    refused.sort_unstable();
    refused
}

fn waiting(broker: &Broker) -> String {
    broker.ctl(&["list_vhosts", "-s", "messages_scheduled"]).trim().to_owned()
}

#[test]
fn what_is_beyond_the_limit_is_refused() {
    let mut broker = Broker::start(Options::log());
    broker.ctl(&["set_vhost_limits", r#"{"max-scheduled-messages":5}"#]);
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("q"));
    peer.select_confirms(1);
    // They are due at very different times, and come at once.
    for number in 0..8 {
        publish(&mut peer, "q", 100_000 << (2 * number), &number.to_string());
    }
    assert_eq!(refused(&mut peer, 1, 8), [6, 7, 8]);
    assert_eq!(waiting(&broker), "5");
    // Others are not concerned.
    peer.publish(1, "", "q", "now");
    assert!(refused(&mut peer, 9, 9).is_empty());
    // One that leaves makes room for one.
    let listed = broker.ctl(&["list_scheduled", "-s", "--count", "1", "id"]);
    broker.ctl(&["cancel_scheduled", "--id", listed.trim()]);
    publish(&mut peer, "q", 600_000, "again");
    publish(&mut peer, "q", 600_000, "too many");
    assert_eq!(refused(&mut peer, 10, 11), [11]);
    // A restart changes nothing, and neither is anything lost by a lower limit.
    broker.kill();
    broker.start_again();
    assert_eq!(waiting(&broker), "5");
    broker.ctl(&["set_vhost_limits", r#"{"max-scheduled-messages":2}"#]);
    assert_eq!(waiting(&broker), "5");
    let mut peer = broker.peer();
    peer.select_confirms(1);
    publish(&mut peer, "q", 600_000, "refused");
    assert_eq!(refused(&mut peer, 1, 1), [1]);
    broker.ctl(&["clear_vhost_limits"]);
    publish(&mut peer, "q", 600_000, "taken");
    assert!(refused(&mut peer, 2, 2).is_empty());
    assert_eq!(waiting(&broker), "6");
}

#[test]
fn many_at_once_are_refused_exactly() {
    let broker = Broker::start(Options::log());
    broker.ctl(&["set_vhost_limits", r#"{"max-scheduled-messages":1000}"#]);
    let mut peer = broker.peer();
    let queue = peer.server_named(1);
    peer.select_confirms(1);
    for _ in 0..1_500 {
        publish(&mut peer, &queue, 3_600_000, "m");
    }
    assert_eq!(refused(&mut peer, 1, 1_500), (1_001..=1_500).collect::<Vec<_>>());
    assert_eq!(waiting(&broker), "1000");
}

#[test]
fn what_is_due_comes_though_there_is_no_room() {
    let broker = Broker::start(Options::log());
    broker.ctl(&["set_vhost_limits", r#"{"max-scheduled-messages":2}"#]);
    let mut peer = broker.peer();
    let queue = peer.server_named(1);
    publish(&mut peer, &queue, 100, "first");
    publish(&mut peer, &queue, 200, "second");
    // What comes with one read is handed over by when it is due.
    peer.counts(1, &queue);
    publish(&mut peer, &queue, 100, "dropped without a word");
    peer.open_channel(2);
    peer.consume(2, &Consume::no_ack(&queue));
    assert_eq!(peer.messages(2, 2), ["first", "second"]);
    publish(&mut peer, &queue, 1, "third");
    assert_eq!(peer.messages(2, 1), ["third"]);
}

#[test]
fn a_transaction_with_one_that_is_refused_fails() {
    let broker = Broker::start(Options::log());
    broker.ctl(&["set_vhost_limits", r#"{"max-scheduled-messages":0}"#]);
    let mut peer = broker.peer();
    let queue = peer.server_named(1);
    peer.call(1, &Method::TxSelect {});
    publish(&mut peer, &queue, 600_000, "m");
    peer.refused(1, &Method::TxCommit {}, 406, "PRECONDITION_FAILED - partial tx completion");
    assert_eq!(waiting(&broker), "0");
}
