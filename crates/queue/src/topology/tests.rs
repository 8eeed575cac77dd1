//! Examples of declaring, binding, routing and what each refuses.

use posthouse_model::field::FieldValue;
use posthouse_model::props::{HeaderView, Properties};
use posthouse_model::reply::ReplyCode;

use super::*;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn table(entries: &[(&str, FieldValue)]) -> FieldTable {
    FieldTable(entries.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect())
}

fn text(value: &str) -> FieldValue {
    FieldValue::string(value)
}

fn exchange(exchange: &str, kind: ExchangeKind) -> ExchangeRecord {
    ExchangeRecord {
        name: name(exchange),
        kind,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: FieldTable::default(),
    }
}

fn to_queue(source: &str, queue: &str, key: &str) -> BindingRecord {
    BindingRecord {
        source: name(source),
        destination: DestinationName::Queue(name(queue)),
        routing_key: name(key),
        arguments: FieldTable::default(),
    }
}

fn to_exchange(source: &str, exchange: &str, key: &str) -> BindingRecord {
    BindingRecord { destination: DestinationName::Exchange(name(exchange)), ..to_queue(source, "", key) }
}

/// A virtual host with durable queues q1, q2 and q3, whose identities are those numbers.
fn topology() -> Topology {
    let mut topology = Topology::new(name("/"));
    for id in 1..=3 {
        topology.add_queue(name(&format!("q{id}")), QueueId(id), true);
    }
    topology
}

fn route_with(
    topology: &Topology,
    exchange: &str,
    key: &str,
    headers: &FieldTable,
    extra: &[&str],
) -> Vec<u64> {
    let mut bytes = Vec::new();
    Properties { headers: Some(headers.clone()), ..Properties::default() }.encode(0, &mut bytes);
    let header = Some(HeaderView::parse(&bytes).unwrap());
    let mut result = RouteResult::default();
    topology.route(exchange, Routed { key, extra_keys: extra, header, draw: 0 }, &mut result).unwrap();
    result.queues().iter().map(|queue| queue.0).collect()
}

fn route(topology: &Topology, exchange: &str, key: &str) -> Vec<u64> {
    route_with(topology, exchange, key, &FieldTable::default(), &[])
}

fn error<T: std::fmt::Debug>(result: Result<T, ReplyError>) -> (ReplyCode, String) {
    let error = result.unwrap_err();
    (error.code, error.text)
}

#[test]
fn the_default_exchange_routes_by_queue_name() {
    let mut topology = topology();
    assert_eq!(route(&topology, "", "q2"), [2]);
    assert_eq!(route(&topology, "", "nope"), [0; 0]);
    assert_eq!(route_with(&topology, "", "q2", &FieldTable::default(), &["q1", "q2", "x"]), [1, 2]);
    topology.remove_queue(QueueId(2));
    assert_eq!(route(&topology, "", "q2"), [0; 0]);
    assert_eq!(topology.queue_id("q1"), Some(QueueId(1)));
}

#[test]
fn each_type_routes_its_way() {
    let mut topology = topology();
    topology.bind(to_queue("amq.direct", "q1", "a")).unwrap();
    topology.bind(to_queue("amq.direct", "q2", "a")).unwrap();
    topology.bind(to_queue("amq.direct", "q3", "b")).unwrap();
    assert_eq!(route(&topology, "amq.direct", "a"), [1, 2]);
    topology.bind(to_queue("amq.fanout", "q1", "a")).unwrap();
    topology.bind(to_queue("amq.fanout", "q1", "b")).unwrap();
    topology.bind(to_queue("amq.fanout", "q3", "")).unwrap();
    assert_eq!(route(&topology, "amq.fanout", "whatever"), [1, 3]);
    topology.unbind(to_queue("amq.fanout", "q1", "a")).unwrap();
    assert_eq!(route(&topology, "amq.fanout", "whatever"), [1, 3]);
    topology.unbind(to_queue("amq.fanout", "q1", "b")).unwrap();
    assert_eq!(route(&topology, "amq.fanout", "whatever"), [3]);
    topology.bind(to_queue("amq.topic", "q1", "a.*")).unwrap();
    topology.bind(to_queue("amq.topic", "q2", "#.b")).unwrap();
    assert_eq!(route(&topology, "amq.topic", "a.b"), [1, 2]);
    assert_eq!(route(&topology, "amq.topic", "a.b.c"), [0; 0]);
}

#[test]
#[rustfmt::skip]
fn headers_exchange() {
    let message = table(&[
        ("i", FieldValue::I32(1)), ("s", text("1")), ("f", FieldValue::F64(1.0)), ("x-k", text("v")), ("v", FieldValue::Void),
    ]);
    let cases: &[(&[(&str, FieldValue)], bool)] = &[
        (&[], true),
        (&[("x-match", text("any"))], false),
        (&[("i", FieldValue::I64(1))], true),
        (&[("i", text("1"))], false),
        (&[("i", FieldValue::F64(1.0))], false),
        (&[("s", FieldValue::I32(1))], false),
        (&[("f", FieldValue::F32(1.0))], true),
        (&[("f", FieldValue::I32(1))], false),
        (&[("i", FieldValue::Void), ("s", FieldValue::Void)], true),
        (&[("missing", FieldValue::Void)], false),
        (&[("v", text("x"))], false),
        (&[("i", FieldValue::I32(1)), ("s", text("2"))], false),
        (&[("x-match", text("any")), ("i", FieldValue::I32(1)), ("s", text("2"))], true),
        (&[("x-match", text("all")), ("i", FieldValue::I32(1)), ("x-k", text("other"))], true),
        (&[("x-match", text("all-with-x")), ("i", FieldValue::I32(1)), ("x-k", text("other"))], false),
        (&[("x-match", text("all-with-x")), ("i", FieldValue::I32(1)), ("x-k", text("v"))], true),
        (&[("x-match", text("any")), ("x-k", text("v"))], false),
        (&[("x-match", text("any-with-x")), ("x-k", text("v"))], true),
    ];
    for (arguments, expected) in cases {
        let mut topology = topology();
        let binding = BindingRecord { arguments: table(arguments), ..to_queue("amq.headers", "q1", "k") };
        topology.bind(binding.clone()).unwrap();
        let found = route_with(&topology, "amq.headers", "ignored", &message, &[]);
        assert_eq!(!found.is_empty(), *expected, "{arguments:?}");
        topology.unbind(binding).unwrap();
        assert_eq!(route_with(&topology, "amq.headers", "", &message, &[]), [0; 0]);
    }
}

#[test]
fn bindings_differ_by_their_arguments() {
    let mut topology = topology();
    let with =
        |value| BindingRecord { arguments: table(&[("h", value)]), ..to_queue("amq.direct", "q1", "k") };
    let nan = FieldValue::F64(f64::NAN);
    for value in [FieldValue::I32(1), FieldValue::I32(2), nan.clone(), nan.clone()] {
        topology.bind(with(value)).unwrap();
    }
    assert_eq!(topology.bindings().iter().filter(|binding| !binding.source.is_empty()).count(), 3);
    topology.unbind(with(FieldValue::I32(1))).unwrap();
    topology.unbind(with(nan)).unwrap();
    assert_eq!(route(&topology, "amq.direct", "k"), [1]);
    topology.unbind(with(FieldValue::I32(2))).unwrap();
    assert_eq!(route(&topology, "amq.direct", "k"), [0; 0]);
}

#[test]
fn argument_order_makes_no_difference() {
    let mut topology = topology();
    let (a, b) = (("a", FieldValue::I32(1)), ("b", FieldValue::I32(2)));
    let with =
        |entries: &[_]| BindingRecord { arguments: table(entries), ..to_queue("amq.headers", "q1", "") };
    assert_eq!(topology.bind(with(&[a.clone(), b.clone()])).unwrap().len(), 1);
    assert_eq!(topology.bind(with(&[b.clone(), a.clone()])).unwrap(), []);
    let gone = topology.unbind(with(&[b.clone(), a.clone()])).unwrap();
    assert_eq!(gone, [TopologyChange::DeleteBinding(with(&[a, b]))]);
}

#[test]
fn bound_exchanges_are_followed_once() {
    let mut topology = topology();
    for (exchange_name, queue) in [("a", "q1"), ("b", "q2"), ("c", "q1")] {
        topology.declare_exchange(exchange(exchange_name, ExchangeKind::Fanout)).unwrap();
        topology.bind(to_queue(exchange_name, queue, "")).unwrap();
    }
    for (from, to) in [("a", "b"), ("b", "c"), ("c", "a"), ("a", "a"), ("a", "c")] {
        topology.bind(to_exchange(from, to, "")).unwrap();
    }
    assert_eq!(route(&topology, "a", "k"), [1, 2]);
    assert_eq!(route(&topology, "c", "k"), [1, 2]);
    topology.delete_exchange("b", false).unwrap();
    assert_eq!(route(&topology, "a", "k"), [1]);
}

#[test]
fn alternate_exchange_gets_what_routes_to_nothing() {
    let mut topology = topology();
    let with = |exchange_name: &str, alternate: &str| ExchangeRecord {
        arguments: table(&[("alternate-exchange", text(alternate))]),
        ..exchange(exchange_name, ExchangeKind::Direct)
    };
    topology.declare_exchange(with("a", "b")).unwrap();
    assert_eq!(route(&topology, "a", "k"), [0; 0]);
    topology.declare_exchange(with("b", "a")).unwrap();
    topology.bind(to_queue("b", "q2", "k")).unwrap();
    assert_eq!(route(&topology, "a", "k"), [2]);
    assert_eq!(route(&topology, "a", "loops"), [0; 0]);
    topology.bind(to_queue("a", "q1", "k")).unwrap();
    assert_eq!(route(&topology, "a", "k"), [1]);
    // A bound exchange counts as a destination even when it leads nowhere.
    topology.bind(to_exchange("a", "amq.direct", "dead end")).unwrap();
    topology.bind(to_queue("b", "q2", "dead end")).unwrap();
    assert_eq!(route(&topology, "a", "dead end"), [0; 0]);
    topology.declare_exchange(with("to-default", "")).unwrap();
    assert_eq!(route(&topology, "to-default", "q3"), [3]);
}

#[test]
fn routes_that_depend_on_headers_say_so() {
    let mut topology = topology();
    topology.bind(to_queue("amq.fanout", "q1", "")).unwrap();
    let depends = |topology: &Topology, exchange, extra: &[&str]| {
        let mut result = RouteResult::default();
        topology.route(exchange, Routed { extra_keys: extra, ..Routed::default() }, &mut result).unwrap();
        result.is_per_message()
    };
    assert!(!depends(&topology, "amq.fanout", &[]));
    assert!(depends(&topology, "amq.fanout", &["cc"]));
    assert!(depends(&topology, "amq.headers", &[]));
    topology.bind(to_exchange("amq.fanout", "amq.match", "")).unwrap();
    assert!(depends(&topology, "amq.fanout", &[]));
}

#[test]
fn publishing_errors() {
    let mut topology = topology();
    let internal = ExchangeRecord { internal: true, ..exchange("e_int", ExchangeKind::Fanout) };
    topology.declare_exchange(internal).unwrap();
    topology.bind(to_queue("e_int", "q1", "")).unwrap();
    let mut result = RouteResult::default();
    topology.route("", Routed { key: "q1", ..Routed::default() }, &mut result).unwrap();
    let missing = topology.route("nope", Routed::default(), &mut result);
    assert_eq!(missing, Err(errors::no_exchange("/", "nope")));
    assert_eq!(result.queues(), []);
    let refused = topology.route("e_int", Routed::default(), &mut result);
    assert_eq!(refused, Err(errors::publish_to_internal_exchange("/", "e_int")));
    topology.bind(to_exchange("amq.fanout", "e_int", "")).unwrap();
    assert_eq!(route(&topology, "amq.fanout", ""), [1]);
}

#[test]
fn redeclaration_must_agree() {
    let mut topology = topology();
    let first = exchange("e", ExchangeKind::Direct);
    assert_eq!(
        topology.declare_exchange(first.clone()).unwrap(),
        [TopologyChange::PutExchange(first.clone())]
    );
    let epoch = topology.epoch();
    let unknown = ExchangeRecord { arguments: table(&[("x-y", text("z"))]), ..first.clone() };
    assert_eq!(topology.declare_exchange(unknown).unwrap(), []);
    assert_eq!(topology.epoch(), epoch);
    let alternate = table(&[("alternate-exchange", text("ae"))]);
    let e = "for exchange 'e' in vhost '/': received";
    for (declaration, expected) in [
        (
            exchange("e", ExchangeKind::Fanout),
            format!("inequivalent arg 'type' {e} 'fanout' but current is 'direct'"),
        ),
        (
            ExchangeRecord { durable: false, ..first.clone() },
            format!("inequivalent arg 'durable' {e} 'false' but current is 'true'"),
        ),
        (
            ExchangeRecord { auto_delete: true, ..first.clone() },
            format!("inequivalent arg 'auto_delete' {e} 'true' but current is 'false'"),
        ),
        (
            ExchangeRecord { internal: true, ..first.clone() },
            format!("inequivalent arg 'internal' {e} 'true' but current is 'false'"),
        ),
        (
            ExchangeRecord { arguments: alternate, ..first },
            format!(
                "inequivalent arg 'alternate-exchange' {e} the value 'ae' of type 'longstr' but current is none"
            ),
        ),
    ] {
        assert_eq!(error(topology.declare_exchange(declaration)), (ReplyCode::PreconditionFailed, expected));
    }
}

#[test]
fn reserved_and_predeclared_exchanges() {
    let mut topology = topology();
    let declare = |topology: &mut Topology, name, kind| topology.declare_exchange(exchange(name, kind));
    let refused = error(declare(&mut topology, "amq.mine", ExchangeKind::Direct));
    assert_eq!(
        refused,
        (ReplyCode::AccessRefused, "exchange name 'amq.mine' contains reserved prefix 'amq.*'".into())
    );
    assert_eq!(declare(&mut topology, "amq.topic", ExchangeKind::Topic), Ok(vec![]));
    let default = (ReplyCode::AccessRefused, "operation not permitted on the default exchange".to_owned());
    assert_eq!(error(declare(&mut topology, "", ExchangeKind::Direct)), default);
    assert_eq!(error(topology.check_exchange("")), default);
    assert_eq!(error(topology.delete_exchange("", false)), default);
    assert_eq!(error(topology.bind(to_queue("", "q1", "k"))), default);
    assert_eq!(error(topology.unbind(to_queue("", "q1", "k"))), default);
    assert_eq!(error(topology.bind(to_exchange("amq.direct", "", "k"))), default);
    assert_eq!(
        error(topology.delete_exchange("amq.direct", false)).1,
        "deletion of system exchange 'amq.direct' in vhost '/' not allowed"
    );
    assert_eq!(topology.check_exchange("amq.match"), Ok(()));
    assert_eq!(topology.check_exchange("e"), Err(errors::no_exchange("/", "e")));
    let names: Vec<_> = topology.exchanges().into_iter().map(|record| record.name.as_str()).collect();
    assert_eq!(names, PREDECLARED.map(|(name, ..)| name));
}

#[test]
fn binding_errors() {
    let mut topology = topology();
    let missing_both = topology.bind(to_queue("nope", "gone", "k"));
    assert_eq!(missing_both, Err(errors::no_exchange("/", "nope")));
    assert_eq!(topology.bind(to_queue("amq.direct", "gone", "k")), Err(errors::no_queue("/", "gone")));
    let to_missing = topology.bind(to_exchange("amq.direct", "gone", "k"));
    assert_eq!(to_missing, Err(errors::no_exchange("/", "gone")));
    assert_eq!(topology.unbind(to_queue("nope", "q1", "k")), Ok(vec![]));
    assert_eq!(topology.unbind(to_queue("amq.direct", "gone", "k")), Ok(vec![]));
    assert_eq!(topology.unbind(to_queue("amq.direct", "q1", "never bound")), Ok(vec![]));
    assert!(topology.bind(to_queue("amq.topic", "q1", "#.a.#")).is_ok());
    assert_eq!(
        error(topology.bind(to_queue("amq.topic", "q1", "#.a.#.b.#"))).1,
        "Topic binding key '#.a.#.b.#' uses 3 '#' wildcards, at most 2 are allowed"
    );
    let x_match = |value| BindingRecord {
        arguments: table(&[("x-match", value)]),
        ..to_queue("amq.headers", "q1", "")
    };
    assert_eq!(
        error(topology.bind(x_match(text("foo")))).1,
        "Invalid x-match field value <<\"foo\">>; expected all, any, all-with-x, or any-with-x"
    );
    assert_eq!(
        error(topology.bind(x_match(FieldValue::I32(1)))).1,
        "Invalid x-match field type signedint (value 1); expected longstr"
    );
}

#[test]
fn only_bindings_between_durable_ends_are_durable() {
    let mut topology = topology();
    topology.add_queue(name("t"), QueueId(9), false);
    let transient = ExchangeRecord { durable: false, ..exchange("te", ExchangeKind::Fanout) };
    assert_eq!(topology.declare_exchange(transient).unwrap(), []);
    assert_eq!(topology.bind(to_queue("te", "q1", "")).unwrap(), []);
    assert_eq!(topology.bind(to_queue("amq.fanout", "t", "")).unwrap(), []);
    assert_eq!(topology.bind(to_exchange("amq.fanout", "te", "")).unwrap(), []);
    let durable = to_queue("amq.fanout", "q1", "");
    assert_eq!(topology.bind(durable.clone()).unwrap(), [TopologyChange::PutBinding(durable.clone())]);
    assert_eq!(topology.bind(durable.clone()).unwrap(), []);
    assert_eq!(topology.remove_queue(QueueId(9)), []);
    assert_eq!(topology.remove_queue(QueueId(1)), [TopologyChange::DeleteBinding(durable)]);
    assert_eq!(topology.remove_queue(QueueId(1)), []);
}

#[test]
fn auto_delete_exchanges_go_with_their_last_binding() {
    let mut topology = topology();
    for exchange_name in ["a", "b"] {
        let declaration =
            ExchangeRecord { auto_delete: true, ..exchange(exchange_name, ExchangeKind::Fanout) };
        topology.declare_exchange(declaration).unwrap();
    }
    topology.bind(to_exchange("a", "b", "")).unwrap();
    topology.bind(to_queue("b", "q1", "")).unwrap();
    topology.bind(to_queue("b", "q2", "")).unwrap();
    assert_eq!(error(topology.delete_exchange("b", true)).1, "exchange 'b' in vhost '/' in use");
    topology.unbind(to_queue("b", "q2", "")).unwrap();
    assert!(topology.exchange("b").is_some());
    let expected = [
        TopologyChange::DeleteBinding(to_queue("b", "q1", "")),
        TopologyChange::DeleteBinding(to_exchange("a", "b", "")),
        TopologyChange::DeleteExchange(name("b")),
        TopologyChange::DeleteExchange(name("a")),
    ];
    assert_eq!(topology.remove_queue(QueueId(1)), expected);
    assert!(topology.exchange("a").is_none() && topology.exchange("b").is_none());
}

#[test]
fn a_deleted_exchange_leaves_nothing_behind() {
    let mut topology = topology();
    topology.declare_exchange(exchange("e", ExchangeKind::Direct)).unwrap();
    topology.bind(to_queue("e", "q1", "k")).unwrap();
    topology.bind(to_exchange("e", "e", "k")).unwrap();
    assert_eq!(topology.delete_exchange("e", false).unwrap().len(), 3);
    assert_eq!(topology.delete_exchange("e", false).unwrap(), []);
    topology.declare_exchange(exchange("e", ExchangeKind::Direct)).unwrap();
    assert_eq!(route(&topology, "e", "k"), [0; 0]);
    assert_eq!(topology.delete_exchange("e", true).unwrap(), [TopologyChange::DeleteExchange(name("e"))]);
    assert!(topology.incoming.is_empty());
}

#[test]
fn many_bindings_of_one_key_are_removed_quickly() {
    const COUNT: u64 = 20_000;
    let mut topology = topology();
    for id in 100..100 + COUNT {
        topology.add_queue(name(&id.to_string()), QueueId(id), false);
        topology.bind(to_queue("amq.topic", &id.to_string(), "a.#")).unwrap();
    }
    assert_eq!(route(&topology, "amq.topic", "a.b").len() as u64, COUNT);
    for id in 100..100 + COUNT {
        topology.remove_queue(QueueId(id));
    }
    assert_eq!(route(&topology, "amq.topic", "a.b"), [0; 0]);
}

/// With a comparison of each with all others this takes minutes.
#[test]
fn many_sets_of_arguments_are_bound_and_removed_quickly() {
    const COUNT: i32 = 20_000;
    let mut topology = topology();
    let with = |n| BindingRecord {
        arguments: table(&[("n", FieldValue::I32(n)), ("x-match", text("all"))]),
        ..to_queue("amq.headers", "q1", "")
    };
    for n in 0..COUNT {
        topology.bind(with(n)).unwrap();
    }
    for n in 0..COUNT / 2 {
        assert!(topology.bind(with(n)).unwrap().is_empty(), "it is bound already");
        assert_eq!(topology.unbind(with(n)).unwrap().len(), 1);
    }
    let routed = |topology: &Topology, n| {
        let message = table(&[("n", FieldValue::I32(n))]);
        route_with(topology, "amq.headers", "", &message, &[])
    };
    assert_eq!((routed(&topology, 1), routed(&topology, COUNT - 1)), (vec![], vec![1]));
    assert_eq!(topology.remove_queue(QueueId(1)).len(), COUNT as usize / 2);
    assert_eq!(routed(&topology, COUNT - 1), [0; 0]);
}
