//! Exchanges that choose one destination: where it goes, how often, and what moves when bindings change.

use posthouse_model::field::FieldValue;
use posthouse_model::props::{HeaderView, Properties};
use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// An exchange `e` of that type, and durable queues `q0` to `q99`, whose identities are those numbers and 1000.
fn topology(kind: ExchangeKind, arguments: &[(&str, &str)]) -> Topology {
    let mut topology = Topology::new(name("/"));
    let arguments = arguments.iter().map(|(k, v)| ((*k).to_owned(), FieldValue::string(v)));
    let record = ExchangeRecord {
        name: name("e"),
        kind,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: FieldTable(arguments.collect()),
    };
    topology.declare_exchange(record).unwrap();
    for id in 0..100 {
        topology.add_queue(name(&format!("q{id}")), QueueId(1000 + id), true);
    }
    topology
}

fn binding(queue: usize, key: &str) -> BindingRecord {
    BindingRecord {
        source: name("e"),
        destination: DestinationName::Queue(name(&format!("q{queue}"))),
        routing_key: name(key),
        arguments: FieldTable::default(),
    }
}

fn bind(topology: &mut Topology, queue: usize, key: &str) {
    topology.bind(binding(queue, key)).unwrap();
}

/// The number of the queue that gets the message, and whether that may be remembered for its key.
fn chosen(topology: &Topology, message: Routed<'_>) -> (Option<usize>, bool) {
    let mut result = RouteResult::default();
    topology.route("e", message, &mut result).unwrap();
    assert!(result.queues().len() <= 1);
    (result.queues().first().map(|id| (id.0 - 1000) as usize), !result.is_per_message())
}

fn by_key(topology: &Topology, key: &str) -> Option<usize> {
    let (queue, cacheable) = chosen(topology, Routed { key, ..Routed::default() });
    assert!(cacheable);
    queue
}

fn choices(topology: &Topology, keys: usize) -> Vec<Option<usize>> {
    (0..keys).map(|i| by_key(topology, &format!("key.{i}"))).collect()
}

#[test]
fn no_binding_no_destination() {
    for kind in [ExchangeKind::ConsistentHash, ExchangeKind::ModulusHash, ExchangeKind::Random] {
        assert_eq!(chosen(&topology(kind, &[]), Routed::default()).0, None, "{kind}");
    }
}

#[test]
fn weights_are_kept_within_a_few_percent() {
    let mut topology = topology(ExchangeKind::ConsistentHash, &[]);
    let weights = [1.0, 1.0, 2.0, 5.0, 11.0];
    for (queue, weight) in weights.iter().enumerate() {
        bind(&mut topology, queue, &format!("{weight}"));
    }
    let mut counts = [0.0; 5];
    const KEYS: usize = 100_000;
    for queue in choices(&topology, KEYS) {
        counts[queue.unwrap()] += 1.0;
    }
    for (count, weight) in counts.iter().zip(weights) {
        let expected = KEYS as f64 * weight / weights.iter().sum::<f64>();
        assert!((count / expected - 1.0).abs() < 0.03, "expected {expected}, got {count}");
    }
}

#[test]
fn weights_that_are_refused() {
    let mut topology = topology(ExchangeKind::ConsistentHash, &[]);
    for (key, text) in [
        ("0", "The binding key must be greater than 0"),
        ("-3", "The binding key must be greater than 0"),
        ("", "The binding key must be an integer: <<>>"),
        ("heavy", "The binding key must be an integer: <<\"heavy\">>"),
        ("1.5", "The binding key must be an integer: <<\"1.5\">>"),
        ("1e3", "The binding key must be an integer: <<\"1e3\">>"),
    ] {
        assert_eq!(topology.bind(binding(0, key)).unwrap_err().text, text);
    }
    bind(&mut topology, 0, "+1");
    bind(&mut topology, 1, &"9".repeat(255));
    assert_eq!(by_key(&topology, "k"), Some(1));
}

#[test]
fn the_first_weight_of_a_queue_counts() {
    let mut topology = topology(ExchangeKind::ConsistentHash, &[]);
    bind(&mut topology, 0, "1000000000");
    bind(&mut topology, 1, "1");
    bind(&mut topology, 1, "1000000000000000000");
    assert!(choices(&topology, 100).iter().all(|queue| *queue == Some(0)));
    topology.unbind(binding(1, "1")).unwrap();
    assert!(choices(&topology, 100).iter().all(|queue| *queue == Some(1)));
    topology.unbind(binding(1, "1000000000000000000")).unwrap();
    assert!(choices(&topology, 100).iter().all(|queue| *queue == Some(0)));
}

#[test]
fn headers_and_properties_are_hashed() {
    let spread = |argument: (&str, &str), make: &dyn Fn(u64) -> Properties| {
        let mut topology = topology(ExchangeKind::ConsistentHash, &[argument]);
        (0..4).for_each(|queue| bind(&mut topology, queue, "1"));
        let of = |properties: Properties| {
            let mut bytes = Vec::new();
            properties.encode(0, &mut bytes);
            let header = Some(HeaderView::parse(&bytes).unwrap());
            let (queue, cacheable) = chosen(&topology, Routed { header, ..Routed::default() });
            assert!(!cacheable);
            queue.unwrap()
        };
        let mut found: Vec<usize> = (0..100).map(|i| of(make(i))).collect();
        let again: Vec<usize> = (0..100).map(|i| of(make(i))).collect();
        assert_eq!(found, again);
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, [0, 1, 2, 3], "{argument:?}");
    };
    let header = |value| Properties {
        headers: Some(FieldTable(vec![("h".to_owned(), value)])),
        ..Properties::default()
    };
    spread(("hash-header", "h"), &|i| header(FieldValue::string(&i.to_string())));
    spread(("hash-header", "h"), &|i| header(FieldValue::I64(i as i64)));
    spread(("hash-header", "h"), &|i| header(FieldValue::Array(vec![FieldValue::I64(i as i64)])));
    let text = |i: u64| Some(i.to_string());
    spread(("hash-property", "message_id"), &|i| Properties { message_id: text(i), ..Properties::default() });
    spread(("hash-property", "correlation_id"), &|i| Properties {
        correlation_id: text(i),
        ..Properties::default()
    });
    spread(("hash-property", "timestamp"), &|i| Properties { timestamp: Some(i), ..Properties::default() });
}

#[test]
fn modulus_hash_spreads_over_bindings() {
    let mut topology = topology(ExchangeKind::ModulusHash, &[]);
    for (queue, key) in [(0, "a"), (1, ""), (1, "b"), (2, "#")] {
        bind(&mut topology, queue, key);
    }
    let mut counts = [0; 3];
    choices(&topology, 40_000).into_iter().for_each(|queue| counts[queue.unwrap()] += 1);
    for (count, bindings) in counts.into_iter().zip([1, 2, 1]) {
        assert!((9_500..10_500).contains(&(count / bindings)), "{counts:?}");
    }
    topology.unbind(binding(1, "b")).unwrap();
    topology.unbind(binding(2, "#")).unwrap();
    assert!(choices(&topology, 100).iter().all(|queue| matches!(queue, Some(0 | 1))));
}

#[test]
fn chance_reaches_every_queue_equally() {
    for kind in [ExchangeKind::Random, ExchangeKind::LocalRandom] {
        let mut topology = topology(kind, &[]);
        (0..4).for_each(|queue| bind(&mut topology, queue, ""));
        let mut counts = [0; 4];
        for draw in 0..40_000 {
            let (queue, cacheable) = chosen(&topology, Routed { draw, ..Routed::default() });
            assert!(!cacheable);
            counts[queue.unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }
}

#[test]
fn two_choices_for_one_message_are_independent() {
    let mut topology = topology(ExchangeKind::Random, &[]);
    let second = ExchangeRecord { name: name("f"), ..topology.exchange("e").unwrap().clone() };
    topology.declare_exchange(second).unwrap();
    let behind = DestinationName::Exchange(name("f"));
    topology.bind(BindingRecord { destination: behind, ..binding(0, "") }).unwrap();
    for queue in 0..2 {
        topology.bind(BindingRecord { source: name("f"), ..binding(queue, "") }).unwrap();
        bind(&mut topology, queue + 2, "");
    }
    let mut counts = [0; 4];
    (0..30_000)
        .for_each(|draw| counts[chosen(&topology, Routed { draw, ..Routed::default() }).0.unwrap()] += 1);
    assert!(counts[..2].iter().all(|count| (4_700..5_300).contains(count)), "{counts:?}");
    assert!(counts[2..].iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
}

#[test]
fn recent_history_names_itself_wherever_it_is_met() {
    let mut topology = topology(ExchangeKind::RecentHistory, &[]);
    bind(&mut topology, 0, "any");
    bind(&mut topology, 1, "");
    let behind = DestinationName::Exchange(name("e"));
    let source = name("amq.direct");
    topology.bind(BindingRecord { source, destination: behind, ..binding(0, "k") }).unwrap();
    for (exchange, key, reached) in [("e", "x", true), ("amq.direct", "k", true), ("amq.direct", "x", false)]
    {
        let mut result = RouteResult::default();
        topology.route(exchange, Routed { key, ..Routed::default() }, &mut result).unwrap();
        assert_eq!(result.queues().len(), if reached { 2 } else { 0 });
        assert_eq!(result.histories().to_vec(), if reached { vec![(name("e"), 20)] } else { vec![] });
        assert_eq!(result.is_per_message(), reached);
    }
}

#[test]
fn local_random_has_rules_of_its_own() {
    let mut topology = topology(ExchangeKind::LocalRandom, &[]);
    let refused = |error: ReplyError| (error.code as u16, error.text);
    let key = topology.bind(binding(0, "k")).unwrap_err();
    assert_eq!(refused(key), (406, "Non empty binding 'k' key not permitted".to_owned()));
    let exchange = DestinationName::Exchange(name("amq.fanout"));
    let exchange = topology.bind(BindingRecord { destination: exchange, ..binding(0, "") }).unwrap_err();
    assert_eq!(refused(exchange), (406, "Destination not found".to_owned()));
}

proptest! {
    /// The choice depends on what is bound, not on the order in which it was or on what was bound before; and a
    /// binding that comes or goes moves no key between others.
    #[test]
    fn consistent_hash_moves_as_little_as_can_be(
        queues in prop::collection::btree_map(0..100usize, 1..50u32, 2..20),
        order in any::<prop::sample::Index>(),
        leaves in any::<prop::sample::Index>(),
    ) {
        let queues: Vec<_> = queues.into_iter().collect();
        let mut one = topology(ExchangeKind::ConsistentHash, &[]);
        for (queue, weight) in &queues {
            bind(&mut one, *queue, &weight.to_string());
        }
        let mut other = topology(ExchangeKind::ConsistentHash, &[]);
        let (head, tail) = queues.split_at(order.index(queues.len()));
        for (queue, weight) in tail.iter().chain(head) {
            bind(&mut other, *queue, &weight.to_string());
        }
        let before = choices(&one, 300);
        prop_assert_eq!(&before, &choices(&other, 300));
        let (gone, weight) = &queues[leaves.index(queues.len())];
        one.unbind(binding(*gone, &weight.to_string())).unwrap();
        for (before, after) in before.iter().zip(choices(&one, 300)) {
            prop_assert!(after.is_some() && after != Some(*gone));
            prop_assert!(*before == Some(*gone) || *before == after);
        }
        bind(&mut one, *gone, &weight.to_string());
        prop_assert_eq!(before, choices(&one, 300));
    }

    /// Whatever the order of bindings was, the same key leads to the same queue.
    #[test]
    fn modulus_hash_forgets_the_order(keys in prop::collection::vec((0..10usize, "[ab]?"), 1..20)) {
        let mut one = topology(ExchangeKind::ModulusHash, &[]);
        keys.iter().for_each(|(queue, key)| bind(&mut one, *queue, key));
        let mut other = topology(ExchangeKind::ModulusHash, &[]);
        keys.iter().rev().for_each(|(queue, key)| bind(&mut other, *queue, key));
        prop_assert_eq!(choices(&one, 50), choices(&other, 50));
    }
}
