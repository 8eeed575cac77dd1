//! Quotas hold publishers back and tell them nothing. Each test has a broker of its own.

use std::time::{Duration, Instant};

use posthouse_testkit::{
    Broker, Consume, FieldValue, Handshake, Method, Options, Peer, Properties, Publish, Queue, table, text,
};

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
fn bytes_stored_of_a_user() {
    let broker = Broker::start(Options::log());
    broker.ctl(&["add_user", "other", "pw"]);
    broker.ctl(&["set_permissions", "other", ".*", ".*", ".*"]);
    let mut peer = broker.peer();
    let mut other = broker.peer_with(&Handshake::plain("other", "pw"));
    let queue = other.server_named(1);
    // What was stored before there was a limit counts.
    peer.publish_with(1, &Publish { body: &vec![b'x'; 600_000], ..Publish::to("", &queue) });
    other.publish_with(1, &Publish { body: &vec![b'x'; 2_000_000], ..Publish::to("", &queue) });
    other.await_counts(1, &queue, (2, 0));
    broker.ctl(&["set_user_limits", "guest", r#"{"max-stored-bytes":1000000}"#]);
    peer.publish_with(1, &Publish { body: &vec![b'x'; 400_000], ..Publish::to("", &queue) });
    other.await_counts(1, &queue, (3, 0));
    await_state(&broker, &peer, "throttled");
    let throttled = broker.ctl(&["list_connections", "-s", "user", "throttled_by"]);
    assert!(throttled.contains("guest\tuser max-stored-bytes\n"), "{throttled}");
    let limits = broker.ctl(&["list_user_limits", "-s", "user", "stored_bytes"]);
    let stored: u64 = limits.trim().strip_prefix("guest\t").expect("a limit").parse().expect("a number");
    assert!((1_000_000..1_001_000).contains(&stored), "{stored}");
    // Others are not held back, not even with the same queue.
    peer.publish(1, "", &queue, "when there is room");
    other.publish(1, "", &queue, "of another user");
    other.await_counts(1, &queue, (4, 0));
    // Nor by what another user's messages leave room for.
    assert_eq!(other.get(1, &queue, true).expect("a message").body.len(), 600_000);
    other.await_counts(1, &queue, (4, 0));
    await_state(&broker, &peer, "running");
    let throttled = broker.ctl(&["list_connections", "-s", "user", "throttled_by"]);
    assert!(throttled.contains("guest\t\n"), "{throttled}");
}

#[test]
fn a_limit_on_stored_bytes_is_lifted_while_it_is_used_up() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let queue = peer.server_named(1);
    broker.ctl(&["set_user_limits", "guest", r#"{"max-stored-bytes":0}"#]);
    peer.publish(1, "", &queue, "one that is read before it is known that it is too much");
    await_state(&broker, &peer, "throttled");
    broker.ctl(&["clear_user_limits", "guest", "max-stored-bytes"]);
    await_state(&broker, &peer, "running");
    peer.await_counts(1, &queue, (1, 0));
}

#[test]
fn what_is_moved_stays_its_publishers() {
    let broker = Broker::start(Options::log());
    broker.ctl(&["add_user", "other", "pw"]);
    broker.ctl(&["set_permissions", "other", ".*", ".*", ".*"]);
    let mut peer = broker.peer();
    let mut other = broker.peer_with(&Handshake::plain("other", "pw"));
    let stored = |at_least: u64| {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let limits = broker.ctl(&["list_user_limits", "-s", "stored_bytes"]);
            let stored: u64 = limits.trim().parse().expect("one number");
            if (at_least..at_least + 1_000).contains(&stored) {
                return;
            }
            assert!(Instant::now() < deadline, "expected {at_least} bytes, got {stored}");
        }
    };
    broker.ctl(&["set_user_limits", "guest", r#"{"max-stored-bytes":10000000}"#]);
    let dead = other.server_named(1);
    let arguments = table([("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text(&dead))]);
    let queue = other.declare(1, &Queue { arguments, ..Queue::exclusive("q") }).0;
    let stream_arguments = table([("x-queue-type", text("stream"))]);
    other.declare(1, &Queue { arguments: stream_arguments, ..Queue::durable("s") });
    peer.publish_with(1, &Publish { body: &[b'x'; 50_000], ..Publish::to("", &queue) });
    stored(50_000);
    // By a client that is somebody else, to where dead letters go.
    let tag = other.get(1, &queue, false).expect("a message").tag;
    other.send(1, &Method::BasicReject { delivery_tag: tag, requeue: false });
    other.await_counts(1, &dead, (1, 0));
    stored(50_000);
    broker.ctl(&["move_messages", &dead, "s"]);
    stored(50_000);
    // What waits for a time is stored, too.
    let headers = Some(table([("x-delay", FieldValue::I32(1_000_000))]));
    let properties = Properties { headers, ..Properties::default() };
    peer.publish_with(1, &Publish { properties, body: &[b'y'; 30_000], ..Publish::to("", &dead) });
    stored(80_000);
    peer.publish_with(1, &Publish { body: &[b'z'; 20_000], ..Publish::to("", "s") });
    stored(100_000);
    other.delete(1, "s");
    stored(30_000);
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
