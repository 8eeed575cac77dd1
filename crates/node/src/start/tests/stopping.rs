//! The end of a broker: nothing goes on by itself after the last checkpoint, and a full disk does not hold it up.

use std::sync::mpsc;

use posthouse_model::policy::{Policy, PolicyKind};
use posthouse_queue::topology::{BindingRecord, DestinationName};
use posthouse_storage::engine::RecoveredQueue;

use super::*;
use crate::admin;
use crate::clock::now_ms;

/// Waits for a time of the clock that expiry goes by.
fn wait_until(at_ms: u64) {
    while now_ms() <= at_ms {
        std::thread::yield_now();
    }
}

#[test]
fn nothing_expires_after_a_stop() {
    const SOON_MS: u64 = 300;
    let disk = SimDisk::new(1);
    let node = Node::open(&disk, &definitions());
    let messages = node.declare("m", &[("x-message-ttl", SOON_MS as u32)]);
    let unused = node.declare("u", &[("x-expires", SOON_MS as u32)]);
    node.publish(&messages, 0..5);
    let last_ms = now_ms();
    stop(&node.broker).unwrap();
    assert!(now_ms() < last_ms + SOON_MS, "too slow a machine to tell");
    // The timers' thread would have looked by then.
    wait_until(last_ms + SOON_MS + 100);
    assert_eq!(messages.lock().machine.ready(), 5);
    assert!(!unused.lock().deleted);
    // Nothing came after the checkpoint: the start is a clean one, and they expire only now.
    let events = Arc::new(Events::new(|_| {}));
    let opened = MessageStore::open(Arc::new(disk), Path::new("/data"), StorageOptions::default(), events);
    let recovered = opened.unwrap().1;
    assert!(recovered.clean, "{} records", recovered.replayed_records);
    assert_eq!(recovered.queues.iter().map(RecoveredQueue::live).sum::<u64>(), 5);
}

/// Dead letters wait for the log, which waits for the disk.
#[test]
fn a_stop_on_a_full_disk_ends() {
    let disk = SimDisk::new(1);
    let node = Node::open(&disk, &definitions());
    let (a, b) = (node.queue("a"), node.queue("b"));
    node.publish(&a, 0..20);
    node.publish(&b, 0..20);
    let definitions = node.definitions();
    disk.set_capacity(0);
    let policy = serde_json::json!({
        "pattern": "^a$",
        "definition": {"dead-letter-exchange": "", "dead-letter-routing-key": "b", "max-length": 1},
    });
    // Each dead letter is as much of the log again.
    let wal = node.broker.wal().unwrap().clone();
    let policy = Policy::from_value("p", &policy, PolicyKind::User).unwrap();
    admin::set_policy(&node.broker, "/", PolicyKind::User, policy).unwrap();
    let mut publisher = Publisher::new(node.broker.clone(), node.waker.clone());
    let slot = publisher.slot(&[a.id], |_| Some(a.clone())).unwrap();
    let mut header = Vec::new();
    Properties { delivery_mode: Some(2), ..Properties::default() }.encode(BODY_BYTES as u64, &mut header);
    for number in 20..220 {
        publisher.append(slot, true, b"\0\0", &header, &body(number));
        publisher.flush();
    }
    while wal.shortage().is_none() {
        std::thread::yield_now();
    }
    // One of the broker's own threads waits for the log, too.
    node.broker.workers().spawn("waits", move |_| assert!(wal.sync().is_err())).unwrap();
    let (told, stopped) = mpsc::channel();
    let broker = node.broker.clone();
    let stopping = std::thread::spawn(move || told.send(stop(&broker)).unwrap());
    let error = stopped.recv_timeout(Duration::from_secs(30)).expect("it ends").unwrap_err().to_string();
    assert_eq!(error, "storage has stopped: the disk is full while closing");
    stopping.join().unwrap();
    // What was on disk is there, in the one queue or the other.
    let node = Node::start(&disk.crash(), &definitions).unwrap();
    let mut found: Vec<u64> =
        ["a", "b"].into_iter().flat_map(|name| node.get_all(&node.queue(name))).collect();
    found.sort_unstable();
    let twice: Vec<u64> = (0..20).flat_map(|number| [number, number]).collect();
    assert_eq!(found.iter().filter(|number| **number < 20).copied().collect::<Vec<_>>(), twice);
}

/// What happens until the end is published, and is on disk.
#[test]
fn events_of_the_end_are_kept() {
    const EVENTS: u64 = 2_000;
    let data = tempfile::tempdir().unwrap();
    let options = || {
        let keep = testing::in_small_files(data.path());
        StartOptions { event_vhost: Some("/".into()), ..testing::options(keep, testing::PLENTY_BYTES) }
    };
    let broker = super::super::start(options()).unwrap();
    let vhost = broker.vhost("/").unwrap();
    let declaration = QueueDeclaration { name: "log".into(), durable: true, ..QueueDeclaration::default() };
    broker.declare_queue(&vhost, declaration, 0).unwrap();
    let binding = BindingRecord {
        source: Name::truncated(crate::events::EXCHANGE),
        destination: DestinationName::Queue(Name::truncated("log")),
        routing_key: Name::truncated("the.end"),
        arguments: FieldTable::default(),
    };
    broker.bind(&vhost, binding).unwrap();
    (0..EVENTS).for_each(|number| broker.events().emit("the.end", |fields| fields.number("number", number)));
    stop(&broker).unwrap();
    drop((broker, vhost));
    let broker = super::super::start(options()).unwrap();
    let queue = broker.vhost("/").unwrap().find_queue("log").unwrap();
    assert_eq!(queue.lock().machine.ready(), EVENTS);
    stop(&broker).unwrap();
}
