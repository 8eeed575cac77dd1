//! What is configured and not negotiated. Each test has a broker of its own.

use posthouse_testkit::{Broker, Consume, Handshake, Method, Options, Publish, expect_method};

#[test]
fn connections_of_the_broker() {
    let broker = Broker::start(Options::memory().set("POSTHOUSE__AMQP__MAX_CONNECTIONS", 2));
    let (first, _second) = (broker.peer(), broker.peer());
    let mut third = broker.socket();
    let handshake = Handshake::default();
    third.log_in(&handshake);
    third.tune(&handshake);
    third.send(0, &Method::ConnectionOpen { vhost: "/" });
    let text = "NOT_ALLOWED - connection refused: node connection limit (2) is reached";
    third.expect_connection_close(530, text, (10, 40));
    first.close();
}

#[test]
fn consumers_of_a_channel() {
    let options = Options::memory().set("POSTHOUSE__AMQP__MAX_CONSUMERS_PER_CHANNEL", 2);
    let broker = Broker::start(options);
    let mut peer = broker.peer();
    peer.open_channel(2);
    let queue = peer.server_named(1);
    for channel in [1, 1, 2, 2] {
        peer.consume(channel, &Consume::from(&queue));
    }
    peer.send(2, &Consume::from(&queue).method());
    let text = "NOT_ALLOWED - reached maximum (2) of consumers per channel";
    peer.expect_connection_close(530, text, (60, 20));
}

#[test]
fn sizes_of_messages() {
    let broker = Broker::start(Options::memory().set("POSTHOUSE__AMQP__MAX_MESSAGE_SIZE", "1000B"));
    let mut peer = broker.peer();
    let queue = peer.server_named(1);
    peer.publish_with(1, &Publish { body: &[b'x'; 1000], ..Publish::to("", &queue) });
    assert_eq!(peer.get(1, &queue, true).map(|message| message.body.len()), Some(1000));
    peer.publish_with(1, &Publish { body: &[b'x'; 1001], ..Publish::to("", &queue) });
    let text = "PRECONDITION_FAILED - message size 1001 is larger than configured max size 1000";
    peer.expect_channel_close(1, 406, text, (60, 40));
}

#[test]
fn what_is_proposed() {
    let options = Options::memory()
        .set("POSTHOUSE__AMQP__CHANNEL_MAX", 5)
        .set("POSTHOUSE__AMQP__FRAME_MAX", 8192)
        .set("POSTHOUSE__AMQP__HEARTBEAT", "7s");
    let broker = Broker::start(options);
    let mut peer = broker.socket();
    peer.log_in(&Handshake::default());
    let proposal = peer.proposal();
    assert_eq!((proposal.channel_max, proposal.frame_max, proposal.heartbeat), (5, 8192, 7));
}

#[test]
fn stopping_is_told_to_everybody() {
    let mut broker = Broker::start(Options::memory());
    let peer = broker.peer();
    let told = std::thread::spawn(move || {
        let text = "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'";
        peer.expect_connection_close(320, text, (0, 0));
    });
    broker.stop();
    told.join().expect("it was told");
}

#[test]
fn publishers_are_blocked_for_want_of_memory() {
    let options = Options::memory().set("POSTHOUSE__MEMORY__WATERMARK", "16MiB");
    let broker = Broker::start(options);
    let (mut publisher, mut consumer) = (broker.peer(), broker.peer());
    let mut untold = broker.peer_with(&Handshake::default().without_capabilities());
    let queue = consumer.server_named(1);
    let ballast = consumer.server_named(1);
    consumer.consume(1, &Consume::no_ack(&queue));
    publisher.publish_with(1, &Publish { body: &vec![1; 16 << 20], ..Publish::to("", &ballast) });
    expect_method!(publisher, 0, Method::ConnectionBlocked { reason: "low on memory" });
    publisher.publish(1, "", &queue, "not read");
    // What tells the broker that somebody publishes is itself accepted, and only what follows is not.
    untold.publish(1, "", &queue, "the first of another");
    assert_eq!(consumer.message(1).text(), "the first of another");
    // Those that publish nothing go on as ever.
    consumer.expect_quiet(1);
    assert_eq!(consumer.counts(1, &ballast), (1, 0));
    assert_eq!(consumer.counts(1, &queue), (0, 1));
}
