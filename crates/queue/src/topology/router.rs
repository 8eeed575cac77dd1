//! One exchange's bindings, arranged for lookup by its type.

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use posthouse_model::exchange::ExchangeKind;
use posthouse_model::field::FieldTable;
use posthouse_model::name::Name;

use super::Destination;
use super::destinations::DenseSet;
use super::headers::HeadersTable;
use super::trie::Trie;

/// How an exchange finds the destinations of a message.
#[derive(Debug)]
pub(super) enum Router {
    /// The default exchange: the queue of that name.
    ByQueueName,
    /// By exact key.
    Direct(HashMap<Name, DenseSet<Destination>, RandomState>),
    /// All of them. The map counts the keys each is bound with.
    Fanout(DenseSet<Destination>, HashMap<Destination, u32, RandomState>),
    /// By key with wildcards.
    Topic(Trie<Destination>),
    /// By headers.
    Headers(HeadersTable),
}

impl Router {
    /// A router without bindings.
    pub(super) fn new(kind: ExchangeKind) -> Self {
        match kind {
            ExchangeKind::Direct => Self::Direct(HashMap::default()),
            ExchangeKind::Fanout => Self::Fanout(DenseSet::default(), HashMap::default()),
            ExchangeKind::Topic => Self::Topic(Trie::default()),
            ExchangeKind::Headers => Self::Headers(HeadersTable::default()),
        }
    }

    /// Adds a binding; `first` when no other has this destination and key. Only headers look at arguments.
    pub(super) fn insert(&mut self, to: Destination, key: &Name, arguments: &FieldTable, first: bool) {
        match self {
            Self::Headers(table) => table.insert(to, key, arguments),
            _ if !first => {}
            Self::ByQueueName => {}
            Self::Direct(keys) => {
                keys.entry(key.clone()).or_default().insert(to);
            }
            Self::Fanout(all, counts) => {
                *counts.entry(to).or_default() += 1;
                all.insert(to);
            }
            Self::Topic(trie) => {
                trie.insert(key, to);
            }
        }
    }

    /// Removes a binding; `last` when no other has this destination and key.
    pub(super) fn remove(&mut self, to: Destination, key: &Name, arguments: &FieldTable, last: bool) {
        match self {
            Self::Headers(table) => table.remove(to, key, arguments),
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
            Self::Fanout(all, counts) => {
                if let Some(count) = counts.get_mut(&to) {
                    *count -= 1;
                    if *count == 0 {
                        counts.remove(&to);
                        all.remove(to);
                    }
                }
            }
            Self::Topic(trie) => {
                trie.remove(key, to);
            }
        }
    }
}
