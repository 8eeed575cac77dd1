//! How the broker stops: told once it says goodbye, told twice it ends at once.

use posthouse_testkit::process::Signal;
use posthouse_testkit::{Broker, Options, Peer, TIMEOUT};

const GOODBYE: &str = "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'";

#[test]
fn connections_are_closed_with_320_and_the_exit_code_is_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut broker = Broker::start(Options::memory());
        let (idle, busy) = (broker.peer(), broker.peer());
        let address = broker.address();
        broker.process().signal(signal);
        idle.expect_connection_close(320, GOODBYE, (0, 0));
        busy.expect_connection_close(320, GOODBYE, (0, 0));
        let status = broker.process().wait(TIMEOUT);
        assert_eq!(status.code(), Some(0), "{}", broker.process().stderr());
        assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens any more");
    }
}

#[test]
fn a_peer_that_was_not_open_yet_does_not_hold_up_the_stop() {
    let mut broker = Broker::start(Options::memory());
    let mut half_open = Peer::connect(broker.address());
    half_open.start();
    broker.process().signal(Signal::TERM);
    half_open.expect_end_eventually();
    assert_eq!(broker.process().wait(TIMEOUT).code(), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut broker = Broker::start(Options::memory());
    // It confirms no close, so that the broker waits for it.
    let mut stubborn = broker.peer();
    broker.process().signal(Signal::TERM);
    assert_eq!(stubborn.connection_closed().reply_code, 320);
    broker.process().signal(Signal::TERM);
    let status = broker.process().wait(TIMEOUT);
    assert_eq!(status.code(), Some(1), "{}", broker.process().stderr());
}
