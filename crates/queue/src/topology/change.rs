//! What exchanges and bindings are outside the machine: for declarations, listings and the metadata store.

use posthouse_model::exchange::ExchangeKind;
use posthouse_model::field::FieldTable;
use posthouse_model::name::Name;

/// An exchange as it was declared.
#[derive(Clone, PartialEq, Debug)]
pub struct ExchangeRecord {
    /// Its name; empty for the default exchange.
    pub name: Name,
    /// How it routes.
    pub kind: ExchangeKind,
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it is deleted when the last binding from it goes.
    pub auto_delete: bool,
    /// Whether clients may not publish to it.
    pub internal: bool,
    /// All arguments, as the client sent them.
    pub arguments: FieldTable,
}

/// Where a binding leads.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DestinationName {
    /// To an exchange.
    Exchange(Name),
    /// To a queue.
    Queue(Name),
}

impl DestinationName {
    /// The name of the queue or exchange.
    pub fn name(&self) -> &Name {
        match self {
            Self::Exchange(name) | Self::Queue(name) => name,
        }
    }
}

/// A binding. Two bindings are the same when all of these are the same.
#[derive(Clone, PartialEq, Debug)]
pub struct BindingRecord {
    /// The exchange it leads from.
    pub source: Name,
    /// Where it leads.
    pub destination: DestinationName,
    /// The binding key.
    pub routing_key: Name,
    /// All arguments, sorted by name.
    pub arguments: FieldTable,
}

/// A change to durable definitions, to be written to the metadata store.
#[derive(Clone, PartialEq, Debug)]
pub enum TopologyChange {
    /// An exchange was declared.
    PutExchange(ExchangeRecord),
    /// An exchange is gone; its bindings have changes of their own.
    DeleteExchange(Name),
    /// A binding was made.
    PutBinding(BindingRecord),
    /// A binding is gone.
    DeleteBinding(BindingRecord),
}
