//! Super streams: partitions behind one exchange, made and deleted together, shared out among a group's consumers.

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{Broker, Consume, FieldValue, Method, Options, Peer, Publish, Queue, table, text};

/// Publishes one message with this key and waits until it is confirmed.
fn publish(peer: &mut Peer, super_stream: &str, key: &str) {
    peer.open_channel(9);
    peer.select_confirms(9);
    let message =
        Publish { properties: persistent(), body: key.as_bytes(), ..Publish::to(super_stream, key) };
    peer.publish_with(9, &message);
    peer.confirmed_up_to(9, 1);
    peer.close_channel(9);
}

/// Starts a consumer of a group on channels 2, 3, ... for each partition.
fn join(peer: &mut Peer, tag: &str, partitions: &[&str]) {
    for (channel, partition) in (2..).zip(partitions) {
        peer.open_channel(channel);
        peer.prefetch(channel, 10, false);
        let arguments = table([
            ("x-single-active-consumer", FieldValue::Bool(true)),
            ("x-stream-consumer-name", text("group")),
            ("x-stream-offset", text("first")),
        ]);
        peer.consume(channel, &Consume { consumer_tag: tag, arguments, ..Consume::from(partition) });
    }
}

#[test]
fn partitions_are_made_together_kept_and_deleted_together() {
    let mut broker = Broker::start(Options::log());
    broker.ctl(&[
        "add_super_stream",
        "orders",
        "--partitions",
        "3",
        "--max-age",
        "P1DT1H",
        "--max-length-bytes",
        "5gb",
    ]);
    broker.ctl(&["add_super_stream", "regions", "--binding-keys", "amer, emea"]);
    let expect = |broker: &Broker, peer: &mut Peer, messages: u32| {
        let queues = broker.ctl(&["list_queues", "name,arguments"]);
        for line in [
            "orders-1\t[{x-max-age,90000s},{x-max-length-bytes,5000000000},{x-queue-type,stream}]",
            "regions-emea\t[{x-queue-type,stream}]",
        ] {
            assert!(queues.contains(line), "{line}: {queues}");
        }
        let exchanges = broker.ctl(&["list_exchanges", "name,type,durable,arguments"]);
        assert!(exchanges.contains("orders\tdirect\ttrue\t[{x-super-stream,true}]\n"), "{exchanges}");
        let columns = "source_name,destination_name,routing_key,arguments";
        let bindings = broker.ctl(&["list_bindings", columns]);
        for line in [
            "orders\torders-2\t2\t[{x-stream-partition-order,2}]",
            "regions\tregions-emea\temea\t[{x-stream-partition-order,1}]",
        ] {
            assert!(bindings.contains(line), "{line}: {bindings}");
        }
        publish(peer, "orders", "1");
        publish(peer, "regions", "emea");
        assert_eq!((peer.counts(1, "orders-1").0, peer.counts(1, "regions-emea").0), (messages, messages));
        assert_eq!((peer.counts(1, "orders-0").0, peer.counts(1, "regions-amer").0), (0, 0));
    };
    let mut peer = broker.peer();
    expect(&broker, &mut peer, 1);
    broker.kill();
    broker.start_again();
    peer = broker.peer();
    expect(&broker, &mut peer, 2);
    broker.ctl(&["delete_super_stream", "orders"]);
    let left = broker.ctl(&["list_queues", "name"]);
    assert!(!left.contains("orders") && left.contains("regions-amer"), "{left}");
    assert!(!broker.ctl(&["list_exchanges", "name"]).contains("orders"));
    assert_eq!(
        broker.ctl_refused(&["delete_super_stream", "orders"]),
        "no super stream 'orders' in vhost '/'"
    );
    broker.restart();
    assert!(!broker.ctl(&["list_queues", "name"]).contains("orders"));
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("s-1"));
    for (words, expected) in [
        (&["s"][..], "queue 's-1' in vhost '/' is there already"),
        (&["amq.direct"], "exchange name 'amq.direct' contains reserved prefix 'amq.*'"),
        (
            &["t", "--partitions", "2", "--binding-keys", "a"],
            "Specify --partitions or --binding-keys, not both.",
        ),
        (&["t", "--partitions", "0"], "expected 1 to 1000 partitions, got 0"),
        (&["t", "--partitions", "1001"], "expected 1 to 1000 partitions, got 1001"),
        (&["t", "--binding-keys", "a,b,a"], "expected different binding keys, got 'a' twice"),
        (&["t", "--max-age", "P1H"], "x-max-age: expected a duration, such as PT24H or 7D, got 'P1H'"),
        (&["t", "--max-age", "7x"], "invalid arg 'x-max-age' for queue 't-0' in vhost '/': invalid_max_age"),
        (&["t", "--max-length-bytes", "5 gb"], "x-max-length-bytes: expected bytes, such as 5gb, got '5 gb'"),
        (
            &["t", "--leader-locator", "nobody"],
            "invalid arg 'x-queue-leader-locator' for queue 't-0' in vhost '/': invalid_queue_locator_arg",
        ),
    ] {
        assert_eq!(broker.ctl_refused(&[&["add_super_stream"], words].concat()), expected);
    }
    broker.ctl(&["set_vhost_limits", r#"{"max-queues":3}"#]);
    let refused = broker.ctl_refused(&["add_super_stream", "t"]);
    assert!(refused.contains("queue limit"), "{refused}");
    assert_eq!(broker.ctl(&["list_queues", "name"]), "s-1\n");
    broker.ctl(&["add_super_stream", "t", "--partitions", "2"]);
    let refused = broker.ctl_refused(&["add_super_stream", "t", "--partitions", "2"]);
    assert_eq!(refused, "exchange 't' in vhost '/' is there already");
    assert_eq!(
        broker.ctl_refused(&["delete_super_stream", "amq.direct"]),
        "no super stream 'amq.direct' in vhost '/'"
    );
}

#[test]
fn a_groups_consumers_share_the_partitions_out() {
    let broker = Broker::start(Options::log());
    broker.ctl(&["add_super_stream", "s"]);
    let partitions = ["s-0", "s-1", "s-2"];
    let (mut first, mut second) = (broker.peer(), broker.peer());
    for key in ["0", "1", "2"] {
        publish(&mut first, "s", key);
    }
    join(&mut first, "a", &partitions);
    for (channel, key) in [(2, "0"), (3, "1"), (4, "2")] {
        assert_eq!(first.messages(channel, 1), [key], "it is alone");
    }
    join(&mut second, "b", &partitions);
    second.expect_quiet(3);
    // The second partition goes to the second consumer as soon as the first has nothing of it outstanding.
    first.send(3, &Method::BasicAck { delivery_tag: 1, multiple: false });
    for key in ["0", "1", "2"] {
        publish(&mut first, "s", key);
    }
    assert_eq!(second.messages(3, 1), ["1"]);
    assert_eq!((first.messages(2, 1), first.messages(4, 1)), (vec!["0".to_owned()], vec!["2".to_owned()]));
    first.expect_quiet(3);
    let shown = broker.ctl(&["list_consumers", "queue_name,consumer_tag,active"]);
    for line in ["s-0\ta\ttrue", "s-1\ta\tfalse", "s-1\tb\ttrue", "s-2\ta\ttrue", "s-2\tb\tfalse"] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    first.close();
    assert_eq!(second.messages(2, 2), ["0", "0"], "nothing of it was acknowledged");
    assert_eq!(second.messages(4, 2), ["2", "2"]);
}
