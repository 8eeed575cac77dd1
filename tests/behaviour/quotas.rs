//! Quotas hold publishers back and tell them nothing. Each test has a broker of its own.

use std::time::{Duration, Instant};

use posthouse_testkit::{Broker, Consume, Handshake, Options, Peer, Publish, Queue};

/// Polls until a connection is in that state.
fn await_state(broker: &Broker, peer: &Peer, expected: &str) {
    let name = peer.stream().local_addr().expect("connected").to_string();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let rows = broker.ctl(&["list_connections", "-s", "name", "state"]);
        let state = rows.lines().find(|row| row.starts_with(&name)).and_then(|row| row.split('\t').nth(1));
        if state == Some(expected) {
            return;
        }
        assert!(Instant::now() < deadline, "expected {name} to be {expected}, got {state:?} in {rows}");
    }
}

#[test]
fn messages_per_second_of_a_virtual_host() {
    let broker = Broker::start(Options::log());
    let (mut peer, mut watcher) = (broker.peer(), broker.peer());
    let queue = watcher.declare(1, &Queue::named("q")).0;
    broker.ctl(&["set_vhost_limits", r#"{"max-publish-messages-per-second":1000}"#]);
    let began = Instant::now();
    for _ in 0..2000 {
        peer.publish(1, "", &queue, "m");
    }
    // What one second brings is free, and the second thousand is waited for before anything more is read.
    watcher.await_counts(1, &queue, (2000, 0));
    peer.publish(1, "", &queue, "m");
    watcher.await_counts(1, &queue, (2001, 0));
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
}

#[test]
fn a_quota_is_changed_while_it_is_used_up() {
    let broker = Broker::start(Options::log());
    let (mut peer, mut consumer, mut other) = (broker.peer(), broker.peer(), broker.peer());
    let queue = consumer.declare(1, &Queue::named("q")).0;
    broker.ctl(&["set_vhost_limits", r#"{"max-publish-messages-per-second":1}"#]);
    consumer.consume(1, &Consume::no_ack(&queue));
    for _ in 0..1000 {
        peer.publish(1, "", &queue, "m");
    }
    await_state(&broker, &peer, "throttled");
    // Who publishes nothing is read from as ever.
    other.server_named(1);
    await_state(&broker, &other, "running");
    await_state(&broker, &consumer, "running");
    broker.ctl(&["clear_vhost_limits"]);
    assert_eq!(consumer.messages(1, 1000).len(), 1000);
    await_state(&broker, &peer, "running");
}

#[test]
fn bytes_per_second_of_a_user_on_all_connections() {
    let broker = Broker::start(Options::log());
    broker.ctl(&["add_user", "other", "pw"]);
    broker.ctl(&["set_permissions", "other", ".*", ".*", ".*"]);
    let (mut first, mut second) = (broker.peer(), broker.peer());
    let mut other = broker.peer_with(&Handshake::plain("other", "pw"));
    let queue = other.declare(1, &Queue::named("q")).0;
    broker.ctl(&["set_user_limits", "guest", r#"{"max-publish-bytes-per-second":1000}"#]);
    first.publish_with(1, &Publish { body: &[b'x'; 100_000], ..Publish::to("", &queue) });
    other.await_counts(1, &queue, (1, 0));
    second.publish(1, "", &queue, "read, and charged to the same user");
    other.await_counts(1, &queue, (2, 0));
    await_state(&broker, &first, "throttled");
    await_state(&broker, &second, "throttled");
    for count in 3..=12 {
        other.publish(1, "", &queue, "of another user");
        assert_eq!(other.counts(1, &queue), (count, 0));
    }
    broker.ctl(&["clear_user_limits", "guest", "max-publish-bytes-per-second"]);
    for peer in [&mut first, &mut second] {
        peer.publish(1, "", &queue, "again");
    }
    other.await_counts(1, &queue, (14, 0));
}

#[test]
fn bytes_stored_in_a_virtual_host() {
    let broker = Broker::start(Options::log());
    let (mut peer, mut consumer) = (broker.peer(), broker.peer());
    let queue = consumer.server_named(1);
    broker.ctl(&["set_vhost_limits", r#"{"max-stored-bytes":1000000}"#]);
    peer.publish_with(1, &Publish { body: &vec![b'x'; 1_000_001], ..Publish::to("", &queue) });
    consumer.await_counts(1, &queue, (1, 0));
    await_state(&broker, &peer, "throttled");
    peer.publish(1, "", &queue, "when there is room");
    consumer.expect_quiet(1);
    assert_eq!(consumer.counts(1, &queue), (1, 0));
    assert!(consumer.get(1, &queue, true).is_some());
    consumer.await_counts(1, &queue, (1, 0));
    await_state(&broker, &peer, "running");
}

#[test]
fn states_of_alarms() {
    let broker = Broker::start(Options::log().set("POSTHOUSE__MEMORY__WATERMARK", "16MiB"));
    let (mut peer, idle) = (broker.peer(), broker.peer());
    let queue = peer.server_named(1);
    await_state(&broker, &peer, "running");
    peer.publish_with(1, &Publish { body: &vec![1; 16 << 20], ..Publish::to("", &queue) });
    await_state(&broker, &peer, "blocked");
    await_state(&broker, &idle, "blocking");
    broker.ctl(&["purge_queue", &queue]);
    await_state(&broker, &peer, "running");
    await_state(&broker, &idle, "running");
}
