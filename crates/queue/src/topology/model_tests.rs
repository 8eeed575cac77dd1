//! The whole topology against lists that are searched from end to end.

use posthouse_model::field::FieldValue;
use posthouse_model::props::{HeaderView, Properties};
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Declare {
        exchange: usize,
        kind: ExchangeKind,
        durable: bool,
        auto_delete: bool,
        alternate: Option<usize>,
    },
    Delete {
        exchange: usize,
        if_unused: bool,
    },
    Bind(usize, End, String, u8),
    Unbind(usize, End, String, u8),
    UnbindExisting(BindingRecord),
    AddQueue {
        queue: usize,
        durable: bool,
    },
    RemoveQueue(usize),
}

#[derive(Clone, Copy, Debug)]
enum End {
    Queue(usize),
    Exchange(usize),
}

const EXCHANGES: [&str; 6] = ["a", "b", "c", "amq.topic", "amq.headers", "amq.fanout"];
const QUEUES: [&str; 4] = ["q0", "q1", "q2", "q3"];

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let key = || prop::sample::select(vec!["", "k", "k.l", "k.*", "#", "#.l"]).prop_map(str::to_owned);
    let end = || prop_oneof![2 => (0..4usize).prop_map(End::Queue), 1 => (0..6usize).prop_map(End::Exchange)];
    let kind = prop::sample::select(vec![
        ExchangeKind::Direct,
        ExchangeKind::Fanout,
        ExchangeKind::Topic,
        ExchangeKind::Headers,
    ]);
    let alternate = prop::option::of(0..6usize);
    let op = prop_oneof![
        3 => (0..3usize, kind, any::<bool>(), any::<bool>(), alternate).prop_map(
            |(exchange, kind, durable, auto_delete, alternate)| {
                Op::Declare { exchange, kind, durable, auto_delete, alternate }
            }
        ),
        1 => (0..4usize, any::<bool>()).prop_map(|(exchange, if_unused)| Op::Delete { exchange, if_unused }),
        6 => (0..6usize, end(), key(), 0..4u8).prop_map(|(from, to, key, args)| Op::Bind(from, to, key, args)),
        3 => (0..6usize, end(), key(), 0..4u8).prop_map(|(from, to, key, args)| Op::Unbind(from, to, key, args)),
        2 => (0..4usize, any::<bool>()).prop_map(|(queue, durable)| Op::AddQueue { queue, durable }),
        1 => (0..4usize).prop_map(Op::RemoveQueue),
    ];
    prop::collection::vec(op, 0..60)
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn arguments(choice: u8) -> FieldTable {
    let entry = |key: &str, value| (key.to_owned(), value);
    FieldTable(match choice {
        0 => vec![],
        1 => vec![entry("h", FieldValue::I32(1))],
        2 => vec![entry("h", FieldValue::I32(2)), entry("x-match", FieldValue::string("any"))],
        _ => vec![entry("h", FieldValue::Void), entry("i", FieldValue::Bool(true))],
    })
}

fn binding(source: usize, end: End, key: &str, args: u8) -> BindingRecord {
    let destination = match end {
        End::Queue(queue) => DestinationName::Queue(name(QUEUES[queue])),
        End::Exchange(exchange) => DestinationName::Exchange(name(EXCHANGES[exchange])),
    };
    let source = name(EXCHANGES[source]);
    BindingRecord { source, destination, routing_key: name(key), arguments: arguments(args) }
}

#[derive(Default)]
struct Model {
    exchanges: Vec<ExchangeRecord>,
    queues: Vec<(String, QueueId, bool)>,
    bindings: Vec<BindingRecord>,
}

impl Model {
    fn exchange(&self, name: &str) -> Option<&ExchangeRecord> {
        self.exchanges.iter().find(|exchange| &*exchange.name == name)
    }

    fn has_end(&self, end: &DestinationName) -> bool {
        match end {
            DestinationName::Exchange(name) => self.exchange(name).is_some(),
            DestinationName::Queue(name) => self.queues.iter().any(|(queue, ..)| **queue == **name),
        }
    }

    fn is_durable(&self, binding: &BindingRecord) -> bool {
        let exchange = |name: &str| self.exchange(name).is_some_and(|exchange| exchange.durable);
        exchange(&binding.source)
            && match &binding.destination {
                DestinationName::Exchange(name) => exchange(name),
                DestinationName::Queue(name) => {
                    self.queues.iter().any(|(q, _, durable)| **q == **name && *durable)
                }
            }
    }

    /// Drops bindings without ends, and auto-delete exchanges of which a binding went and none is left.
    fn remove_bindings(&mut self, gone: impl Fn(&Self, &BindingRecord) -> bool) {
        let (gone, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.bindings).into_iter().partition(|binding| gone(self, binding));
        self.bindings = kept;
        let unused: Vec<Name> = gone
            .into_iter()
            .map(|binding| binding.source)
            .filter(|source| self.exchange(source).is_some_and(|exchange| exchange.auto_delete))
            .filter(|source| !self.bindings.iter().any(|binding| binding.source == *source))
            .collect();
        if !unused.is_empty() {
            self.exchanges.retain(|exchange| !unused.contains(&exchange.name));
            self.remove_orphans();
        }
    }

    fn remove_orphans(&mut self) {
        self.remove_bindings(|model, binding| {
            !model.has_end(&binding.destination) || model.exchange(&binding.source).is_none()
        });
    }

    fn apply(&mut self, op: &Op, next_queue: u64) {
        match op {
            Op::Declare { .. } => {
                let declaration = declaration(op);
                if self.exchange(&declaration.name).is_none() {
                    self.exchanges.push(declaration);
                }
            }
            Op::Delete { exchange, if_unused } => {
                let name = EXCHANGES[*exchange];
                let used = self.bindings.iter().any(|binding| &*binding.source == name);
                let refused = name.starts_with("amq.") || used && *if_unused;
                if !refused {
                    self.exchanges.retain(|exchange| &*exchange.name != name);
                    self.remove_orphans();
                }
            }
            Op::Bind(source, end, key, args) => {
                let binding = binding(*source, *end, key, *args);
                let ends = self.exchange(&binding.source).is_some() && self.has_end(&binding.destination);
                if ends && !self.bindings.contains(&binding) {
                    self.bindings.push(binding);
                }
            }
            Op::Unbind(source, end, key, args) => {
                let unwanted = binding(*source, *end, key, *args);
                self.remove_bindings(|_, binding| *binding == unwanted);
            }
            Op::UnbindExisting(unwanted) => self.remove_bindings(|_, binding| binding == unwanted),
            Op::AddQueue { queue, durable } => {
                let name = QUEUES[*queue];
                if !self.queues.iter().any(|(queue, ..)| queue == name) {
                    self.queues.push((name.to_owned(), QueueId(next_queue), *durable));
                }
            }
            Op::RemoveQueue(queue) => {
                self.queues.retain(|(name, ..)| name != QUEUES[*queue]);
                self.remove_orphans();
            }
        }
    }

    fn route(&self, start: &str, key: &str, headers: &FieldTable) -> Vec<QueueId> {
        let mut queues = Vec::new();
        let mut visited = Vec::new();
        let mut pending = vec![start.to_owned()];
        while let Some(at) = pending.pop() {
            let Some(exchange) = self.exchange(&at) else { continue };
            if visited.contains(&at) {
                continue;
            }
            visited.push(at.clone());
            let found: Vec<_> = self
                .bindings
                .iter()
                .filter(|binding| *binding.source == *at && matches(exchange.kind, binding, key, headers))
                .collect();
            for binding in &found {
                match &binding.destination {
                    DestinationName::Exchange(name) => pending.push(name.to_string()),
                    DestinationName::Queue(name) => queues
                        .extend(self.queues.iter().filter(|(q, ..)| **q == **name).map(|(_, id, _)| *id)),
                }
            }
            if found.is_empty()
                && let Some(FieldValue::LongStr(alternate)) = exchange.arguments.get("alternate-exchange")
            {
                pending.push(String::from_utf8(alternate.clone()).unwrap());
            }
        }
        queues.sort_unstable();
        queues.dedup();
        queues
    }

    fn sorted_bindings(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.bindings.iter().map(|binding| format!("{binding:?}")).collect();
        lines.sort_unstable();
        lines
    }

    /// What must be in the metadata store.
    fn durable(&self) -> Vec<String> {
        let exchanges =
            self.exchanges.iter().filter(|exchange| exchange.durable && !exchange.name.starts_with("amq."));
        let bindings = self.bindings.iter().filter(|binding| self.is_durable(binding));
        let mut lines: Vec<_> = exchanges.map(|exchange| format!("{exchange:?}")).collect();
        lines.extend(bindings.map(|binding| format!("{binding:?}")));
        lines.sort_unstable();
        lines
    }
}

fn declaration(op: &Op) -> ExchangeRecord {
    let Op::Declare { exchange, kind, durable, auto_delete, alternate } = op else { unreachable!() };
    let alternate = alternate.map(|at| ("alternate-exchange".to_owned(), FieldValue::string(EXCHANGES[at])));
    ExchangeRecord {
        name: name(EXCHANGES[*exchange]),
        kind: *kind,
        durable: *durable,
        auto_delete: *auto_delete,
        internal: false,
        arguments: FieldTable(Vec::from_iter(alternate)),
    }
}

fn matches(kind: ExchangeKind, binding: &BindingRecord, key: &str, headers: &FieldTable) -> bool {
    let pattern: Vec<&str> =
        binding.routing_key.split('.').filter(|_| !binding.routing_key.is_empty()).collect();
    let words: Vec<&str> = key.split('.').filter(|_| !key.is_empty()).collect();
    let has = |name: &str, wanted: Option<FieldValue>| match (headers.get(name), wanted) {
        (Some(value), Some(wanted)) => *value == wanted,
        (value, None) => value.is_some(),
        (None, _) => false,
    };
    match kind {
        ExchangeKind::Direct => &*binding.routing_key == key,
        ExchangeKind::Fanout => true,
        ExchangeKind::Topic => match pattern.as_slice() {
            ["#"] => true,
            ["#", "l"] => words.last() == Some(&"l"),
            ["k", "*"] => words.len() == 2 && words[0] == "k",
            exact => exact == words,
        },
        ExchangeKind::Headers => match &binding.arguments {
            args if *args == arguments(0) => true,
            args if *args == arguments(1) => has("h", Some(FieldValue::I32(1))),
            args if *args == arguments(2) => has("h", Some(FieldValue::I32(2))),
            _ => has("h", None) && has("i", Some(FieldValue::Bool(true))),
        },
        other => panic!("{other} exchanges have tests of their own"),
    }
}

fn apply(topology: &mut Topology, op: &Op, next_queue: u64) -> Vec<TopologyChange> {
    match op {
        Op::Declare { .. } => topology.declare_exchange(declaration(op)).unwrap_or_default(),
        Op::Delete { exchange, if_unused } => {
            topology.delete_exchange(EXCHANGES[*exchange], *if_unused).unwrap_or_default()
        }
        Op::Bind(source, end, key, args) => {
            topology.bind(binding(*source, *end, key, *args)).unwrap_or_default()
        }
        Op::Unbind(source, end, key, args) => topology.unbind(binding(*source, *end, key, *args)).unwrap(),
        Op::UnbindExisting(binding) => topology.unbind(binding.clone()).unwrap(),
        Op::AddQueue { queue, durable } => {
            if topology.queue_id(QUEUES[*queue]).is_none() {
                topology.add_queue(name(QUEUES[*queue]), QueueId(next_queue), *durable);
            }
            Vec::new()
        }
        Op::RemoveQueue(queue) => {
            topology.queue_id(QUEUES[*queue]).map(|id| topology.remove_queue(id)).unwrap_or_default()
        }
    }
}

/// Lets every other removal of a binding hit one that exists; chance alone rarely does.
fn aimed(op: &Op, model: &Model) -> Op {
    let Op::Unbind(source, _, key, args) = op else { return op.clone() };
    let place = source + key.len() + usize::from(*args);
    let target = model.bindings.get(place % model.bindings.len().max(1)).filter(|_| place % 2 == 0);
    target.map_or_else(|| op.clone(), |binding| Op::UnbindExisting(binding.clone()))
}

fn written(store: &mut Vec<String>, change: TopologyChange) {
    match change {
        TopologyChange::PutExchange(record) => store.push(format!("{record:?}")),
        TopologyChange::PutBinding(record) => store.push(format!("{record:?}")),
        TopologyChange::DeleteBinding(record) => {
            let at = store.iter().position(|line| *line == format!("{record:?}")).expect("was never written");
            store.remove(at);
        }
        TopologyChange::DeleteExchange(name) => {
            let start = format!("ExchangeRecord {{ name: {name:?},");
            let at = store.iter().position(|line| line.starts_with(&start)).expect("was never written");
            store.remove(at);
        }
    }
    store.sort_unstable();
}

fn check_routes(topology: &Topology, model: &Model) -> Result<(), TestCaseError> {
    let mut result = RouteResult::default();
    for exchange in model.exchanges.iter().filter(|exchange| !exchange.name.is_empty()) {
        for key in ["", "k", "k.l", "x.l"] {
            for headers in [
                arguments(0),
                arguments(1),
                arguments(2),
                FieldTable(vec![
                    ("i".to_owned(), FieldValue::Bool(true)),
                    ("h".to_owned(), FieldValue::string("any")),
                ]),
            ] {
                let mut bytes = Vec::new();
                Properties { headers: Some(headers.clone()), ..Properties::default() }.encode(0, &mut bytes);
                let message =
                    Routed { key, header: Some(HeaderView::parse(&bytes).unwrap()), ..Routed::default() };
                topology.route(&exchange.name, message, &mut result).unwrap();
                prop_assert_eq!(result.queues(), model.route(&exchange.name, key, &headers));
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn agrees_with_lists(ops in ops()) {
        let mut topology = Topology::new(name("/"));
        let predeclared = topology.exchanges().into_iter().filter(|record| !record.name.is_empty()).cloned();
        let mut model = Model { exchanges: predeclared.filter(|r| !r.internal).collect(), ..Model::default() };
        let mut store = Vec::new();
        let mut changes = Vec::new();
        for (i, op) in (0..).zip(&ops) {
            let op = &aimed(op, &model);
            let epoch = topology.epoch();
            let before = model.sorted_bindings().len() + model.exchanges.len() + model.queues.len();
            let these = apply(&mut topology, op, i);
            model.apply(op, i);
            for change in &these {
                written(&mut store, change.clone());
            }
            changes.extend(these);
            prop_assert_eq!(&store, &model.durable(), "after {:?}", op);
            let after = model.sorted_bindings().len() + model.exchanges.len() + model.queues.len();
            prop_assert!(before == after || topology.epoch() > epoch);
            let mut listed: Vec<_> = topology
                .bindings()
                .iter()
                .filter(|binding| !binding.source.is_empty())
                .map(|binding| format!("{binding:?}"))
                .collect();
            listed.sort_unstable();
            prop_assert_eq!(listed, model.sorted_bindings(), "after {:?}", op);
            prop_assert_eq!(topology.incoming.is_empty(), model.bindings.is_empty(), "after {:?}", op);
        }
        check_routes(&topology, &model)?;
        check_restored(&model)?;
    }
}

/// What the store holds makes the durable half of the same topology.
fn check_restored(model: &Model) -> Result<(), TestCaseError> {
    let mut restored = Topology::new(name("/"));
    let mut expected = Model { queues: model.queues.clone(), ..Model::default() };
    expected.queues.retain(|(.., durable)| *durable);
    for (queue, id, durable) in &expected.queues {
        restored.add_queue(name(queue), *id, *durable);
    }
    for exchange in model.exchanges.iter().filter(|exchange| exchange.durable) {
        expected.exchanges.push(exchange.clone());
        prop_assert!(restored.restore(&TopologyChange::PutExchange(exchange.clone())));
    }
    for binding in model.bindings.iter().filter(|binding| model.is_durable(binding)) {
        expected.bindings.push(binding.clone());
        prop_assert!(restored.restore(&TopologyChange::PutBinding(binding.clone())));
    }
    check_routes(&restored, &expected)
}
