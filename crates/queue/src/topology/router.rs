//! One exchange's bindings, arranged for lookup by its type.

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use posthouse_model::exchange::ExchangeKind;
use posthouse_model::exchange_args::{ExchangeArguments, SeenWindow};
use posthouse_model::field::FieldTable;
use posthouse_model::name::Name;

use super::Destination;
use super::consistent_hash::ConsistentHash;
use super::destinations::DenseSet;
use super::headers::HeadersTable;
use super::modulus_hash::ModulusHash;
use super::selectors::SelectorTable;
use super::trie::Trie;

/// How an exchange finds the destinations of a message.
#[derive(Debug)]
pub(super) enum Router {
    /// The default exchange: the queue of that name.
    ByQueueName,
    /// By exact key.
    Direct(HashMap<Name, DenseSet<Destination>, RandomState>),
    /// All of them.
    Fanout(Everything),
    /// By key with wildcards.
    Topic(Trie<Destination>),
    /// By headers.
    Headers(HeadersTable),
    /// By selectors.
    JmsTopic(SelectorTable),
    /// One by weight, chosen by a hash.
    ConsistentHash(ConsistentHash),
    /// One, chosen by a hash of the routing key.
    ModulusHash(ModulusHash),
    /// One by chance.
    Random(Everything),
    /// All of them; the message is one for the history, which is so long.
    RecentHistory(Everything, u64),
    /// All of them, but for messages that were seen before.
    Deduplication(Everything, SeenWindow),
}

/// Every destination that is bound, with how many keys each.
#[derive(Debug, Default)]
pub(super) struct Everything {
    all: DenseSet<Destination>,
    keys: HashMap<Destination, u32, RandomState>,
}

impl Everything {
    /// The destinations.
    pub(super) fn as_slice(&self) -> &[Destination] {
        self.all.as_slice()
    }

    fn insert(&mut self, to: Destination) {
        *self.keys.entry(to).or_default() += 1;
        self.all.insert(to);
    }

    fn remove(&mut self, to: Destination) {
        if let Some(count) = self.keys.get_mut(&to) {
            *count -= 1;
            if *count == 0 {
                self.keys.remove(&to);
                self.all.remove(to);
            }
        }
    }
}

impl Router {
    /// A router without bindings.
    pub(super) fn new(arguments: &ExchangeArguments) -> Self {
        match arguments.routes_as {
            // No exchange routes as a delayed message exchange.
            ExchangeKind::Direct | ExchangeKind::DelayedMessage => Self::Direct(HashMap::default()),
            ExchangeKind::Fanout => Self::Fanout(Everything::default()),
            ExchangeKind::Topic => Self::Topic(Trie::default()),
            ExchangeKind::Headers => Self::Headers(HeadersTable::default()),
            ExchangeKind::JmsTopic => Self::JmsTopic(SelectorTable::default()),
            ExchangeKind::ConsistentHash => {
                Self::ConsistentHash(ConsistentHash::new(arguments.hash_on.clone()))
            }
            ExchangeKind::ModulusHash => Self::ModulusHash(ModulusHash::default()),
            ExchangeKind::RecentHistory => {
                Self::RecentHistory(Everything::default(), arguments.history_length)
            }
            ExchangeKind::Deduplication => Self::Deduplication(Everything::default(), arguments.seen_window),
            ExchangeKind::Random | ExchangeKind::LocalRandom => Self::Random(Everything::default()),
        }
    }

    /// Adds a binding to the destination of that name; `first` when no other has this destination and key. Only
    /// headers and selectors are in arguments.
    pub(super) fn insert(
        &mut self,
        to: Destination,
        name: &Name,
        key: &Name,
        arguments: &FieldTable,
        first: bool,
    ) {
        match self {
            Self::Headers(table) => table.insert(to, key, arguments),
            Self::JmsTopic(table) => table.insert(to, key, arguments),
            _ if !first => {}
            Self::ByQueueName => {}
            Self::Direct(keys) => {
                keys.entry(key.clone()).or_default().insert(to);
            }
            Self::Fanout(everything)
            | Self::Random(everything)
            | Self::RecentHistory(everything, _)
            | Self::Deduplication(everything, _) => {
                everything.insert(to);
            }
            Self::Topic(trie) => {
                trie.insert(key, to);
            }
            Self::ConsistentHash(members) => members.insert(to, name, key),
            Self::ModulusHash(list) => list.insert(to, name, key),
        }
    }

    /// Removes a binding; `last` when no other has this destination and key.
    pub(super) fn remove(&mut self, to: Destination, key: &Name, arguments: &FieldTable, last: bool) {
        match self {
            Self::Headers(table) => table.remove(to, key, arguments),
            Self::JmsTopic(table) => table.remove(to, key, arguments),
            _ if !last => {}
            Self::ByQueueName => {}
            Self::Direct(keys) => {
                if let Some(destinations) = keys.get_mut(key) {
                    destinations.remove(to);
                    if destinations.is_empty() {
                        keys.remove(key);
                    }
                }
            }
            Self::Fanout(everything)
            | Self::Random(everything)
            | Self::RecentHistory(everything, _)
            | Self::Deduplication(everything, _) => {
                everything.remove(to);
            }
            Self::Topic(trie) => {
                trie.remove(key, to);
            }
            Self::ConsistentHash(members) => members.remove(to, key),
            Self::ModulusHash(list) => list.remove(to, key),
        }
    }
}
