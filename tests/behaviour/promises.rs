//! What a queue promises for persistent messages: `x-durability` and the policy key `durability`.

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{Broker, Exchange, Options, Peer, Publish, Queue, table, text};

const LEVELS: [&str; 3] = ["memory", "relaxed", "sync"];

fn promising(level: &'static str) -> Queue<'static> {
    Queue { arguments: table([("x-durability", text(level))]), ..Queue::durable(level) }
}

/// Publishes persistent messages to these exchanges and routing keys, and waits until all are confirmed.
fn publish(peer: &mut Peer, to: &[(&str, &str)]) {
    peer.select_confirms(1);
    for (exchange, routing_key) in to {
        let publish = Publish::to(exchange, routing_key);
        peer.publish_with(1, &Publish { properties: persistent(), body: b"m", ..publish });
    }
    peer.confirmed(1, to.len() as u64);
}

/// How many messages each of the queues has.
fn counts(peer: &mut Peer) -> [u32; 3] {
    LEVELS.map(|level| peer.counts(1, level).0)
}

#[test]
fn a_killed_broker_comes_back_with_what_was_promised() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare_exchange(1, &Exchange { durable: true, ..Exchange::named("all", "fanout") });
    for level in LEVELS {
        peer.declare(1, &promising(level));
        peer.bind(1, level, "all", "");
    }
    let shown = ["list_queues", "name,durable,durability"];
    let expected = "memory\ttrue\tmemory\nrelaxed\ttrue\trelaxed\nsync\ttrue\tsync\n";
    assert_eq!(broker.ctl(&shown), expected);
    publish(&mut peer, &[("", "memory"), ("", "relaxed"), ("all", ""), ("", "sync"), ("", "relaxed")]);
    assert_eq!(counts(&mut peer), [2, 3, 2]);
    broker.kill();
    broker.start_again();
    assert_eq!(broker.ctl(&shown), expected);
    let mut peer = broker.peer();
    assert_eq!(counts(&mut peer), [0, 3, 2]);
    // What was read back leaves for good.
    assert_eq!(peer.drain(1, "relaxed").len(), 3);
    publish(&mut peer, &[("", "memory"), ("", "relaxed")]);
    broker.restart();
    assert_eq!(counts(&mut broker.peer()), [0, 1, 2]);
}

#[test]
fn a_policy_changes_the_promise_of_what_arrives_from_then_on() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    for level in LEVELS {
        peer.declare(1, &promising(level));
    }
    let to_all = LEVELS.map(|level| ("", level));
    publish(&mut peer, &to_all);
    broker.ctl(&["set_policy", "fast", "", r#"{"durability":"memory"}"#, "--apply-to", "queues"]);
    let shown = ["list_queues", "name,durability"];
    assert_eq!(broker.ctl(&shown), "memory\tmemory\nrelaxed\tmemory\nsync\tmemory\n");
    let mut peer = broker.peer();
    publish(&mut peer, &to_all);
    broker.ctl(&["set_operator_policy", "safe", "", r#"{"durability":"sync"}"#, "--apply-to", "queues"]);
    assert_eq!(broker.ctl(&shown), "memory\tsync\nrelaxed\tsync\nsync\tsync\n");
    let mut peer = broker.peer();
    publish(&mut peer, &to_all);
    assert_eq!(counts(&mut peer), [3, 3, 3]);
    broker.kill();
    broker.start_again();
    assert_eq!(counts(&mut broker.peer()), [1, 2, 2]);
}

#[test]
fn a_queue_promises_no_more_than_it_can_keep() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("durable"));
    peer.declare(1, &Queue::named("plain"));
    let arguments = table([("x-durability", text("memory"))]);
    peer.declare(1, &Queue { arguments, ..Queue::named("transient") });
    let expected = "durable\tsync\nplain\tmemory\ntransient\tmemory\n";
    assert_eq!(broker.ctl(&["list_queues", "name,durability"]), expected);
    let prefix = "PRECONDITION_FAILED - invalid arg 'x-durability' for queue 'q' in vhost '/': ";
    let relaxed = || table([("x-durability", text("relaxed"))]);
    for queue in [Queue::named("q"), Queue { exclusive: true, ..Queue::durable("q") }] {
        let refused = format!(
            "{prefix}\"expected 'memory' for a queue that is not durable or is exclusive, got 'relaxed'\""
        );
        peer.refused(1, &Queue { arguments: relaxed(), ..queue }.method(), 406, &refused);
    }
    let refused = format!("{prefix}\"expected sync, relaxed or memory, got 'quorum'\"");
    let queue = Queue { arguments: table([("x-durability", text("quorum"))]), ..Queue::durable("q") };
    peer.refused(1, &queue.method(), 406, &refused);
    let refused = format!("{prefix}\"expected sync or relaxed for a stream, got 'memory'\"");
    let arguments = table([("x-queue-type", text("stream")), ("x-durability", text("memory"))]);
    peer.refused(1, &Queue { arguments, ..Queue::durable("q") }.method(), 406, &refused);
    let inequivalent = "PRECONDITION_FAILED - inequivalent arg 'x-durability' for queue 'durable' in vhost '/': \
                        received the value 'relaxed' of type 'longstr' but current is none";
    let queue = Queue { arguments: relaxed(), ..Queue::durable("durable") };
    peer.refused(1, &queue.method(), 406, inequivalent);
}
