//! Policies: what they change in exchanges and queues, while these are used.

use posthouse_testkit::{Broker, Exchange, FieldValue, Method, Options, Peer, Publish, Queue, table, text};

/// Which of the queues gets a message published to that exchange.
fn reached(peer: &mut Peer, exchange: &str, queues: &[&str]) -> Option<String> {
    peer.publish(1, exchange, "nowhere", "m");
    let found: Vec<_> = queues.iter().filter(|queue| !peer.drain(1, queue).is_empty()).collect();
    assert!(found.len() < 2, "{found:?}");
    found.first().map(|queue| (**queue).to_owned())
}

fn declare(peer: &mut Peer, exchange: &str, exchange_type: &str) {
    peer.declare_exchange(1, &Exchange { durable: true, ..Exchange::named(exchange, exchange_type) });
}

#[test]
fn an_alternate_exchange_comes_and_goes_with_its_policy() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let queues = ["caught", "own"];
    for queue in queues {
        declare(&mut peer, queue, "fanout");
        peer.declare(1, &Queue::durable(queue));
        peer.bind(1, queue, queue, "");
    }
    declare(&mut peer, "front", "direct");
    let arguments = table([("alternate-exchange", text("own"))]);
    let argued = Exchange { durable: true, arguments, ..Exchange::named("front-argued", "direct") };
    peer.declare_exchange(1, &argued);
    assert_eq!(reached(&mut peer, "front", &queues), None);
    let catch = ["set_policy", "catch", "^(front|amq.topic$)", r#"{"alternate-exchange":"caught"}"#];
    broker.ctl(&catch);
    let expect_caught = |peer: &mut Peer| {
        for (exchange, queue) in
            [("front", "caught"), ("amq.topic", "caught"), ("front-new", "caught"), ("front-argued", "own")]
        {
            assert_eq!(reached(peer, exchange, &queues).as_deref(), Some(queue), "{exchange}");
        }
        assert_eq!(reached(peer, "amq.direct", &queues), None);
    };
    declare(&mut peer, "front-new", "topic");
    expect_caught(&mut peer);
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    expect_caught(&mut peer);
    let shown = ["list_exchanges", "name,policy,operator_policy,effective_policy_definition"];
    assert!(broker.ctl(&shown).contains("front\tcatch\t\t[{alternate-exchange,caught}]\n"));
    let strong = [
        "set_policy",
        "strong",
        "^front$",
        r#"{"alternate-exchange":"own"}"#,
        "--priority",
        "1",
        "--apply-to",
        "exchanges",
    ];
    broker.ctl(&strong);
    assert_eq!(reached(&mut peer, "front", &queues).as_deref(), Some("own"));
    broker.ctl(&["clear_policy", "strong"]);
    assert_eq!(reached(&mut peer, "front", &queues).as_deref(), Some("caught"));
    broker.ctl(&[
        "set_policy",
        "catch",
        "^front",
        r#"{"alternate-exchange":"caught"}"#,
        "--apply-to",
        "queues",
    ]);
    assert_eq!(reached(&mut peer, "front", &queues), None, "it is for queues now");
    broker.ctl(&catch);
    assert_eq!(reached(&mut peer, "front", &queues).as_deref(), Some("caught"));
    broker.ctl(&["clear_policy", "catch"]);
    assert_eq!(reached(&mut peer, "front", &queues), None);
    assert_eq!(reached(&mut peer, "front-argued", &queues).as_deref(), Some("own"));
}

#[test]
fn both_kinds_are_matched_with_queues_and_merged() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("before"));
    broker.ctl(&[
        "set_policy",
        "p",
        "",
        r#"{"queue-mode":"lazy","queue-version":1}"#,
        "--apply-to",
        "queues",
    ]);
    broker.ctl(&["set_operator_policy", "o", "r$", r#"{"queue-version":2}"#, "--priority", "-5"]);
    broker.ctl(&[
        "set_policy",
        "not",
        "",
        r#"{"queue-version":2}"#,
        "--apply-to",
        "streams",
        "--priority",
        "9",
    ]);
    peer.declare(1, &Queue::durable("after"));
    peer.declare(1, &Queue::durable("other"));
    let shown = ["list_queues", "name,policy,operator_policy,effective_policy_definition"];
    let expected = "after\tp\to\t[{queue-mode,lazy},{queue-version,2}]\n\
                    before\tp\t\t[{queue-mode,lazy},{queue-version,1}]\n\
                    other\tp\to\t[{queue-mode,lazy},{queue-version,2}]\n";
    assert_eq!(broker.ctl(&shown), expected);
    broker.restart();
    assert_eq!(broker.ctl(&shown), expected);
    let policies = "/\tnot\t\tstreams\t{\"queue-version\":2}\t9\n\
                    /\tp\t\tqueues\t{\"queue-mode\":\"lazy\",\"queue-version\":1}\t0\n";
    assert_eq!(broker.ctl(&["list_policies"]), policies);
    let operator = "/\to\tr$\tall\t{\"queue-version\":2}\t-5\n";
    assert_eq!(broker.ctl(&["list_operator_policies"]), operator);
    broker.ctl(&["clear_policy", "p"]);
    broker.ctl(&["clear_operator_policy", "o"]);
    assert_eq!(broker.ctl(&shown), "after\t\t\t[]\nbefore\t\t\t[]\nother\t\t\t[]\n");
}

#[test]
fn what_cannot_be_carried_out_is_refused() {
    let broker = Broker::start(Options::log());
    for (words, expected) in [
        (
            &["set_policy", "p", "^a", r#"{"foo":1}"#][..],
            "Validation failed: [{<<\"foo\">>,1}] are not recognised policy settings",
        ),
        (
            &["set_operator_policy", "p", "^a", r#"{"alternate-exchange":"x"}"#],
            "Validation failed: [{<<\"alternate-exchange\">>,<<\"x\">>}] are not recognised policy settings",
        ),
        (
            &["set_policy", "p", "^a", r#"{"federation-upstream":"x"}"#],
            "Validation failed: policy key 'federation-upstream' is not supported yet",
        ),
        (
            &["set_policy", "p", "^a", "no-json"],
            "Validation failed: expected definition to be JSON, got \"no-json\": expected ident at line 1 column 2",
        ),
        (
            &["set_policy", "-p", "no", "p", "^a", r#"{"queue-mode":"lazy"}"#],
            "virtual host 'no' does not exist",
        ),
        (&["clear_policy", "p"], "Parameter does not exist"),
        (&["clear_operator_policy", "p"], "Parameter does not exist"),
        (&["list_policies", "-p", "no"], "virtual host 'no' does not exist"),
    ] {
        assert_eq!(broker.ctl_refused(words), expected);
    }
    let refused = broker.ctl_refused(&["set_policy", "p", "(", r#"{"queue-mode":"lazy"}"#]);
    assert!(refused.starts_with("Validation failed: pattern should be regular expression but is invalid: "));
    assert_eq!(broker.ctl(&["list_policies"]), "");
}

#[test]
fn a_deleted_virtual_hosts_policies_are_gone() {
    let mut broker = Broker::start(Options::log());
    broker.ctl(&["add_vhost", "v"]);
    broker.ctl(&["set_policy", "-p", "v", "p", "", r#"{"queue-mode":"lazy"}"#]);
    broker.ctl(&["delete_vhost", "v"]);
    broker.ctl(&["add_vhost", "v"]);
    broker.restart();
    assert_eq!(broker.ctl(&["list_policies", "-p", "v"]), "");
}

/// Publishes a persistent message and says whether it was accepted.
fn accepted(peer: &mut Peer, queue: &str, body: &str) -> bool {
    let properties = posthouse_testkit::calls::persistent();
    peer.publish_with(1, &Publish { properties, body: body.as_bytes(), ..Publish::to("", queue) });
    let answer = peer.method(1);
    match answer.get() {
        Method::BasicAck { .. } => true,
        Method::BasicNack { .. } => false,
        other => panic!("expected an answer to a publish, got {other:?}"),
    }
}

#[test]
fn lengths_are_limited_at_once_and_no_longer_when_the_policy_goes() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.select_confirms(1);
    let arguments = table([("x-max-length", FieldValue::I32(4))]);
    peer.declare(1, &Queue { arguments, ..Queue::durable("argued") });
    peer.declare(1, &Queue::durable("plain"));
    for queue in ["argued", "plain"] {
        for number in 0..6 {
            assert!(accepted(&mut peer, queue, &number.to_string()));
        }
    }
    broker.ctl(&["set_policy", "short", "", r#"{"max-length":5}"#, "--apply-to", "queues"]);
    assert_eq!(peer.counts(1, "plain").0, 5, "the oldest has left");
    assert_eq!(peer.counts(1, "argued").0, 4, "the smaller number counts");
    broker.ctl(&["set_operator_policy", "shorter", "", r#"{"max-length":3,"overflow":"reject-publish"}"#]);
    // Nothing leaves a queue that refuses, and what is too much is refused from the next publish on.
    assert_eq!(peer.counts(1, "plain").0, 5);
    assert!(!accepted(&mut peer, "plain", "6") && !accepted(&mut peer, "argued", "6"));
    peer.declare(1, &Queue::durable("new"));
    let answers: Vec<bool> = (0..5).map(|number| accepted(&mut peer, "new", &number.to_string())).collect();
    assert_eq!(answers, [true, true, true, false, false]);
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    peer.select_confirms(1);
    assert_eq!(["plain", "argued", "new"].map(|queue| peer.counts(1, queue).0), [5, 4, 3]);
    assert!(!accepted(&mut peer, "new", "5"));
    broker.ctl(&["clear_operator_policy", "shorter"]);
    assert!(accepted(&mut peer, "new", "5") && accepted(&mut peer, "plain", "6"));
    broker.ctl(&["clear_policy", "short"]);
    for number in 7..10 {
        assert!(accepted(&mut peer, "plain", &number.to_string()));
    }
    assert!(accepted(&mut peer, "argued", "6"));
    assert_eq!(peer.drain(1, "plain"), ["2", "3", "4", "5", "6", "7", "8", "9"]);
    assert_eq!(peer.drain(1, "argued"), ["3", "4", "5", "6"], "its own limit stays");
    assert_eq!(peer.drain(1, "new"), ["0", "1", "2", "5"]);
}
