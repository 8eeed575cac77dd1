//! Queues with `x-dead-letter-exchange`: which messages go there, how, and what becomes of those that cannot.

use std::time::{Duration, Instant};

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{
    Broker, Consume, Exchange, FieldTable, FieldValue, Handshake, Method, Options, Peer, Properties, Publish,
    Queue, Received, TIMEOUT, table, text,
};

use super::{broker, unique};

const ACCESS_REFUSED: u16 = 403;

/// A queue whose dead letters go to `target` by the default exchange, with more arguments.
fn dead_lettering(peer: &mut Peer, target: &str, more: &[(&str, FieldValue)]) -> String {
    let queue = unique("work");
    let mut arguments =
        table([("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text(target))]);
    arguments.0.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    peer.declare(1, &Queue { arguments, exclusive: true, ..Queue::named(&queue) });
    queue
}

fn exclusive(peer: &mut Peer, base: &str) -> String {
    let queue = unique(base);
    peer.declare(1, &Queue::exclusive(&queue));
    queue
}

/// The next message of a queue, waited for.
#[track_caller]
pub(super) fn arrives(peer: &mut Peer, queue: &str) -> Received {
    let patience = Instant::now() + TIMEOUT;
    loop {
        if let Some(message) = peer.get(1, queue, true) {
            return message;
        }
        assert!(Instant::now() < patience, "nothing arrived in {queue}");
    }
}

/// Takes the next message and does not want it.
pub(super) fn nack(peer: &mut Peer, queue: &str) {
    let got = peer.get(1, queue, false).expect("a message to reject");
    peer.send(1, &Method::BasicNack { delivery_tag: got.tag, multiple: false, requeue: false });
}

fn reject(peer: &mut Peer, queue: &str) {
    let got = peer.get(1, queue, false).expect("a message to reject");
    peer.send(1, &Method::BasicReject { delivery_tag: got.tag, requeue: false });
}

fn headers(message: &Received) -> FieldTable {
    message.properties().headers.unwrap_or_default()
}

fn header(message: &Received, name: &str) -> String {
    match headers(message).get(name) {
        Some(FieldValue::LongStr(text)) => String::from_utf8_lossy(text).into_owned(),
        other => panic!("{name}: {other:?}"),
    }
}

/// `queue reason count` of each death, the last one first.
fn deaths(message: &Received) -> Vec<String> {
    let Some(FieldValue::Array(deaths)) = headers(message).get("x-death").cloned() else { return Vec::new() };
    let text = |death: &FieldTable, name| match death.get(name) {
        Some(FieldValue::LongStr(text)) => String::from_utf8_lossy(text).into_owned(),
        other => panic!("{name}: {other:?}"),
    };
    let one = |death: FieldValue| match death {
        FieldValue::Table(death) => {
            let count = death.get("count").and_then(FieldValue::as_int).expect("a count");
            format!("{} {} {count}", text(&death, "queue"), text(&death, "reason"))
        }
        other => panic!("{other:?}"),
    };
    deaths.into_iter().map(one).collect()
}

/// What `list_queues` says of a queue on its way out.
fn leaving(broker: &Broker, queue: &str) -> u64 {
    let rows = broker.ctl(&["list_queues", "name,messages_dlx"]);
    let row = rows.lines().find_map(|row| row.strip_prefix(queue)?.strip_prefix('\t'));
    row.and_then(|count| count.trim().parse().ok()).expect("the queue's row")
}

#[track_caller]
pub(super) fn await_leaving(broker: &Broker, queue: &str, expected: u64) {
    let patience = Instant::now() + TIMEOUT;
    while leaving(broker, queue) != expected {
        assert!(Instant::now() < patience, "{} leave, not {expected}", leaving(broker, queue));
    }
}

#[test]
fn both_ends_of_a_history_are_told() {
    let mut peer = broker().peer();
    let grave = exclusive(&mut peer, "grave");
    let second = dead_lettering(&mut peer, &grave, &[]);
    let first = dead_lettering(&mut peer, &second, &[]);
    peer.publish(1, "", &first, "m");
    nack(&mut peer, &first);
    let patience = Instant::now() + TIMEOUT;
    while peer.counts(1, &second).0 == 0 {
        assert!(Instant::now() < patience, "it did not come to the second queue");
    }
    nack(&mut peer, &second);
    let letter = arrives(&mut peer, &grave);
    assert_eq!(deaths(&letter), [format!("{second} rejected 1"), format!("{first} rejected 1")]);
    assert_eq!(
        (header(&letter, "x-first-death-queue"), header(&letter, "x-last-death-queue")),
        (first, second)
    );
    assert_eq!((letter.text(), letter.routing_key), ("m".to_owned(), grave));
}

#[test]
fn only_basic_reject_marks_what_it_rejects() {
    let mut peer = broker().peer();
    let grave = exclusive(&mut peer, "grave");
    let queue = dead_lettering(&mut peer, &grave, &[]);
    for body in ["nacked", "rejected"] {
        peer.publish(1, "", &queue, body);
    }
    nack(&mut peer, &queue);
    assert!(!arrives(&mut peer, &grave).redelivered);
    reject(&mut peer, &queue);
    assert!(arrives(&mut peer, &grave).redelivered);
}

#[test]
fn a_consumer_gets_dead_letters_as_they_come() {
    let mut peer = broker().peer();
    let grave = exclusive(&mut peer, "grave");
    let queue = dead_lettering(&mut peer, &grave, &[("x-max-length", FieldValue::I32(0))]);
    peer.open_channel(2);
    peer.consume(2, &Consume::no_ack(&grave));
    for number in 0..50 {
        peer.publish(1, "", &queue, &number.to_string());
    }
    for number in 0..50 {
        let letter = peer.message(2);
        assert_eq!((letter.text(), deaths(&letter)), (number.to_string(), vec![format!("{queue} maxlen 1")]));
    }
}

#[test]
fn a_refused_publish_is_answered_and_dead_lettered() {
    let mut peer = broker().peer();
    let grave = exclusive(&mut peer, "grave");
    let limits = [("x-max-length", FieldValue::I32(1)), ("x-overflow", text("reject-publish-dlx"))];
    let queue = dead_lettering(&mut peer, &grave, &limits);
    peer.select_confirms(1);
    let mut batch = Vec::new();
    for body in [&b"kept"[..], b"refused"] {
        Publish { body, ..Publish::to("", &queue) }.write(1, 131_072, &mut batch);
    }
    peer.send_bytes(&batch);
    let answers: Vec<_> = (0..2).map(|_| peer.method(1)).collect();
    let said = |expected: fn(&Method<'_>) -> bool| answers.iter().any(|answer| expected(&answer.get()));
    assert!(said(|method| matches!(method, Method::BasicAck { delivery_tag: 1, .. })), "{answers:?}");
    assert!(said(|method| matches!(method, Method::BasicNack { delivery_tag: 2, .. })), "{answers:?}");
    let letter = arrives(&mut peer, &grave);
    assert_eq!((letter.text(), deaths(&letter)), ("refused".to_owned(), vec![format!("{queue} maxlen 1")]));
    assert_eq!(peer.drain(1, &queue), ["kept"]);
}

#[test]
fn the_keys_of_bcc_count_again_and_are_seen_by_nobody() {
    let mut peer = broker().peer();
    let (grave, second) = (exclusive(&mut peer, "grave"), exclusive(&mut peer, "second"));
    let exchange = unique("dlx");
    let declared = Exchange { auto_delete: true, ..Exchange::named(&exchange, "direct") };
    peer.declare_exchange(1, &declared);
    peer.bind(1, &grave, &exchange, "hidden");
    let work = unique("work");
    let arguments = table([("x-dead-letter-exchange", text(&exchange))]);
    peer.declare(1, &Queue { arguments, exclusive: true, ..Queue::named(&work) });
    let keys = FieldValue::Array(vec![text("hidden"), text(&second)]);
    let properties = Properties { headers: Some(table([("BCC", keys)])), ..Properties::default() };
    peer.publish_with(1, &Publish { properties, ..Publish::to("", &work) });
    let copy = arrives(&mut peer, &second);
    assert_eq!((&copy.routing_key, headers(&copy).0.len()), (&work, 0));
    nack(&mut peer, &work);
    let letter = arrives(&mut peer, &grave);
    assert_eq!((&letter.routing_key, headers(&letter).get("BCC")), (&work, None));
}

#[test]
fn those_without_a_place_to_go_stay_only_at_least_once() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    for (queue, strategy) in [("once", "at-most-once"), ("sure", "at-least-once")] {
        let arguments = table([
            ("x-dead-letter-exchange", text("later")),
            ("x-dead-letter-strategy", text(strategy)),
            ("x-overflow", text("reject-publish")),
        ]);
        peer.declare(1, &Queue { arguments, ..Queue::named(queue) });
        for body in ["1", "2"] {
            peer.publish(1, "", queue, body);
            nack(&mut peer, queue);
        }
    }
    await_leaving(&broker, "once", 0);
    await_leaving(&broker, "sure", 2);
    assert_eq!(peer.counts(1, "sure").0, 0);
    peer.declare_exchange(1, &Exchange::named("later", "fanout"));
    peer.declare(1, &Queue::named("grave"));
    peer.publish(1, "", "sure", "3");
    nack(&mut peer, "sure");
    await_leaving(&broker, "sure", 3);
    assert_eq!(peer.get(1, "grave", true).map(|_| ()), None, "bound to nothing yet");
    peer.bind(1, "grave", "later", "");
    let bodies: Vec<String> = (0..3).map(|_| arrives(&mut peer, "grave").text()).collect();
    assert_eq!(bodies, ["1", "2", "3"]);
    await_leaving(&broker, "sure", 0);
}

#[test]
fn a_full_target_is_waited_for() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let limits = table([("x-max-length", FieldValue::I32(2)), ("x-overflow", text("reject-publish"))]);
    peer.declare(1, &Queue { arguments: limits, ..Queue::durable("full") });
    let arguments =
        table([("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text("full"))]);
    peer.declare(1, &Queue { arguments, ..Queue::durable("work") });
    for number in 0..5 {
        let body = number.to_string();
        peer.publish_with(
            1,
            &Publish { properties: persistent(), body: body.as_bytes(), ..Publish::to("", "work") },
        );
        nack(&mut peer, "work");
    }
    await_leaving(&broker, "work", 3);
    assert_eq!(peer.counts(1, "full").0, 2);
    // What is leaving is not ready: it is not purged, and it is not handed out.
    assert_eq!(peer.drain(1, "work"), [] as [&str; 0]);
    let bodies: Vec<String> = (0..5).map(|_| arrives(&mut peer, "full").text()).collect();
    assert_eq!(bodies, ["0", "1", "2", "3", "4"]);
    await_leaving(&broker, "work", 0);
}

#[test]
fn a_queue_with_letters_that_wait_can_be_deleted() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let arguments = table([
        ("x-dead-letter-exchange", text("nowhere")),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ]);
    for _ in 0..2 {
        peer.declare(1, &Queue { arguments: arguments.clone(), ..Queue::durable("work") });
        peer.publish_with(1, &Publish { properties: persistent(), ..Publish::to("", "work") });
        nack(&mut peer, "work");
        await_leaving(&broker, "work", 1);
        assert_eq!(peer.delete(1, "work"), 0);
    }
}

#[test]
fn policies_turn_it_on_and_off() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    for queue in ["work", "grave"] {
        peer.declare(1, &Queue::named(queue));
    }
    let kept = |peer: &mut Peer| {
        peer.publish(1, "", "work", "m");
        nack(peer, "work");
        peer.await_counts(1, "work", (0, 0));
    };
    let definition = r#"{"dead-letter-exchange":"","dead-letter-routing-key":"grave"}"#;
    broker.ctl(&["set_policy", "dlx", "^work$", definition]);
    kept(&mut peer);
    let letter = arrives(&mut peer, "grave");
    assert_eq!(deaths(&letter), ["work rejected 1"]);
    broker.ctl(&["clear_policy", "dlx"]);
    kept(&mut peer);
    let text = broker.ctl(&["list_queues", "name,messages_dlx,messages_rejected"]);
    assert!(text.contains("work\t0\t2"), "{text}");
    assert_eq!(peer.get(1, "grave", true).map(|_| ()), None);
}

#[test]
fn whoever_declares_must_be_allowed_to_publish_there() {
    let broker = Broker::start(Options::log());
    broker.ctl(&["add_user", "limited", "secret"]);
    broker.ctl(&["set_permissions", "limited", ".*", "^mine$", "^mine$"]);
    let mut peer = broker.peer_with(&Handshake::plain("limited", "secret"));
    for (queue, exchange, what) in [
        ("mine", "other", "write access to exchange 'other' in vhost '/'"),
        ("other", "mine", "read access to queue 'other' in vhost '/'"),
    ] {
        let arguments = table([("x-dead-letter-exchange", text(exchange))]);
        let declare = Queue { arguments, ..Queue::named(queue) };
        let refusal = format!("ACCESS_REFUSED - {what} refused for user 'limited'");
        peer.refused(1, &declare.method(), ACCESS_REFUSED, &refusal);
    }
    let arguments = table([("x-dead-letter-exchange", text("mine"))]);
    peer.declare(1, &Queue { arguments, ..Queue::named("mine") });
}

#[test]
fn a_backlog_on_disk_is_dead_lettered_whole_and_in_order() {
    let broker = Broker::start(Options::log().set("POSTHOUSE__MEMORY__BUDGET", "16MiB"));
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("grave"));
    peer.declare(1, &Queue::durable("work"));
    peer.select_confirms(1);
    let padding = "x".repeat(20_000);
    for number in 0..1500 {
        let body = format!("{number} {padding}");
        peer.publish_with(
            1,
            &Publish { properties: persistent(), body: body.as_bytes(), ..Publish::to("", "work") },
        );
    }
    peer.confirmed(1, 1500);
    let policy = r#"{"dead-letter-exchange":"","dead-letter-routing-key":"grave","max-length":10}"#;
    broker.ctl(&["set_policy", "short", "^work$", policy]);
    for number in 0..1490 {
        let letter = arrives(&mut peer, "grave");
        assert_eq!(letter.text().split(' ').next(), Some(number.to_string().as_str()));
    }
    assert_eq!(peer.counts(1, "work").0, 10);
    await_leaving(&broker, "work", 0);
}

#[test]
fn queues_by_the_thousand_are_served_in_turn() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::named("grave"));
    let policy = r#"{"dead-letter-exchange":"","dead-letter-routing-key":"grave","max-length":0}"#;
    for number in 0..1000 {
        peer.declare(1, &Queue::named(&format!("q{number}")));
        peer.publish(1, "", &format!("q{number}"), "m");
    }
    peer.counts(1, "grave");
    let started = Instant::now();
    broker.ctl(&["set_policy", "none", "^q", policy]);
    let patience = started + Duration::from_secs(20);
    while peer.counts(1, "grave").0 < 1000 {
        assert!(Instant::now() < patience, "{} of 1000 arrived", peer.counts(1, "grave").0);
    }
}
