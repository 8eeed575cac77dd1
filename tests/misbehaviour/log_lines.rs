//! What clients choose and the broker logs cannot pass for lines of its log.

use posthouse_testkit::process::Signal;
use posthouse_testkit::{Broker, FieldValue, Handshake, Method, Options, Queue, TIMEOUT, table};

use super::assert_well;

const FORGED: &str = "\n2026-01-01T00:00:00.000000Z ERROR posthouse: FORGED\r\u{1b}[31m\u{9b}";

#[test]
fn names_with_line_breaks_stay_on_one_line() {
    let mut broker = Broker::start(Options::memory());

    let mut stranger = broker.socket();
    stranger.log_in(&Handshake::plain(&format!("nobody{FORGED}"), "guest"));
    stranger.connection_closed();

    let mut unlocated = broker.socket();
    let handshake = Handshake::default();
    unlocated.log_in(&handshake);
    unlocated.tune(&handshake);
    unlocated.send(0, &Method::ConnectionOpen { vhost: &format!("nowhere{FORGED}") });
    unlocated.connection_closed();

    let mut peer = broker.peer();
    let argument = format!("x-none{FORGED}");
    let mut queue = Queue::exclusive("unknown-argument");
    queue.arguments = table([(argument.as_str(), FieldValue::I32(1))]);
    peer.declare(1, &queue);
    drop(peer);

    assert_well(&mut broker);
    broker.process().signal(Signal::TERM);
    broker.process().wait(TIMEOUT);
    let log = broker.process().stderr();
    assert!(log.matches("FORGED").count() == 3, "the names are logged: {log}");
    for line in log.lines() {
        assert!(line.starts_with("20") && line.find("FORGED").is_none_or(|at| at > 60), "{line:?} in {log}");
    }
    assert!(!log.contains(|character: char| character.is_control() && character != '\n'), "{log:?}");
}
