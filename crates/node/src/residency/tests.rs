//! Who makes room, who waits for it, and what a failed read means.

use posthouse_model::field::FieldValue;
use posthouse_storage::StorageError;

use super::*;
use crate::declare::QueueDeclaration;
use crate::publish::Publisher;
use crate::start::Keep;
use crate::start::testing::{PLENTY_BYTES, broker, in_small_files};

#[test]
fn queues_that_nobody_publishes_to_make_room_as_well() {
    let data = tempfile::tempdir().unwrap();
    let budget = 1 << 20;
    let broker = broker(in_small_files(data.path()), budget);
    let vhost = broker.vhost("/").unwrap();
    let mut publisher = Publisher::new(broker.clone(), Arc::default());
    for n in 0..30 {
        let declaration = QueueDeclaration { name: format!("q{n}"), ..QueueDeclaration::default() };
        let queue = broker.declare_queue(&vhost, declaration, 0).unwrap().queue;
        let slot = publisher.slot(&[queue.id], |id| vhost.queue_by_id(id)).unwrap();
        publisher.append(slot, false, b"\0\x01q", b"", &[0; 100 << 10]);
        publisher.flush();
    }
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while broker.memory().bytes() > budget {
        assert!(std::time::Instant::now() < patience, "{} bytes in memory", broker.memory().bytes());
        std::thread::yield_now();
    }
}

#[test]
fn only_damage_loses_messages() {
    let path = std::path::Path::new("segments/1.seg");
    let outcome = |error| after_failed_read(&StorageError::io("open", path, error));
    let (too_many_files, bad_sector) = (24, 5);
    assert_eq!(outcome(std::io::Error::from_raw_os_error(too_many_files)), FailedRead::TryAgain);
    assert_eq!(outcome(std::io::Error::from_raw_os_error(bad_sector)), FailedRead::Damage);
    assert_eq!(outcome(std::io::ErrorKind::NotFound.into()), FailedRead::Damage);
    let damaged = StorageError::Corrupt {
        path: path.to_owned(),
        offset: 0,
        what: "block checksum",
        expected: "1".into(),
        got: "2".into(),
    };
    assert_eq!(after_failed_read(&damaged), FailedRead::Damage);
}

#[test]
fn a_drain_is_fast_when_it_would_be_through_in_a_second() {
    let mut drain = Drain::default();
    assert!(drain.is_fast(50, 0, 1_000_000), "nothing is known before the first window ends");
    assert!(!drain.is_fast(150, 10, 1_000));
    assert!(!drain.is_fast(200, 500, 1_000), "the window has not ended");
    assert!(drain.is_fast(250, 110, 1_000));
    assert!(!drain.is_fast(350, 110, 1_000), "it stopped");
    assert!(drain.is_fast(450, 5_110, 1_000_000), "50,000 a second is fast whatever waits");
}

fn declare(broker: &Arc<Broker>, name: &str) -> Arc<QueueHandle> {
    let declaration = QueueDeclaration { name: name.into(), ..QueueDeclaration::default() };
    broker.declare_queue(&broker.vhost("/").unwrap(), declaration, 0).unwrap().queue
}

fn publish(publisher: &mut Publisher, queue: &Arc<QueueHandle>, messages: usize, step_ms: u64) {
    let slot = publisher.slot(&[queue.id], |_| Some(queue.clone())).unwrap();
    for _ in 0..messages {
        publisher.received_ms += step_ms;
        publisher.append(slot, false, b"\0\x01q", b"", &[0; 100 << 10]);
        publisher.flush();
    }
}

#[test]
fn a_queue_is_in_flow_while_its_publishers_wait() {
    let broker = broker(Keep::InMemory, PLENTY_BYTES);
    let mut publisher = Publisher::new(broker.clone(), Arc::default());
    let queue = declare(&broker, "q");
    let listed = || crate::listings::queues(&broker, "/").unwrap()[0].state;
    publish(&mut publisher, &queue, 25, 0);
    assert_eq!(listed(), "running");
    publish(&mut publisher, &queue, 25, 0);
    assert!(publisher.is_pressed());
    assert_eq!(listed(), "flow");
    while crate::deliver::get(&broker, &queue, true, &Arc::default()).1.is_some() {}
    assert_eq!(listed(), "running");
}

#[test]
fn a_get_that_waits_for_the_disk_is_told_when_its_queue_is_purged() {
    let data = tempfile::tempdir().unwrap();
    let broker = broker(in_small_files(data.path()), PLENTY_BYTES);
    let mut publisher = Publisher::new(broker.clone(), Arc::default());
    let queues = [declare(&broker, "busy"), declare(&broker, "q")];
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
    for queue in &queues {
        publish(&mut publisher, queue, 80, 1_000);
        while queue.lock().machine.memory_bytes() > 3 << 20 {
            assert!(std::time::Instant::now() < patience, "not written to segments");
            std::thread::yield_now();
        }
    }
    // The reading thread waits for the other queue meanwhile.
    let busy = queues[0].lock();
    broker.residency().unwrap().load(&queues[0]);
    let waker = Arc::new(crate::waker::SessionWaker::default());
    while crate::deliver::get(&broker, &queues[1], true, &waker).1.is_some() {}
    assert!(crate::deliver::purge(&broker, &queues[1]) > 0);
    drop(busy);
    while !waker.has_mail() {
        assert!(std::time::Instant::now() < patience, "nobody told the session");
        std::thread::yield_now();
    }
}

#[test]
fn a_clock_set_back_does_not_hold_publishers() {
    let data = tempfile::tempdir().unwrap();
    let broker = broker(in_small_files(data.path()), PLENTY_BYTES);
    let mut publisher = Publisher::new(broker.clone(), Arc::default());
    let queue = declare(&broker, "q");
    publisher.received_ms = 10_000_000;
    publish(&mut publisher, &queue, 25, 0);
    while crate::deliver::get(&broker, &queue, true, &Arc::default()).1.is_some() {}
    publisher.received_ms -= 3_600_000;
    publish(&mut publisher, &queue, 60, 0);
    let mut now_ms = publisher.received_ms;
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while publisher.must_wait(now_ms) {
        now_ms += 100;
        assert!(std::time::Instant::now() < patience, "held back though nobody takes anything");
        std::thread::yield_now();
    }
}

#[test]
fn publishers_wait_while_what_they_drop_is_moved() {
    let broker = broker(Keep::InMemory, PLENTY_BYTES);
    let (grave, queue) = (declare(&broker, "grave"), declare(&broker, "q"));
    let text = |name: &str, value: &str| (name.to_owned(), FieldValue::string(value));
    queue.lock().setup.arguments.0 = vec![
        ("x-max-length".to_owned(), FieldValue::I32(0)),
        text("x-dead-letter-exchange", ""),
        text("x-dead-letter-routing-key", "grave"),
    ];
    crate::deliver::put_in_force(&broker, &queue);
    let mut publisher = Publisher::new(broker.clone(), Arc::default());
    let slot = publisher.slot(&[queue.id], |_| Some(queue.clone())).unwrap();
    // One turn may begin before the thread that moves them has to wait.
    const MESSAGES: u64 = 100_000;
    let held = grave.lock();
    let header = [&60u16.to_be_bytes()[..], &[0; 12]].concat();
    for _ in 0..MESSAGES {
        publisher.append(slot, false, b"\0\x01q", &header, b"x");
    }
    publisher.flush();
    assert!(publisher.is_pressed() && is_paced(&mut queue.lock()));
    drop(held);
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while publisher.must_wait(0) {
        assert!(std::time::Instant::now() < patience, "held back for good");
        std::thread::yield_now();
    }
    while grave.lock().machine.ready() < MESSAGES {
        assert!(std::time::Instant::now() < patience, "not all of them arrived");
        std::thread::yield_now();
    }
}
