//! A session without a socket: frames in, frames out, one broker in memory.

use std::sync::Arc;

use posthouse_amqp::frame::{self, FrameKind};
use posthouse_amqp::method::{Method, write_method};
use posthouse_amqp::publish::PublishPrefix;
use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::props::Properties;
use posthouse_node::broker::Broker;
use posthouse_node::connections::ConnectionInfo;
use posthouse_node::waker::{Inbox, SessionWaker};

use super::session::{Peer, Session};
use crate::test_broker::broker;

const FRAME_MAX: u32 = 131_072;

fn session(broker: &Arc<Broker>) -> Session {
    let identity = broker.authorities().authenticate("PLAIN", b"\0guest\0guest", true).unwrap();
    let access = broker.authorities().access("guest", "/").unwrap();
    let waker = Arc::new(SessionWaker::default());
    let info = Arc::new(ConnectionInfo {
        id: broker.connections().next_id(),
        name: String::new(),
        protocol: "AMQP 0-9-1",
        user: "guest".into(),
        vhost: "/".into(),
        client_properties: FieldTable::default(),
        connected_at_ms: 0,
        channels: 0.into(),
        state: Default::default(),
        used_up: Default::default(),
        waker: waker.clone(),
    });
    let (user, vhost) = (identity.user.clone(), broker.vhost("/").unwrap());
    let place = broker.connections().take_place((vhost.name(), None), (&user, None)).unwrap();
    let peer = Peer {
        identity,
        vhost: broker.vhost("/").unwrap(),
        channel_max: 10,
        frame_max: FRAME_MAX,
        consumer_cancel_notify: true,
        connection_blocked: true,
        qos_of_specification: false,
        info,
        place,
    };
    let mut session = Session::new(broker.clone(), peer, access, waker);
    assert_eq!(send(&mut session, &[Method::ChannelOpen {}]), ["ChannelOpenOk"]);
    session
}

/// Processes input as one batch and names the methods that came back.
fn input(session: &mut Session, bytes: &[u8]) -> Vec<String> {
    assert_eq!(session.input(bytes, 0).unwrap(), bytes.len());
    let mut inbox = Inbox::default();
    while session.waker.has_mail() {
        session.on_inbox(&mut inbox).unwrap();
    }
    session.end_batch();
    replies(session)
}

fn replies(session: &mut Session) -> Vec<String> {
    let out = std::mem::take(&mut session.out).bytes;
    let (mut at, mut names) = (0, Vec::new());
    while let Some((frame, bytes)) = frame::next_frame(&out[at..], FRAME_MAX as usize).unwrap() {
        at += bytes;
        if frame.kind == FrameKind::Method {
            let method = format!("{:?}", Method::decode(frame.payload).unwrap());
            names.push(method.split([' ', '{']).next().unwrap().to_owned());
        }
    }
    assert_eq!(at, out.len());
    names
}

fn send(session: &mut Session, methods: &[Method<'_>]) -> Vec<String> {
    let mut bytes = Vec::new();
    methods.iter().for_each(|method| write_method(&mut bytes, 1, method));
    input(session, &bytes)
}

fn publish(session: &mut Session, exchange: &str, key: &str, properties: &Properties) -> Vec<String> {
    let (mut header, mut bytes) = (Vec::new(), Vec::new());
    properties.encode(1, &mut header);
    PublishPrefix::new(1, exchange, key, false).write(&mut bytes, &header, b"x", FRAME_MAX);
    input(session, &bytes)
}

fn declare(queue: &str) -> Method<'_> {
    Method::QueueDeclare {
        queue,
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: true,
        arguments: FieldTable::default(),
    }
}

fn consume<'a>(queue: &'a str, consumer_tag: &'a str, no_ack: bool, arguments: FieldTable) -> Method<'a> {
    let (no_local, exclusive, nowait) = (false, false, true);
    Method::BasicConsume { queue, consumer_tag, no_local, no_ack, exclusive, nowait, arguments }
}

/// Ready and unacknowledged messages.
fn counts(broker: &Broker, queue: &str) -> (u64, u64) {
    let queue = broker.vhost("/").unwrap().find_queue(queue).unwrap();
    let state = queue.lock();
    (state.machine.ready(), state.machine.unacked())
}

fn ack(delivery_tag: u64) -> Method<'static> {
    Method::BasicAck { delivery_tag, multiple: false }
}

fn qos(prefetch_count: u16, global: bool) -> Method<'static> {
    Method::BasicQos { prefetch_size: 0, prefetch_count, global }
}

#[test]
fn a_refused_message_is_not_confirmed() {
    let broker = broker();
    let mut session = session(&broker);
    send(&mut session, &[declare("q"), Method::ConfirmSelect { nowait: true }]);
    assert_eq!(publish(&mut session, "", "q", &Properties::default()), ["BasicAck"]);
    let forged = Properties { user_id: Some("somebody".into()), ..Properties::default() };
    assert_eq!(publish(&mut session, "", "q", &forged), ["ChannelClose"]);
}

#[test]
fn a_commit_that_fails_publishes_nothing_and_gives_deliveries_back() {
    let broker = broker();
    let mut session = session(&broker);
    let (exchange, exchange_type, no) = ("x", "fanout", false);
    let exchange_declare = Method::ExchangeDeclare {
        exchange,
        exchange_type,
        passive: no,
        durable: no,
        auto_delete: no,
        internal: no,
        nowait: true,
        arguments: FieldTable::default(),
    };
    send(&mut session, &[declare("q"), exchange_declare]);
    publish(&mut session, "", "q", &Properties::default());
    let started = send(&mut session, &[Method::TxSelect {}, consume("q", "c", false, FieldTable::default())]);
    assert_eq!(started, ["TxSelectOk", "BasicDeliver"]);
    send(&mut session, &[ack(1)]);
    publish(&mut session, "", "q", &Properties::default());
    publish(&mut session, "x", "", &Properties::default());
    broker.delete_exchange(&broker.vhost("/").unwrap(), "x", false).unwrap();
    assert_eq!(send(&mut session, &[Method::TxCommit {}]), ["ChannelClose"]);
    assert_eq!(counts(&broker, "q"), (1, 0), "the delivered one is back, none was published");
}

#[test]
fn a_transaction_refuses_at_once_what_it_could_not_commit() {
    let mut session = session(&broker());
    send(&mut session, &[declare("q"), Method::TxSelect {}]);
    let forged = Properties { user_id: Some("somebody".into()), ..Properties::default() };
    assert_eq!(publish(&mut session, "", "q", &forged), ["ChannelClose"]);
}

#[test]
fn an_acknowledgement_gives_credit_when_it_is_committed() {
    let broker = broker();
    let mut session = session(&broker);
    send(&mut session, &[declare("q")]);
    for _ in 0..3 {
        publish(&mut session, "", "q", &Properties::default());
    }
    let consume = consume("q", "c", false, FieldTable::default());
    let started = send(&mut session, &[Method::TxSelect {}, qos(1, false), consume]);
    assert_eq!(started, ["TxSelectOk", "BasicQosOk", "BasicDeliver"]);
    assert_eq!(send(&mut session, &[ack(1)]), [] as [&str; 0], "nothing is settled yet");
    assert_eq!(send(&mut session, &[Method::TxRollback {}]), ["TxRollbackOk"]);
    assert_eq!(send(&mut session, &[ack(1), Method::TxCommit {}]), ["TxCommitOk", "BasicDeliver"]);
    assert_eq!(counts(&broker, "q"), (1, 1));
}

#[test]
fn prefetch_of_a_running_consumer_changes_for_those_who_expect_it() {
    for expects in [true, false] {
        let mut session = session(&broker());
        session.peer.qos_of_specification = expects;
        send(&mut session, &[declare("q")]);
        for _ in 0..3 {
            publish(&mut session, "", "q", &Properties::default());
        }
        let consume = consume("q", "c", false, FieldTable::default());
        assert_eq!(send(&mut session, &[qos(1, false), consume]), ["BasicQosOk", "BasicDeliver"]);
        let (nothing_more, another) = (&["BasicQosOk"][..], &["BasicQosOk", "BasicDeliver"][..]);
        let raised = send(&mut session, &[qos(2, false)]);
        assert_eq!(raised, if expects { another } else { nothing_more });
        let lowered = send(&mut session, &[qos(1, false), ack(1)]);
        assert_eq!(lowered, if expects { nothing_more } else { another }, "one is outstanding, or none");
    }
}

#[test]
fn a_failed_consume_leaves_no_reply_queue_behind() {
    let broker = broker();
    let mut session = session(&broker);
    let vhost = broker.vhost("/").unwrap();
    let epoch = vhost.epoch();
    let wrong = FieldTable(vec![("x-priority".into(), FieldValue::Bool(true))]);
    let closed = send(&mut session, &[consume("amq.rabbitmq.reply-to", "c", true, wrong)]);
    assert_eq!(closed, ["ChannelClose"]);
    assert_eq!(vhost.epoch(), epoch, "no queue was made");
}

#[test]
fn exclusive_queues_that_are_gone_do_not_pile_up() {
    let mut session = session(&broker());
    for _ in 0..100 {
        let declare = Method::QueueDeclare {
            queue: "",
            passive: false,
            durable: false,
            exclusive: true,
            auto_delete: true,
            nowait: true,
            arguments: FieldTable::default(),
        };
        let cancel = Method::BasicCancel { consumer_tag: "c", nowait: true };
        let consume = consume("", "c", true, FieldTable::default());
        assert_eq!(send(&mut session, &[declare, consume, cancel]), [] as [&str; 0]);
    }
    assert!(session.exclusive.len() < 10, "{} are kept", session.exclusive.len());
}

#[test]
fn a_cancelled_consumer_leaves_the_channels_credit_to_the_others() {
    let mut session = session(&broker());
    send(&mut session, &[declare("q"), declare("r"), qos(1, true)]);
    publish(&mut session, "", "q", &Properties::default());
    publish(&mut session, "", "r", &Properties::default());
    let first = consume("q", "first", false, FieldTable::default());
    assert_eq!(send(&mut session, &[first]), ["BasicDeliver"]);
    assert_eq!(send(&mut session, &[consume("r", "second", false, FieldTable::default())]), [] as [&str; 0]);
    let cancel = Method::BasicCancel { consumer_tag: "first", nowait: true };
    assert_eq!(send(&mut session, &[cancel]), ["BasicDeliver"]);
}
