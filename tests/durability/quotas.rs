//! What users have stored is as right after a restart as before, whether by an orderly stop or a crash.

use std::time::{Duration, Instant};

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{Broker, Handshake, Method, Options, Peer, Publish, Queue};

const LIMIT: &str = r#"{"max-stored-bytes":1000000}"#;

/// The stored bytes of users with limits, by user; polled until they are of the order of `expected`.
fn await_stored(broker: &Broker, expected: &[(&str, u64)]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let rows = broker.ctl(&["list_user_limits", "-s", "user", "stored_bytes"]);
        let stored: Vec<(&str, u64)> = rows
            .lines()
            .filter_map(|row| row.split_once('\t'))
            .map(|(user, bytes)| (user, bytes.parse().expect("a number")))
            .collect();
        let near = |(found, wanted): (&(&str, u64), &(&str, u64))| {
            // Properties, routing keys and what a record has beside them.
            found.0 == wanted.0 && (wanted.1..wanted.1 + wanted.1 / 5 + 1).contains(&found.1)
        };
        if stored.len() == expected.len() && stored.iter().zip(expected).all(near) {
            return;
        }
        assert!(Instant::now() < deadline, "expected about {expected:?}, got {stored:?}");
    }
}

/// Publishes persistent messages of 500 bytes in turn, so that all of them are in the same chunks.
fn publish_in_turn(peers: &mut [(Peer, u64)], messages: u64) {
    for (peer, _) in &mut *peers {
        peer.select_confirms(1);
    }
    for sent in 0..messages {
        for (peer, every) in &mut *peers {
            if sent % *every == 0 {
                peer.publish_with(
                    1,
                    &Publish { properties: persistent(), body: &[b'x'; 500], ..Publish::to("", "q") },
                );
                let confirm = peer.method(1);
                let Method::BasicAck { delivery_tag, .. } = confirm.get() else { panic!("{confirm:?}") };
                assert_eq!(delivery_tag, sent / *every + 1);
            }
        }
    }
}

#[test]
fn stored_bytes_of_users_outlive_restarts() {
    let options = Options::log().set("POSTHOUSE__LOG__FILE_SIZE", "1MiB").set("POSTHOUSE__LOG__FILES", "4");
    let mut broker = Broker::start(options);
    for user in ["alice", "bob"] {
        broker.ctl(&["add_user", user, "pw"]);
        broker.ctl(&["set_permissions", user, ".*", ".*", ".*"]);
        broker.ctl(&["set_user_limits", user, LIMIT]);
    }
    broker.peer().declare(1, &Queue::durable("q"));
    let peer = |user| broker.peer_with(&Handshake::plain(user, "pw"));
    publish_in_turn(&mut [(peer("alice"), 1), (peer("bob"), 4), (broker.peer(), 2)], 400);
    let expected = [("alice", 200_000), ("bob", 50_000)];
    await_stored(&broker, &expected);
    // From the log; then from a checkpoint, and from the log's rest.
    broker.kill();
    broker.start_again();
    await_stored(&broker, &expected);
    broker.stop();
    broker.start_again();
    await_stored(&broker, &expected);
    let peer = |user| broker.peer_with(&Handshake::plain(user, "pw"));
    publish_in_turn(&mut [(peer("alice"), 1), (peer("bob"), 4)], 400);
    broker.kill();
    broker.start_again();
    await_stored(&broker, &[("alice", 400_000), ("bob", 100_000)]);
    broker.ctl(&["purge_queue", "q"]);
    await_stored(&broker, &[("alice", 0), ("bob", 0)]);
}

#[test]
fn whoever_had_stored_too_much_waits_after_a_restart() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("q"));
    peer.select_confirms(1);
    let publish = Publish { properties: persistent(), body: &vec![b'x'; 1_000_000], ..Publish::to("", "q") };
    peer.publish_with(1, &publish);
    peer.confirmed(1, 1);
    broker.ctl(&["set_user_limits", "guest", LIMIT]);
    broker.kill();
    broker.start_again();
    await_stored(&broker, &[("guest", 1_000_000)]);
    let (mut peer, mut consumer) = (broker.peer(), broker.peer());
    peer.publish(1, "", "q", "read before it is known who publishes");
    consumer.await_counts(1, "q", (2, 0));
    peer.publish(1, "", "q", "when there is room");
    consumer.expect_quiet(1);
    assert_eq!(consumer.counts(1, "q"), (2, 0));
    assert!(consumer.get(1, "q", true).is_some());
    consumer.await_counts(1, "q", (2, 0));
}
