//! Dead letters for queues that have no room for them: in nobody's way, in order, and not without end.

use posthouse_testkit::{
    Broker, Consume, Exchange, FieldValue, Method, Options, Peer, Publish, Queue, expect_method, table, text,
};

use super::dead_letters::{arrives, await_leaving, nack};

/// As many dead letters as a queue that drops keeps in any case.
const KEPT_MIN: usize = 1_000;

/// A queue that refuses what is beyond a limit.
fn refusing(peer: &mut Peer, queue: &str, limit: &str, value: i32) {
    let arguments = table([(limit, FieldValue::I32(value)), ("x-overflow", text("reject-publish"))]);
    peer.declare(1, &Queue { arguments, ..Queue::named(queue) });
}

/// A queue `work` that dead-letters to the queue that its messages were published to by exchange `in`, with more arguments.
fn dead_lettering(peer: &mut Peer, targets: &[&str], more: &[(&str, FieldValue)]) {
    let mut arguments = table([("x-dead-letter-exchange", text(""))]);
    arguments.0.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    peer.declare(1, &Queue { arguments, ..Queue::named("work") });
    peer.declare_exchange(1, &Exchange::named("in", "direct"));
    for target in targets {
        peer.bind(1, "work", "in", target);
    }
}

fn number_of(peer: &mut Peer, queue: &str) -> String {
    arrives(peer, queue).text()
}

#[test]
fn those_that_have_a_place_go_past_those_that_have_not() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    refusing(&mut peer, "full", "x-max-length", 1);
    peer.declare(1, &Queue::named("open"));
    dead_lettering(&mut peer, &["full", "open"], &[]);
    for number in 0..40 {
        let target = if number % 2 == 0 { "full" } else { "open" };
        peer.publish(1, "in", target, &number.to_string());
        nack(&mut peer, "work");
    }
    for number in (1..40).step_by(2) {
        assert_eq!(number_of(&mut peer, "open"), number.to_string());
    }
    await_leaving(&broker, "work", 19);
    // Each that is taken makes room for the next one, whatever comes meanwhile.
    for number in (0..40).step_by(2) {
        assert_eq!(number_of(&mut peer, "full"), number.to_string());
        if number == 10 {
            peer.publish(1, "in", "full", "last");
            nack(&mut peer, "work");
        }
    }
    assert_eq!(number_of(&mut peer, "full"), "last");
    await_leaving(&broker, "work", 0);
}

#[test]
fn a_letter_that_is_too_large_holds_up_nobody() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let limit = |bytes: u32| {
        let policy = format!(r#"{{"max-length-bytes":{bytes},"overflow":"reject-publish"}}"#);
        broker.ctl(&["set_policy", "limit", "^small$", &policy]);
    };
    limit(10);
    peer.declare(1, &Queue::named("small"));
    dead_lettering(&mut peer, &["small"], &[]);
    for body in ["1", "too large for it", "2", "3"] {
        peer.publish(1, "in", "small", body);
    }
    let got: Vec<_> = (0..4).map(|_| peer.get(1, "work", false).expect("a message")).collect();
    peer.send(1, &Method::BasicNack { delivery_tag: got[3].tag, multiple: true, requeue: false });
    for expected in ["1", "2", "3"] {
        assert_eq!(number_of(&mut peer, "small"), expected);
    }
    await_leaving(&broker, "work", 1);
    broker.ctl(&["set_policy", "unrelated", "^none$", r#"{"max-length":1}"#]);
    await_leaving(&broker, "work", 1);
    limit(20);
    assert_eq!(number_of(&mut peer, "small"), "too large for it");
    await_leaving(&broker, "work", 0);
}

#[test]
fn a_queue_that_drops_does_not_grow_behind_a_full_target() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    refusing(&mut peer, "full", "x-max-length", 500);
    dead_lettering(&mut peer, &["full"], &[("x-max-length", FieldValue::I32(5))]);
    peer.select_confirms(1);
    let publishes = KEPT_MIN + 2_000;
    let mut batch = Vec::new();
    for number in 0..publishes {
        let body = number.to_string();
        Publish { body: body.as_bytes(), ..Publish::to("in", "full") }.write(1, 131_072, &mut batch);
    }
    peer.send_bytes(&batch);
    peer.confirmed(1, publishes as u64);
    await_leaving(&broker, "work", KEPT_MIN as u64);
    assert_eq!(peer.counts(1, "work").0, 5);
    let dropped = broker.ctl(&["list_queues", "-s", "name", "messages_dlx_dropped"]);
    let expected = publishes - 500 - KEPT_MIN - 5;
    assert!(dropped.contains(&format!("work\t{expected}\n")), "{expected}: {dropped}");
    // The target has the first ones, and the next ones wait for it; those after them are gone.
    for number in 0..500 + KEPT_MIN {
        assert_eq!(number_of(&mut peer, "full"), number.to_string());
    }
    await_leaving(&broker, "work", 0);
    assert_eq!(peer.get(1, "full", true).map(|_| ()), None);
    let newest: Vec<String> = (publishes - 5..publishes).map(|number| number.to_string()).collect();
    assert_eq!(peer.drain(1, "work"), newest);
}

#[test]
fn where_publishes_are_refused_letters_that_wait_take_room() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    refusing(&mut peer, "full", "x-max-length", 1);
    let more = [("x-max-length", FieldValue::I32(2)), ("x-overflow", text("reject-publish"))];
    dead_lettering(&mut peer, &["full"], &more);
    peer.select_confirms(1);
    for number in 0..3 {
        peer.publish(1, "in", "full", &number.to_string());
        expect_method!(peer, 1, Method::BasicAck { .. });
        nack(&mut peer, "work");
        await_leaving(&broker, "work", number);
    }
    // What has only just left does not take room until it was tried once.
    loop {
        peer.publish(1, "in", "full", "refused");
        let accepted = match peer.method(1).get() {
            Method::BasicAck { .. } => true,
            Method::BasicNack { .. } => false,
            other => panic!("expected a confirm, got {other:?}"),
        };
        if !accepted {
            break;
        }
        peer.get(1, "work", true).expect("what was accepted");
    }
    for number in 0..3 {
        assert_eq!(number_of(&mut peer, "full"), number.to_string());
    }
    peer.publish(1, "in", "full", "welcome");
    expect_method!(peer, 1, Method::BasicAck { .. });
}

/// A history keeps a dead letter when it gets to a queue, not each time that it is tried.
#[test]
fn letters_that_find_no_room_are_in_no_history() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare_exchange(1, &Exchange::named("history", "x-recent-history"));
    refusing(&mut peer, "full", "x-max-length", 1);
    peer.bind(1, "full", "history", "");
    let arguments = table([("x-dead-letter-exchange", text("history"))]);
    peer.declare(1, &Queue { arguments, ..Queue::named("work") });
    let history = |peer: &mut Peer| {
        let late = peer.server_named(1);
        peer.bind(1, &late, "history", "late");
        let all = peer.drain(1, &late);
        peer.delete(1, &late);
        all
    };
    for body in ["1", "2", "3"] {
        peer.publish(1, "", "work", body);
        nack(&mut peer, "work");
    }
    await_leaving(&broker, "work", 2);
    // Routes change, and it is tried again.
    for _ in 0..3 {
        assert_eq!(history(&mut peer), ["1"]);
    }
    for body in ["1", "2", "3"] {
        assert_eq!(number_of(&mut peer, "full"), body);
    }
    await_leaving(&broker, "work", 0);
    assert_eq!(history(&mut peer), ["1", "2", "3"]);
}

/// They are told of it: nobody looks from time to time.
#[test]
fn letters_go_on_as_soon_as_there_is_room() {
    const LETTERS: usize = 2_000;
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    refusing(&mut peer, "full", "x-max-length", 1);
    dead_lettering(&mut peer, &["full"], &[]);
    for number in 0..LETTERS {
        peer.publish(1, "in", "full", &number.to_string());
    }
    let last = (0..LETTERS).filter_map(|_| peer.get(1, "work", false)).last().expect("a message");
    peer.send(1, &Method::BasicNack { delivery_tag: last.tag, multiple: true, requeue: false });
    await_leaving(&broker, "work", LETTERS as u64 - 1);
    let started = std::time::Instant::now();
    peer.open_channel(2);
    peer.consume(2, &Consume::no_ack("full"));
    for number in 0..LETTERS {
        assert_eq!(peer.message(2).text(), number.to_string());
    }
    // It takes a fifth of a second; a look at the queue for each would take ten.
    assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
}
