//! Transfers between queues of a broker that nobody is connected to.

use posthouse_model::exchange::ExchangeKind;
use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::ids::Seq;
use posthouse_model::name::Name;
use posthouse_model::props::{HeaderView, Properties};
use posthouse_model::queue_settings::{Overflow, QueueSettings};
use posthouse_model::shares::UserNumber;
use posthouse_queue::topology::{BindingRecord, DestinationName, ExchangeRecord, Routed};

use super::*;
use crate::declare::QueueDeclaration;
use crate::publish::{Publisher, SHARE_BYTES_MIN};
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
    let (publisher, waits_until_ms, traces, route) = (UserNumber::NOBODY, None, None, &b"\0\x01q"[..]);
    Moving { seq, reason: None, flags, publisher, waits_until_ms, traces, route, header, body }
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

/// Publishers must not be refused because a place is kept for what has taken one already.
#[test]
fn no_room_is_kept_for_messages_that_are_there() {
    let data = tempfile::tempdir().unwrap();
    let broker = broker(in_small_files(data.path()), PLENTY_BYTES);
    let (source, target) = (declare(&broker, "source"), declare(&broker, "target"));
    let settings =
        QueueSettings { max_length: Some(9), overflow: Overflow::RejectPublish, ..QueueSettings::default() };
    target.lock().machine.set_settings(settings);
    publish(&broker, &source, &["a", "b"]);
    for (seq, body_bytes) in [(0, 1), (1, SHARE_BYTES_MIN)] {
        let mut transfer = Transfer::new(&broker, &source, Mode::Ready, 1);
        let targets: Targets = std::iter::once(Target::new(target.clone())).collect();
        transfer.add(&targets, Moving { body: &vec![0; body_bytes], ..moving(seq) });
        let mut group = transfer.groups.pop_front().unwrap();
        transfer.make_fit(&mut group);
        transfer.claim(&mut group);
        let room = || target.lock().machine.room().messages;
        let before = room();
        transfer.hand_over(&mut group, broker.wal().map(|wal| wal.stage()).as_mut());
        assert_eq!((before, room()), (8 - seq, 8 - seq));
    }
}

/// A deduplication exchange in front of a recent history, to which a queue is bound.
fn declare_exchanges(broker: &Arc<Broker>, queue: &str) {
    let vhost = broker.vhost("/").unwrap();
    let size = ("x-cache-size".to_owned(), FieldValue::I32(9));
    let kinds = [
        ("once", ExchangeKind::Deduplication, FieldTable(vec![size])),
        ("history", ExchangeKind::RecentHistory, FieldTable::default()),
    ];
    for (name, kind, arguments) in kinds {
        let name = Name::truncated(name);
        let (durable, auto_delete, internal) = (false, false, false);
        let exchange = ExchangeRecord { name, kind, durable, auto_delete, internal, arguments };
        broker.declare_exchange(&vhost, exchange).unwrap();
    }
    let bindings = [
        ("once", DestinationName::Exchange(Name::truncated("history"))),
        ("history", DestinationName::Queue(Name::truncated(queue))),
    ];
    for (source, destination) in bindings {
        let (source, routing_key, arguments) =
            (Name::truncated(source), Name::truncated(""), FieldTable::default());
        broker.bind(&vhost, BindingRecord { source, destination, routing_key, arguments }).unwrap();
    }
}

fn header_with(value: &str) -> Vec<u8> {
    let value = ("x-deduplication-header".to_owned(), FieldValue::LongStr(value.as_bytes().to_vec()));
    let (headers, mut header) = (Some(FieldTable(vec![value])), Vec::new());
    Properties { headers, ..Properties::default() }.encode(1, &mut header);
    header
}

/// Moves a message by the exchanges, after something happens to it; how many messages the history has then, and whether
/// another one with the same value is a duplicate.
fn enter_after(happens: impl FnOnce(&Arc<Broker>, &Arc<QueueHandle>, &Arc<QueueHandle>)) -> (usize, bool) {
    let data = tempfile::tempdir().unwrap();
    let broker = broker(in_small_files(data.path()), PLENTY_BYTES);
    let vhost = broker.vhost("/").unwrap();
    let (source, target) = (declare(&broker, "source"), declare(&broker, "target"));
    let settings =
        QueueSettings { max_length: Some(1), overflow: Overflow::RejectPublish, ..QueueSettings::default() };
    target.lock().machine.set_settings(settings);
    declare_exchanges(&broker, "target");
    publish(&broker, &source, &["x"]);
    let header = header_with("value");
    let view = HeaderView::parse(&header).unwrap();
    let routed = || Routed { header: Some(view), ..Routed::default() };
    let way = vhost.find_way("once", routed(), true);
    let targets: Targets = std::iter::once(Target::new(target.clone())).collect();
    let mut transfer = Transfer::new(&broker, &source, Mode::Ready, 1).entering(&vhost);
    let moving = Moving { traces: way.traces, route: b"\x04once\0", header: &header, ..moving(0) };
    transfer.add(&targets, moving);
    happens(&broker, &source, &target);
    transfer.commit_listing();
    let (room, ready) = {
        let state = target.lock();
        (state.machine.room().messages, state.machine.ready())
    };
    assert_eq!(room + ready, 1, "none is kept any more");
    let publication = crate::history::Publication {
        route: b"\x04once\0",
        is_persistent: false,
        header: &header,
        body: b"",
    };
    let histories = vhost.history("history").len();
    let is_duplicate = vhost.route_and_keep("once", routed(), publication, 2).unwrap().swallowed;
    (histories, is_duplicate)
}

#[test]
fn a_message_leaves_traces_when_it_enters() {
    assert_eq!(enter_after(|_, _, _| {}), (1, true));
}

#[test]
fn a_message_that_is_cancelled_meanwhile_leaves_none() {
    let cancel = |broker: &Arc<Broker>, source: &Arc<QueueHandle>, _: &Arc<QueueHandle>| {
        assert_eq!(purge(broker, source, &[(0, 0)]), 1);
    };
    assert_eq!(enter_after(cancel), (0, false));
}

#[test]
fn a_message_without_room_leaves_none() {
    let fill = |broker: &Arc<Broker>, _: &Arc<QueueHandle>, target: &Arc<QueueHandle>| {
        publish(broker, target, &["in the way"]);
    };
    assert_eq!(enter_after(fill), (0, false));
}

#[test]
fn a_message_that_goes_elsewhere_by_now_leaves_none() {
    let rebind = |broker: &Arc<Broker>, _: &Arc<QueueHandle>, _: &Arc<QueueHandle>| {
        let vhost = broker.vhost("/").unwrap();
        let other = declare(broker, "other");
        let (source, arguments) = (Name::truncated("history"), FieldTable::default());
        let destination = DestinationName::Queue(other.definition.name.clone());
        let binding = BindingRecord { source, destination, routing_key: Name::truncated(""), arguments };
        broker.bind(&vhost, binding).unwrap();
    };
    assert_eq!(enter_after(rebind), (0, false));
}
