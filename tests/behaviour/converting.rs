//! `posthouse ctl convert_queue`: a queue gets another type while it is in use.

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{
    Broker, Consume, FieldTable, FieldValue, Method, Options, Peer, Properties, Publish, Queue,
    expect_method, table, text,
};

/// Why a queue cannot be converted now.
const USED_UP: &str = "messages from before earlier conversions take up the levels that it needs; consume these first, or \
                       declare a new queue of that type and move all messages there, with `posthouse ctl move_messages`";

fn of_type(name: &str) -> FieldTable {
    table([("x-queue-type", text(name))])
}

fn publish(peer: &mut Peer, priority: Option<u8>, body: &str) {
    let properties = Properties { priority, ..persistent() };
    peer.publish_with(1, &Publish { properties, body: body.as_bytes(), ..Publish::to("", "q") });
}

fn nack(peer: &mut Peer, delivery_tag: u64) {
    peer.send(1, &Method::BasicNack { delivery_tag, multiple: false, requeue: true });
}

#[test]
fn consumers_and_publishers_stay_and_messages_keep_their_places() {
    let broker = Broker::start(Options::log());
    let (mut peer, mut consumer) = (broker.peer(), broker.peer());
    peer.declare(1, &Queue::durable("q"));
    peer.select_confirms(1);
    consumer.prefetch(1, 2, false);
    consumer.consume(1, &Consume::from("q"));
    for body in ["a", "b", "c", "d"] {
        publish(&mut peer, None, body);
    }
    peer.confirmed(1, 4);
    let (a, b) = (consumer.message(1), consumer.message(1));
    assert_eq!((a.text(), b.text()), ("a".into(), "b".into()));
    let said = broker.ctl(&["--formatter", "json", "convert_queue", "q", "--to", "quorum"]);
    assert_eq!(said, "{\"from\":\"classic\"}\n");
    let shown = broker.ctl(&["list_queues", "name,type,arguments,state,consumers,messages_unacknowledged"]);
    assert_eq!(shown, "q\tquorum\t[{x-queue-type,quorum}]\trunning\t1\t2\n");
    // The same connections go on; what comes back has its old place, and is counted now.
    publish(&mut peer, None, "e");
    publish(&mut peer, Some(9), "high");
    // The answer comes after both are there.
    peer.open_channel(2);
    peer.counts(2, "q");
    nack(&mut consumer, a.tag);
    let high = consumer.message(1);
    assert_eq!((high.text(), high.redelivered), ("high".into(), false));
    consumer.ack(1, high.tag);
    let again = consumer.message(1);
    assert_eq!((again.text(), again.redelivered), ("a".into(), true));
    let count = again.properties().headers.and_then(|headers| headers.get("x-delivery-count").cloned());
    assert_eq!(count.and_then(|count| count.as_int()), Some(1));
    consumer.ack(1, again.tag);
    consumer.ack(1, b.tag);
    let mut rest = Vec::new();
    for _ in 0..3 {
        let message = consumer.message(1);
        consumer.ack(1, message.tag);
        rest.push(message.text());
    }
    assert_eq!(rest, ["c", "d", "e"]);
    assert_eq!(broker.ctl(&["list_queues", "name,messages,consumers"]), "q\t0\t1\n");
}

#[test]
fn there_and_back_and_across_a_restart() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("q"));
    publish(&mut peer, Some(1), "old 1");
    publish(&mut peer, Some(8), "old 8");
    peer.await_counts(1, "q", (2, 0));
    broker.ctl(&["convert_queue", "q", "--to", "quorum"]);
    publish(&mut peer, Some(1), "low");
    publish(&mut peer, Some(5), "high");
    peer.await_counts(1, "q", (4, 0));
    let order = ["high", "old 1", "old 8", "low"];
    let browse = ["browse_queue", "q", "payload"];
    assert_eq!(broker.ctl(&browse).lines().collect::<Vec<_>>(), order);
    broker.restart();
    let mut peer = broker.peer();
    assert_eq!(broker.ctl(&browse).lines().collect::<Vec<_>>(), order);
    broker.ctl(&["convert_queue", "q", "--to", "classic"]);
    publish(&mut peer, Some(31), "last");
    peer.await_counts(1, "q", (5, 0));
    assert_eq!(broker.ctl(&["list_queues", "name,type"]), "q\tclassic\n");
    broker.kill();
    broker.start_again();
    assert_eq!(broker.ctl(&["list_queues", "name,type"]), "q\tclassic\n");
    assert_eq!(broker.peer().drain(1, "q"), ["high", "old 1", "old 8", "low", "last"]);
    broker.stop();
    broker.check();
}

#[test]
fn a_declaration_must_name_the_type_of_today() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("q"));
    broker.ctl(&["convert_queue", "q", "--to", "quorum"]);
    peer.declare(1, &Queue { arguments: of_type("quorum"), ..Queue::durable("q") });
    let refused = |current, got| {
        format!(
            "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received '{got}' but \
             current is '{current}'"
        )
    };
    peer.refused(1, &Queue::durable("q").method(), 406, &refused("quorum", "classic"));
    // Unless the virtual host makes it the type of declarations without one.
    broker.ctl(&["update_vhost_metadata", "/", "--default-queue-type", "quorum"]);
    peer.declare(1, &Queue::durable("q"));
    broker.ctl(&["convert_queue", "q", "--to", "classic"]);
    peer.refused(1, &Queue::durable("q").method(), 406, &refused("classic", "quorum"));
    peer.declare(1, &Queue { arguments: of_type("classic"), ..Queue::durable("q") });
    let definitions = broker.ctl(&["export_definitions", "-"]).replace([' ', '\n'], "");
    assert!(definitions.contains(r#""x-queue-type":"classic""#), "{definitions}");
    assert!(definitions.contains(r#""type":"classic""#), "{definitions}");
}

#[test]
fn what_the_new_type_cannot_be_is_refused_and_nothing_changes() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let argument = |name, value| Queue { arguments: table([(name, value)]), ..Queue::durable(name) };
    peer.declare(1, &Queue::named("transient"));
    peer.declare(1, &Queue { exclusive: true, ..Queue::durable("exclusive") });
    peer.declare(1, &argument("x-queue-mode", text("lazy")));
    peer.declare(1, &argument("x-max-priority", FieldValue::I32(255)));
    peer.declare(1, &argument("x-queue-type", text("stream")));
    let group = FieldTable(
        [of_type("quorum").0, table([("x-quorum-initial-group-size", FieldValue::I32(3))]).0].concat(),
    );
    peer.declare(1, &Queue { arguments: group, ..Queue::durable("group") });
    let before = broker.ctl(&["list_queues", "name,type,arguments"]);
    for (queue, to, complaint) in [
        (
            "transient",
            "quorum",
            "queue 'transient' cannot become a quorum queue: expected a durable queue that is not exclusive",
        ),
        (
            "exclusive",
            "quorum",
            "queue 'exclusive' cannot become a quorum queue: expected a durable queue that is not exclusive",
        ),
        (
            "x-queue-mode",
            "quorum",
            "invalid arg 'x-queue-mode' for queue 'x-queue-mode' in vhost '/' of queue type rabbit_quorum_queue",
        ),
        (
            "x-max-priority",
            "quorum",
            &format!("queue 'x-max-priority' cannot become a quorum queue: {USED_UP}"),
        ),
        (
            "x-queue-type",
            "quorum",
            "queue 'x-queue-type' cannot become a quorum queue: expected a classic or a quorum queue, and one of these as its new type",
        ),
        (
            "group",
            "stream",
            "queue 'group' cannot become a stream queue: expected a classic or a quorum queue, and one of these as its new type",
        ),
        (
            "group",
            "classic",
            "invalid arg 'x-quorum-initial-group-size' for queue 'group' in vhost '/' of queue type rabbit_classic_queue",
        ),
        ("group", "fast", "Validation failed: --to: expected classic or quorum, got \"fast\""),
        ("nosuch", "quorum", "no queue 'nosuch' in vhost '/'"),
    ] {
        assert_eq!(broker.ctl_refused(&["convert_queue", queue, "--to", to]), complaint);
    }
    // What is of the type already stays as it is.
    broker.ctl(&["convert_queue", "transient", "--to", "classic"]);
    assert_eq!(broker.ctl(&["list_queues", "name,type,arguments"]), before);
}

#[test]
fn a_queue_can_be_converted_as_often_as_its_old_messages_go() {
    let broker = &mut Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("q"));
    let mut types = ["quorum", "classic"].into_iter().cycle();
    for number in 0..40 {
        publish(&mut peer, None, &number.to_string());
        broker.ctl(&["convert_queue", "q", "--to", types.next().expect("no end")]);
        if number % 8 == 7 {
            broker.restart();
            peer = broker.peer();
        }
        // One from before the last conversion stays in each.
        if number > 0 {
            assert_eq!(peer.get(1, "q", true).expect("a message").text(), (number - 1).to_string());
        }
    }
    assert_eq!(peer.drain(1, "q"), ["39"]);
}

#[test]
fn messages_that_stay_bound_how_often_a_queue_can_be_converted() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let argument = |value| table([("x-max-priority", FieldValue::I32(value))]);
    for (queue, arguments, times) in
        [("none", FieldTable::default(), 14), ("16", argument(16), 14), ("17", argument(17), 13)]
    {
        peer.declare(1, &Queue { arguments, ..Queue::durable(queue) });
        peer.publish_with(1, &Publish { properties: persistent(), body: b"stays", ..Publish::to("", queue) });
        peer.await_counts(1, queue, (1, 0));
        let mut types = ["quorum", "classic"].into_iter().cycle();
        for to in types.by_ref().take(times) {
            broker.ctl(&["convert_queue", queue, "--to", to]);
        }
        let to = types.next().expect("no end");
        let refused = broker.ctl_refused(&["convert_queue", queue, "--to", to]);
        assert_eq!(refused, format!("queue '{queue}' cannot become a {to} queue: {USED_UP}"));
        assert_eq!(peer.drain(1, queue), ["stays"]);
        broker.ctl(&["convert_queue", queue, "--to", to]);
    }
}

#[test]
fn policies_and_defaults_of_the_new_type_count() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("q"));
    broker.ctl(&["set_policy", "c", "", r#"{"max-length":5}"#, "--apply-to", "classic_queues"]);
    broker.ctl(&["set_policy", "q", "", r#"{"max-length":2}"#, "--apply-to", "quorum_queues"]);
    for body in ["a", "b", "c"] {
        publish(&mut peer, None, body);
    }
    peer.await_counts(1, "q", (3, 0));
    broker.ctl(&["convert_queue", "q", "--to", "quorum"]);
    assert_eq!(broker.ctl(&["list_queues", "name,policy,messages"]), "q\tq\t2\n");
    // The delivery limit of quorum queues: 20 returns and no more.
    for _ in 0..=20 {
        let message = peer.get(1, "q", false).expect("a message");
        assert_eq!(message.text(), "b");
        nack(&mut peer, message.tag);
    }
    assert_eq!(peer.drain(1, "q"), ["c"]);
}

#[test]
fn what_is_in_it_is_still_known_to_deduplication() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let arguments = table([("x-message-deduplication", FieldValue::Bool(true))]);
    peer.declare(1, &Queue { arguments, ..Queue::durable("q") });
    let publish = |peer: &mut Peer, id: &str| {
        let headers = Some(table([("x-deduplication-header", text(id))]));
        let properties = Properties { headers, ..persistent() };
        peer.publish_with(1, &Publish { properties, body: id.as_bytes(), ..Publish::to("", "q") });
        expect_method!(peer, 1, Method::BasicAck { .. });
    };
    peer.select_confirms(1);
    publish(&mut peer, "a");
    broker.ctl(&["convert_queue", "q", "--to", "quorum"]);
    for id in ["a", "b", "b"] {
        publish(&mut peer, id);
    }
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    peer.select_confirms(1);
    for id in ["b", "a", "c"] {
        publish(&mut peer, id);
    }
    assert_eq!(peer.drain(1, "q"), ["a", "b", "c"]);
}

#[test]
fn it_is_an_event() {
    let broker = Broker::start(Options::log().set("POSTHOUSE__SERVER__EVENT_EXCHANGE", "/"));
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("q"));
    let events = peer.server_named(1);
    peer.bind(1, &events, "amq.rabbitmq.event", "queue.converted");
    peer.consume(1, &Consume::no_ack(&events));
    broker.ctl(&["convert_queue", "q", "--to", "quorum"]);
    let event = peer.message(1);
    let headers = event.properties().headers.expect("headers");
    for (name, value) in [("name", "q"), ("vhost", "/"), ("from", "classic"), ("type", "quorum")] {
        assert_eq!(headers.get(name), Some(&text(value)), "{name}");
    }
}
