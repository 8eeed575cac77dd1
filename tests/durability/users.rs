//! Users, passwords, permissions and virtual hosts survive orderly stops and crashes.

use std::path::Path;

use posthouse_testkit::peer::Arrival;
use posthouse_testkit::{Broker, Handshake, Options, Peer, Queue, TIMEOUT, program};

#[track_caller]
fn ctl(dir: &Path, words: &[&str]) {
    let output = program().arg("ctl").args(words).arg("--data-dir").arg(dir).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether that user may log in.
fn may_log_in(broker: &Broker, user: &str, password: &str) -> bool {
    let mut peer = Peer::connect(broker.address());
    let handshake = Handshake::plain(user, password).without_capabilities();
    peer.log_in(&handshake);
    // A client without capabilities is hung up on when it is refused.
    peer.finish_sending();
    matches!(peer.arrival(TIMEOUT), Arrival::Frame(_))
}

#[test]
fn what_was_told_over_the_control_socket() {
    let mut broker = Broker::start(Options::log());
    let dir = broker.data_dir().to_owned();
    ctl(&dir, &["add_vhost", "west"]);
    for user in ["ann", "bob", "eve"] {
        ctl(&dir, &["add_user", user, "first"]);
    }
    ctl(&dir, &["change_password", "ann", "second"]);
    ctl(&dir, &["delete_user", "eve"]);
    ctl(&dir, &["set_permissions", "-p", "west", "ann", "mine-.*", ".*", ".*"]);
    for unclean in [false, true] {
        if unclean {
            broker.kill();
            broker.start_again();
        } else {
            broker.restart();
        }
        for (user, password, expected) in [
            ("ann", "second", true),
            ("ann", "first", false),
            ("bob", "first", true),
            ("eve", "first", false),
        ] {
            assert_eq!(may_log_in(&broker, user, password), expected, "{user} with {password}");
        }
        let west = Handshake { vhost: "west".into(), ..Handshake::plain("ann", "second") };
        let mut peer = broker.peer_with(&west);
        peer.declare(1, &Queue::durable("mine-1"));
        let refused =
            "ACCESS_REFUSED - configure access to queue 'other' in vhost 'west' refused for user 'ann'";
        peer.refused(1, &Queue::durable("other").method(), 403, refused);
        peer.close();
    }
    broker.stop();
    broker.check();
}
