//! Transfers between queues of a broker that nobody is connected to.

use posthouse_model::ids::Seq;
use posthouse_model::queue_settings::QueueSettings;
use posthouse_model::shares::UserNumber;

use super::*;
use crate::declare::QueueDeclaration;
use crate::publish::Publisher;
use crate::start::testing::{PLENTY_BYTES, broker, in_small_files};
use crate::waker::SessionWaker;

fn declare(broker: &Arc<Broker>, name: &str) -> Arc<QueueHandle> {
    let declaration = QueueDeclaration { name: name.into(), durable: true, ..QueueDeclaration::default() };
    broker.declare_queue(&broker.vhost("/").unwrap(), declaration, 0).unwrap().queue
}

fn publish(broker: &Arc<Broker>, queue: &Arc<QueueHandle>, bodies: &[&str]) {
    let mut publisher = Publisher::new(broker.clone(), Arc::default());
    let slot = publisher.slot(&[queue.id], |_| Some(queue.clone())).unwrap();
    bodies.iter().for_each(|body| publisher.append(slot, true, b"\0\x01q", b"", body.as_bytes()));
    publisher.flush();
}

/// A publisher that waits for room in a queue.
fn paced(queue: &Arc<QueueHandle>) -> Arc<SessionWaker> {
    let publisher = Arc::<SessionWaker>::default();
    queue.lock().waiting.push(publisher.clone());
    publisher
}

fn moving(seq: Seq) -> Moving<'static> {
    let (flags, header, body) = (FLAG_PERSISTENT, &b""[..], &b"x"[..]);
    let publisher = UserNumber::NOBODY;
    Moving { seq, reason: None, flags, publisher, waits_until_ms: None, route: b"\0\x01q", header, body }
}

/// Whoever is woken may want the staging lock at once. That it is not held then is asserted where they are woken.
#[test]
fn nobody_is_woken_while_the_staging_lock_is_held() {
    let data = tempfile::tempdir().unwrap();
    let broker = broker(in_small_files(data.path()), PLENTY_BYTES);
    let (source, target) = (declare(&broker, "source"), declare(&broker, "target"));
    publish(&broker, &source, &["a", "b", "c"]);
    let publisher = paced(&source);
    assert_eq!(purge(&broker, &source, &[(0, 0)]), 1);
    assert!(publisher.has_mail());
    // What arrives drives out what is there.
    target.lock().machine.set_settings(QueueSettings { max_length: Some(1), ..QueueSettings::default() });
    let publisher = paced(&target);
    let mut transfer = Transfer::new(&broker, &source, Mode::Ready, 1);
    let targets: Targets = std::iter::once(Target::new(target.clone())).collect();
    (1..=2).for_each(|seq| transfer.add(&targets, moving(seq)));
    assert_eq!(transfer.commit().moved, 2);
    assert!(publisher.has_mail());
    assert_eq!((source.lock().machine.ready(), target.lock().machine.ready()), (0, 1));
}
