//! Exchanges and bindings of one virtual host: where a message goes.
//!
//! A deterministic machine: the same operations give the same state, the same [`TopologyChange`]s and the same
//! routes. It knows no messages and nothing of queues but their names, identities and whether they are durable;
//! permissions are checked before.
//!
//! Every operation that changes something returns what must be written to the metadata store, in order, and
//! raises [`Topology::epoch`], which route caches compare. A binding is durable when both its ends are.
//! Predeclared exchanges are durable but never written: every start makes them anew.

mod bindings;
pub mod change;
mod consistent_hash;
mod dense_map;
pub mod destinations;
#[cfg(test)]
mod hash_tests;
mod headers;
#[cfg(test)]
mod model_tests;
mod modulus_hash;
mod route;
mod router;
pub mod seen;
mod selectors;
mod stable_hash;
pub mod super_streams;
#[cfg(test)]
mod tests;
pub mod trie;
mod watched;

use foldhash::{fast, quality};
use hashbrown::{HashMap, HashSet};
use posthouse_model::errors::{self, Resource, Shown};
use posthouse_model::exchange::ExchangeKind;
use posthouse_model::exchange_args::{ExchangeArguments, SeenWindow};
use posthouse_model::field::FieldTable;
use posthouse_model::ids::QueueId;
use posthouse_model::name::Name;
use posthouse_model::reply::ReplyError;

use dense_map::DenseMap;

pub use bindings::{MAX_MANY_WILDCARDS, sorted_arguments};
pub use change::{BindingRecord, DestinationName, ExchangeRecord, TopologyChange};
pub use route::{RouteResult, Routed};
use router::Router;
pub use watched::Watched;

/// Names that start so belong to the broker.
const RESERVED_PREFIX: &str = "amq.";

/// What every virtual host starts with: name, type, internal. The first is the default exchange.
const PREDECLARED: [(&str, ExchangeKind, bool); 7] = [
    ("", ExchangeKind::Direct, false),
    ("amq.direct", ExchangeKind::Direct, false),
    ("amq.fanout", ExchangeKind::Fanout, false),
    ("amq.headers", ExchangeKind::Headers, false),
    ("amq.match", ExchangeKind::Headers, false),
    ("amq.rabbitmq.trace", ExchangeKind::Topic, true),
    ("amq.topic", ExchangeKind::Topic, false),
];

/// An exchange's place in its topology. Reused after deletion; nothing outside the topology holds one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct ExchangeId(u32);

/// Where a binding leads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Destination {
    Queue(QueueId),
    Exchange(ExchangeId),
}

/// Bindings of one pair and key differ by their arguments, as bytes; nearly always there is one.
type ArgumentSets = DenseMap<Box<[u8]>, FieldTable>;

#[derive(Debug)]
struct Exchange {
    record: ExchangeRecord,
    arguments: ExchangeArguments,
    /// The alternate exchange that a policy names; the argument wins.
    alternate_by_policy: Option<Name>,
    router: Router,
    /// Every binding from here.
    bindings: HashMap<(Destination, Name), ArgumentSets, quality::RandomState>,
}

#[derive(Debug)]
struct BoundQueue {
    name: Name,
    durable: bool,
}

/// The exchanges, bindings and queue names of one virtual host.
#[derive(Debug)]
pub struct Topology {
    vhost: Name,
    epoch: u64,
    exchanges: Vec<Option<Exchange>>,
    free: Vec<ExchangeId>,
    exchange_names: HashMap<Name, ExchangeId, quality::RandomState>,
    queues: HashMap<QueueId, BoundQueue, fast::RandomState>,
    queue_names: HashMap<Name, QueueId, quality::RandomState>,
    /// Sources and keys of the bindings to each destination that has any.
    incoming: HashMap<Destination, HashSet<(ExchangeId, Name), quality::RandomState>, fast::RandomState>,
    /// What has changed, while somebody wants to know.
    watched: Option<Vec<Watched>>,
}

impl Topology {
    /// A virtual host with nothing but the predeclared exchanges.
    pub fn new(vhost: Name) -> Self {
        let mut topology = Self {
            vhost,
            epoch: 0,
            exchanges: Vec::new(),
            free: Vec::new(),
            exchange_names: HashMap::default(),
            queues: HashMap::default(),
            queue_names: HashMap::default(),
            incoming: HashMap::default(),
            watched: None,
        };
        for (name, kind, internal) in PREDECLARED {
            topology.insert_exchange(
                ExchangeRecord {
                    name: Name::truncated(name),
                    kind,
                    durable: true,
                    auto_delete: false,
                    internal,
                    arguments: FieldTable::default(),
                },
                ExchangeArguments::none(kind),
            );
        }
        topology
    }

    /// The virtual host's name.
    pub fn vhost(&self) -> &Name {
        &self.vhost
    }

    /// Rises with every change; a route found under an older epoch may be wrong.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Raises the epoch although nothing changed here: something else did that cached routes depend on.
    pub fn forget_routes(&mut self) {
        self.epoch += 1;
    }

    /// The exchange of that name.
    pub fn exchange(&self, name: &str) -> Option<&ExchangeRecord> {
        self.exchange_id(name).and_then(|id| self.at(id)).map(|exchange| &exchange.record)
    }

    /// How an exchange routes.
    pub fn routes_as(&self, name: &str) -> Option<ExchangeKind> {
        self.exchange_id(name).and_then(|id| self.at(id)).map(|exchange| exchange.arguments.routes_as)
    }

    /// Declares an exchange. One that exists must agree in type, flags and alternate exchange (406); new names
    /// must not start with `amq.` (403); the default exchange cannot be declared (403).
    pub fn declare_exchange(
        &mut self,
        declaration: ExchangeRecord,
    ) -> Result<Vec<TopologyChange>, ReplyError> {
        let Some(arguments) = self.check_declaration(&declaration)? else { return Ok(Vec::new()) };
        let change = declaration.durable.then(|| TopologyChange::PutExchange(declaration.clone()));
        self.note(|| Watched::ExchangeAdded(declaration.clone()));
        self.insert_exchange(declaration, arguments);
        Ok(Vec::from_iter(change))
    }

    /// The checks of [`Self::declare_exchange`], and nothing else; the arguments when the exchange is a new one.
    pub fn check_declaration(
        &self,
        declaration: &ExchangeRecord,
    ) -> Result<Option<ExchangeArguments>, ReplyError> {
        let ExchangeRecord { name, arguments, .. } = declaration;
        if name.is_empty() {
            return Err(errors::default_exchange_not_permitted());
        }
        let resource = Resource::exchange(&self.vhost, name);
        if let Some(existing) = self.exchange_id(name).and_then(|id| self.at(id)) {
            check_equivalent(existing, declaration, resource)?;
            return Ok(None);
        }
        if name.starts_with(RESERVED_PREFIX) {
            return Err(errors::reserved_prefix(resource));
        }
        ExchangeArguments::parse(declaration.kind, arguments.clone(), resource).map(Some)
    }

    /// A passive declaration: 404 when there is no such exchange, and nothing else is compared.
    pub fn check_exchange(&self, name: &str) -> Result<(), ReplyError> {
        if name.is_empty() {
            return Err(errors::default_exchange_not_permitted());
        }
        self.find_exchange(name).map(drop)
    }

    /// Says which alternate exchange a policy gives to an exchange.
    pub fn set_alternate_by_policy(&mut self, exchange: &str, alternate: Option<Name>) {
        let Some(exchange) = self.exchange_id(exchange).and_then(|id| self.at_mut(id)) else { return };
        if exchange.alternate_by_policy != alternate {
            exchange.alternate_by_policy = alternate;
            self.epoch += 1;
        }
    }

    /// Deletes an exchange with all bindings from and to it, and the auto-delete exchanges that lose their last
    /// binding by that. A missing one is fine; a predeclared one is refused (403), and with `if_unused` one that
    /// has bindings (406).
    pub fn delete_exchange(
        &mut self,
        name: &str,
        if_unused: bool,
    ) -> Result<Vec<TopologyChange>, ReplyError> {
        if name.is_empty() {
            return Err(errors::default_exchange_not_permitted());
        }
        if name.starts_with(RESERVED_PREFIX) {
            return Err(errors::system_exchange_deletion(&self.vhost, name));
        }
        let Some(id) = self.exchange_id(name) else { return Ok(Vec::new()) };
        let used = self.at(id).is_some_and(|exchange| !exchange.bindings.is_empty());
        if if_unused && used {
            return Err(errors::in_use(Resource::exchange(&self.vhost, name)));
        }
        let mut changes = Vec::new();
        let mut sources = Vec::new();
        self.remove_exchange(id, &mut changes, &mut sources);
        self.delete_unused(sources, &mut changes);
        Ok(changes)
    }

    /// Makes a queue known, which binds its name to the default exchange. A queue of that name or identity must
    /// not be known yet; if it is, the old one is replaced and loses its bindings.
    pub fn add_queue(&mut self, name: Name, id: QueueId, durable: bool) {
        let previous = self.queue_names.get(&name).copied();
        for known in previous.into_iter().chain([id]) {
            self.remove_queue(known);
        }
        self.epoch += 1;
        self.queue_names.insert(name.clone(), id);
        self.queues.insert(id, BoundQueue { name, durable });
        self.note(|| Watched::QueueAdded(id));
    }

    /// Forgets a queue, its bindings, and the auto-delete exchanges that lose their last binding by that.
    pub fn remove_queue(&mut self, id: QueueId) -> Vec<TopologyChange> {
        if !self.queues.contains_key(&id) {
            return Vec::new();
        }
        self.epoch += 1;
        let mut changes = Vec::new();
        let mut sources = Vec::new();
        self.remove_incoming(Destination::Queue(id), &mut changes, &mut sources);
        self.delete_unused(sources, &mut changes);
        if let Some(queue) = self.queues.remove(&id) {
            self.queue_names.remove(&queue.name);
            self.note(|| Watched::QueueRemoved(queue.name));
        }
        changes
    }

    /// The queue of that name.
    pub fn queue_id(&self, name: &str) -> Option<QueueId> {
        self.queue_names.get(name).copied()
    }

    /// How many exchanges there are.
    pub fn exchange_count(&self) -> usize {
        self.exchange_names.len()
    }

    /// What the exchange of that name is to remember, if it drops duplicates.
    pub fn seen_window(&self, name: &str) -> Option<SeenWindow> {
        let arguments = &self.at(self.exchange_id(name)?)?.arguments;
        (arguments.routes_as == ExchangeKind::Deduplication).then_some(arguments.seen_window)
    }

    /// All exchanges by name.
    pub fn exchanges(&self) -> Vec<&ExchangeRecord> {
        let mut records: Vec<_> = self.exchanges.iter().flatten().map(|exchange| &exchange.record).collect();
        records.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        records
    }

    /// Carries out a change that was read back from the metadata store, without the checks that clients are
    /// subject to. False when it makes no sense: a binding whose end is missing or whose arguments are invalid.
    /// Durable queues must have been added before their bindings.
    pub fn restore(&mut self, change: &TopologyChange) -> bool {
        match change {
            TopologyChange::PutExchange(record) => {
                let resource = Resource::exchange(&self.vhost, &record.name);
                let Ok(arguments) = ExchangeArguments::parse(record.kind, record.arguments.clone(), resource)
                else {
                    return false;
                };
                if self.exchange_id(&record.name).is_none() {
                    self.insert_exchange(record.clone(), arguments);
                }
                true
            }
            TopologyChange::DeleteExchange(name) => self.delete_exchange(name, false).is_ok(),
            TopologyChange::PutBinding(binding) => self.bind(binding.clone()).is_ok(),
            TopologyChange::DeleteBinding(binding) => self.unbind(binding.clone()).is_ok(),
        }
    }

    fn exchange_id(&self, name: &str) -> Option<ExchangeId> {
        self.exchange_names.get(name).copied()
    }

    fn find_exchange(&self, name: &str) -> Result<ExchangeId, ReplyError> {
        self.exchange_id(name).ok_or_else(|| errors::no_exchange(&self.vhost, name))
    }

    fn at(&self, id: ExchangeId) -> Option<&Exchange> {
        self.exchanges.get(id.0 as usize)?.as_ref()
    }

    fn at_mut(&mut self, id: ExchangeId) -> Option<&mut Exchange> {
        self.exchanges.get_mut(id.0 as usize)?.as_mut()
    }

    fn insert_exchange(&mut self, record: ExchangeRecord, arguments: ExchangeArguments) {
        self.epoch += 1;
        let name = record.name.clone();
        let router = if name.is_empty() { Router::ByQueueName } else { Router::new(&arguments) };
        let exchange =
            Exchange { record, arguments, alternate_by_policy: None, router, bindings: HashMap::default() };
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.exchanges.push(None);
                ExchangeId((self.exchanges.len() - 1) as u32)
            }
        };
        self.exchanges[id.0 as usize] = Some(exchange);
        self.exchange_names.insert(name, id);
    }

    /// Removes an exchange and the bindings from and to it; `sources` gets the exchanges that lost one.
    fn remove_exchange(
        &mut self,
        id: ExchangeId,
        changes: &mut Vec<TopologyChange>,
        sources: &mut Vec<ExchangeId>,
    ) {
        self.epoch += 1;
        self.remove_outgoing(id, changes);
        self.remove_incoming(Destination::Exchange(id), changes, sources);
        let Some(exchange) = self.exchanges.get_mut(id.0 as usize).and_then(Option::take) else { return };
        self.free.push(id);
        self.exchange_names.remove(&exchange.record.name);
        self.note(|| Watched::ExchangeRemoved(exchange.record.name.clone()));
        if exchange.record.durable {
            changes.push(TopologyChange::DeleteExchange(exchange.record.name));
        }
    }

    /// Deletes those of `candidates` that are auto-delete and have no binding left, and so on upstream.
    fn delete_unused(&mut self, mut candidates: Vec<ExchangeId>, changes: &mut Vec<TopologyChange>) {
        while let Some(id) = candidates.pop() {
            let unused = |exchange: &Exchange| exchange.record.auto_delete && exchange.bindings.is_empty();
            if self.at(id).is_some_and(unused) {
                self.remove_exchange(id, changes, &mut candidates);
            }
        }
    }
}

impl Exchange {
    /// The name of the exchange that gets what this one routes to nothing.
    fn alternate(&self) -> Option<&str> {
        self.arguments.alternate_exchange.as_deref().or(self.alternate_by_policy.as_deref())
    }
}

fn check_equivalent(
    existing: &Exchange,
    received: &ExchangeRecord,
    resource: Resource<'_>,
) -> Result<(), ReplyError> {
    let current = &existing.record;
    if received.kind != current.kind {
        let (received, current) = (Shown::Value(received.kind.name()), Shown::Value(current.kind.name()));
        return Err(errors::inequivalent("type", resource, received, current));
    }
    for (flag, received, current) in [
        ("durable", received.durable, current.durable),
        ("auto_delete", received.auto_delete, current.auto_delete),
        ("internal", received.internal, current.internal),
    ] {
        if received != current {
            return Err(errors::inequivalent_flag(flag, resource, received, current));
        }
    }
    existing.arguments.check_equivalent(&received.arguments, resource)
}
