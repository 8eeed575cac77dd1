//! Time to live across a crash: deadlines hold, what has expired stays away, and so do queues that have.

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{
    Broker, FieldTable, FieldValue, Method, Options, Peer, Properties, Publish, Queue, table,
};

fn declare(peer: &mut Peer, name: &str, argument: &str, ms: i64) {
    let arguments = table([(argument, FieldValue::I64(ms))]);
    peer.declare(1, &Queue { arguments, ..Queue::durable(name) });
}

/// Publishes messages with an expiration, or without, and waits until they are on disk.
fn publish(peer: &mut Peer, queue: &str, bodies: &[String], expiration: Option<u64>) {
    peer.open_channel(9);
    peer.select_confirms(9);
    let mut out = Vec::new();
    for body in bodies {
        let properties = Properties { expiration: expiration.map(|ms| ms.to_string()), ..persistent() };
        Publish { properties, body: body.as_bytes(), ..Publish::to("", queue) }.write(9, 131_072, &mut out);
    }
    peer.send_bytes(&out);
    peer.confirmed_up_to(9, bodies.len() as u64);
    peer.close_channel(9);
}

fn bodies(count: usize, bytes: usize) -> Vec<String> {
    (0..count).map(|number| format!("{number:>bytes$}")).collect()
}

#[test]
fn what_has_expired_does_not_come_back() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("q"));
    publish(&mut peer, "q", &bodies(100, 1), None);
    broker.ctl(&["set_policy", "ttl", "^q$", r#"{"message-ttl":1}"#]);
    peer.await_counts(1, "q", (0, 0));
    // Without it, they could stay, if they came back.
    broker.ctl(&["clear_policy", "ttl"]);
    publish(&mut peer, "q", &["new".to_owned()], None);
    broker.kill();
    broker.start_again();
    assert_eq!(broker.peer().drain(1, "q"), ["new"]);
}

#[test]
fn deadlines_survive_a_crash_and_an_orderly_stop() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    declare(&mut peer, "by-queue", "x-message-ttl", 2_000);
    peer.declare(1, &Queue::durable("by-itself"));
    for (queue, expiration) in [("by-queue", None), ("by-itself", Some(2_000))] {
        publish(&mut peer, queue, &bodies(50, 1), expiration);
    }
    publish(&mut peer, "by-itself", &["stays".to_owned()], Some(600_000));
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    peer.await_counts(1, "by-queue", (0, 0));
    peer.await_counts(1, "by-itself", (1, 0));
    publish(&mut peer, "by-queue", &bodies(50, 1), None);
    publish(&mut peer, "by-itself", &bodies(50, 1), Some(1_000));
    peer.close();
    broker.restart();
    let mut peer = broker.peer();
    peer.await_counts(1, "by-queue", (0, 0));
    peer.await_counts(1, "by-itself", (1, 0));
    assert_eq!(peer.drain(1, "by-itself"), ["stays"]);
}

#[test]
fn a_backlog_on_disk_expires_without_a_consumer() {
    let options = Options::log()
        .set("POSTHOUSE__MEMORY__BUDGET", "16MiB")
        .set("POSTHOUSE__LOG__FILE_SIZE", "1MiB")
        .set("POSTHOUSE__LOG__FILES", "4");
    let mut broker = Broker::start(options);
    let mut peer = broker.peer();
    declare(&mut peer, "by-queue", "x-message-ttl", 4_000);
    peer.declare(1, &Queue::durable("by-itself"));
    publish(&mut peer, "by-queue", &bodies(30_000, 500), None);
    publish(&mut peer, "by-itself", &bodies(30_000, 500), Some(4_000));
    publish(&mut peer, "by-itself", &["stays".to_owned()], None);
    peer.close();
    broker.restart();
    let mut peer = broker.peer();
    peer.await_counts(1, "by-queue", (0, 0));
    peer.await_counts(1, "by-itself", (1, 0));
    assert_eq!(peer.drain(1, "by-itself"), ["stays"]);
}

#[test]
fn a_queue_that_expired_does_not_come_back_and_a_restart_renews_the_others() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    declare(&mut peer, "idle", "x-expires", 100);
    declare(&mut peer, "patient", "x-expires", 600_000);
    while broker.ctl(&["list_queues", "name"]).contains("idle") {
        std::thread::yield_now();
    }
    // When this is kept, what was before it is kept.
    peer.declare(1, &Queue::durable("witness"));
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    let missing = "NOT_FOUND - no queue 'idle' in vhost '/'";
    peer.refused(1, &Queue::passive("idle").method(), 404, missing);
    peer.declare(1, &Queue::passive("patient"));
    broker.ctl(&["set_policy", "soon", "^patient$", r#"{"expires":50}"#]);
    broker.kill();
    broker.start_again();
    while broker.ctl(&["list_queues", "name"]).contains("patient") {
        std::thread::yield_now();
    }
    let mut peer = broker.peer();
    peer.send(1, &Queue { arguments: FieldTable::default(), ..Queue::durable("patient") }.method());
    assert!(matches!(peer.method(1).get(), Method::QueueDeclareOk { .. }));
}
