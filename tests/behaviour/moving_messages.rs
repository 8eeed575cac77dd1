//! `posthouse ctl move_messages`, `copy_messages`, `redrive_queue` and `purge_messages`.

use std::time::{Duration, Instant};

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{
    Broker, Exchange, FieldValue, Method, Options, Peer, Properties, Publish, Queue, table, text,
};

/// A broker with the durable queue `q`, which has the messages 0, 1, 2, ...; `headers.even` says which are.
fn with_messages(count: u32) -> (Broker, Peer) {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("q"));
    peer.declare(1, &Queue::durable("to"));
    for number in 0..count {
        let headers = Some(table([("even", FieldValue::Bool(number % 2 == 0))]));
        let properties = Properties { headers, message_id: Some(number.to_string()), ..persistent() };
        let body = number.to_string();
        peer.publish_with(1, &Publish { properties, body: body.as_bytes(), ..Publish::to("", "q") });
    }
    peer.await_counts(1, "q", (count, 0));
    (broker, peer)
}

#[test]
fn those_that_match_are_moved_in_order_and_as_they_are() {
    let (broker, mut peer) = with_messages(10);
    let said = broker.ctl(&["move_messages", "q", "to", "--filter", "headers.even=true", "--count", "4"]);
    assert_eq!(said, "");
    let first = peer.get(1, "to", true).expect("a message");
    assert_eq!(
        (first.text(), first.exchange, first.routing_key),
        ("0".to_owned(), String::new(), "q".to_owned())
    );
    let first = peer.get(1, "to", false).expect("a message");
    assert_eq!(first.properties().message_id.as_deref(), Some("2"));
    peer.send(1, &Method::BasicReject { delivery_tag: first.tag, requeue: true });
    assert_eq!(peer.drain(1, "to"), ["2", "4", "6"]);
    assert_eq!(peer.drain(1, "q"), ["1", "3", "5", "7", "8", "9"]);
}

#[test]
fn what_is_handed_out_is_not_moved() {
    let (broker, mut peer) = with_messages(5);
    let held = peer.get(1, "q", false).expect("a message");
    broker.ctl(&["move_messages", "q", "to"]);
    peer.send(1, &Method::BasicReject { delivery_tag: held.tag, requeue: true });
    assert_eq!(peer.drain(1, "q"), ["0"]);
    assert_eq!(peer.drain(1, "to"), ["1", "2", "3", "4"]);
}

#[test]
fn a_copy_leaves_everything_where_it_is() {
    let (mut broker, mut peer) = with_messages(20);
    broker.ctl(&["copy_messages", "q", "to", "--count", "3"]);
    assert_eq!((peer.counts(1, "q").0, peer.counts(1, "to").0), (20, 3));
    peer.close();
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    assert_eq!(
        (peer.drain(1, "q").len(), peer.drain(1, "to")),
        (20, ["0", "1", "2"].map(str::to_owned).to_vec())
    );
}

#[test]
fn those_that_match_are_purged() {
    let (mut broker, peer) = with_messages(6);
    broker.ctl(&["purge_messages", "q", "--filter", "message_id=3"]);
    broker.ctl(&["purge_messages", "q", "--filter", "headers.even=true"]);
    peer.close();
    broker.kill();
    broker.start_again();
    assert_eq!(broker.peer().drain(1, "q"), ["1", "5"]);
}

#[test]
fn dead_letters_go_back_to_where_they_come_from() {
    let (broker, mut peer) = with_messages(0);
    peer.declare(1, &Queue::durable("grave"));
    peer.declare_exchange(1, &Exchange::named("work", "topic"));
    let arguments =
        table([("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text("grave"))]);
    for queue in ["a", "b", "gone"] {
        peer.declare(1, &Queue { arguments: arguments.clone(), ..Queue::durable(queue) });
        peer.bind(1, queue, "work", "#");
    }
    peer.publish(1, "work", "some.key", "m");
    peer.publish(1, "", "grave", "was never elsewhere");
    for queue in ["a", "b", "gone"] {
        let got = peer.get(1, queue, false).expect("a message");
        peer.send(1, &Method::BasicNack { delivery_tag: got.tag, multiple: false, requeue: false });
    }
    peer.await_counts(1, "grave", (4, 0));
    peer.delete(1, "gone");
    let said = broker.ctl(&["--formatter", "json", "redrive_queue", "grave"]);
    assert_eq!(said, "{\"messages\":2,\"stayed\":2}\n");
    assert_eq!(peer.counts(1, "grave").0, 2);
    for queue in ["a", "b"] {
        let back = peer.get(1, queue, false).expect("a message");
        assert_eq!((back.text(), &*back.exchange, &*back.routing_key), ("m".to_owned(), "work", "some.key"));
        let deaths = back.properties().headers.and_then(|headers| headers.get("x-death").cloned());
        assert!(matches!(deaths, Some(FieldValue::Array(deaths)) if deaths.len() == 1));
        peer.send(1, &Method::BasicNack { delivery_tag: back.tag, multiple: false, requeue: false });
    }
    // The history goes on.
    peer.await_counts(1, "grave", (4, 0));
    let shown =
        broker.ctl(&["browse_queue", "grave", "properties", "--filter", "headers.x-first-death-queue=a"]);
    assert!(shown.contains("{count,2}"), "{shown}");
}

#[test]
fn a_full_target_takes_what_it_has_room_for() {
    let (broker, mut peer) = with_messages(5);
    let arguments = table([("x-max-length", FieldValue::I32(2)), ("x-overflow", text("reject-publish"))]);
    peer.declare(1, &Queue { arguments, ..Queue::durable("small") });
    let said = broker.ctl(&["--formatter", "json", "move_messages", "q", "small"]);
    assert_eq!(said, "{\"messages\":2,\"stayed\":3}\n");
    assert_eq!(peer.drain(1, "small"), ["0", "1"]);
    assert_eq!(peer.drain(1, "q"), ["2", "3", "4"]);
}

#[test]
fn a_rate_is_kept() {
    let (broker, mut peer) = with_messages(11);
    let started = Instant::now();
    broker.ctl(&["move_messages", "q", "to", "--rate", "20"]);
    assert!(started.elapsed() >= Duration::from_millis(500), "{:?}", started.elapsed());
    assert_eq!(peer.counts(1, "to").0, 11);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (broker, _peer) = with_messages(1);
    for (words, complaint) in [
        (&["move_messages", "q", "q"][..], "expected another queue than 'q' to take its messages"),
        (&["copy_messages", "q", "none"], "no queue 'none' in vhost '/'"),
        (&["redrive_queue", "none"], "no queue 'none' in vhost '/'"),
        (&["purge_messages", "q", "--rate", "0"], "--rate: expected a number of at least 1, got 0"),
    ] {
        assert_eq!(broker.ctl_refused(words), complaint);
    }
    let filter = broker.ctl_refused(&["purge_messages", "q", "--filter", "colour=red"]);
    assert!(filter.starts_with("filter: expected exchange, routing_key"), "{filter}");
}
