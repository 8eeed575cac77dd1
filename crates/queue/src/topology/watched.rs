//! Everything that changes, transient things included, for whoever wants to be told. What must be kept is
//! [`TopologyChange`](super::TopologyChange).

use posthouse_model::ids::QueueId;
use posthouse_model::name::Name;

use super::{BindingRecord, ExchangeRecord, Topology};

/// A change that has happened.
#[derive(Clone, PartialEq, Debug)]
pub enum Watched {
    /// An exchange was declared.
    ExchangeAdded(ExchangeRecord),
    /// An exchange is gone.
    ExchangeRemoved(Name),
    /// A queue was declared.
    QueueAdded(QueueId),
    /// A queue is gone.
    QueueRemoved(Name),
    /// A binding was made.
    Bound(BindingRecord),
    /// A binding is gone.
    Unbound(BindingRecord),
}

impl Topology {
    /// Starts or stops noting changes; what was noted before is forgotten.
    pub fn watch(&mut self, on: bool) {
        self.watched = on.then(Vec::new);
    }

    /// The changes noted since [`Self::watch`] or the last call, in order.
    pub fn take_watched(&mut self) -> Vec<Watched> {
        self.watched.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Whether anything is bound to an exchange.
    pub fn is_bound(&self, exchange: &str) -> bool {
        self.exchange_id(exchange).and_then(|id| self.at(id)).is_some_and(|found| !found.bindings.is_empty())
    }

    /// Notes a change, where anybody wants to know.
    pub(super) fn note(&mut self, change: impl FnOnce() -> Watched) {
        if let Some(watched) = &mut self.watched {
            watched.push(change());
        }
    }
}

#[cfg(test)]
mod tests {
    use posthouse_model::exchange::ExchangeKind;
    use posthouse_model::field::FieldTable;

    use super::*;
    use crate::topology::DestinationName;

    fn exchange(name: &str, auto_delete: bool) -> ExchangeRecord {
        let (name, kind, arguments) = (Name::truncated(name), ExchangeKind::Fanout, FieldTable::default());
        ExchangeRecord { name, kind, durable: false, auto_delete, internal: false, arguments }
    }

    fn binding(source: &str, destination: DestinationName) -> BindingRecord {
        let (source, routing_key) = (Name::truncated(source), Name::truncated("k"));
        BindingRecord { source, destination, routing_key, arguments: FieldTable::default() }
    }

    #[test]
    fn what_happens_is_noted_with_what_it_brings_about() {
        let mut topology = Topology::new(Name::truncated("/"));
        topology.declare_exchange(exchange("unseen", false)).unwrap();
        assert!(topology.take_watched().is_empty());
        topology.watch(true);
        let (e, q) = (Name::truncated("e"), Name::truncated("q"));
        let to_queue = binding("e", DestinationName::Queue(q.clone()));
        let to_exchange = binding("amq.fanout", DestinationName::Exchange(e.clone()));
        topology.declare_exchange(exchange("e", true)).unwrap();
        topology.declare_exchange(exchange("e", true)).unwrap();
        topology.add_queue(q.clone(), QueueId(1), false);
        for _ in 0..2 {
            topology.bind(to_queue.clone()).unwrap();
        }
        topology.bind(to_exchange.clone()).unwrap();
        assert!(topology.is_bound("e") && !topology.is_bound("unseen") && !topology.is_bound("nosuch"));
        assert_eq!(
            topology.take_watched(),
            [
                Watched::ExchangeAdded(exchange("e", true)),
                Watched::QueueAdded(QueueId(1)),
                Watched::Bound(to_queue.clone()),
                Watched::Bound(to_exchange.clone()),
            ]
        );
        topology.remove_queue(QueueId(1));
        let gone = [
            Watched::Unbound(to_queue.clone()),
            Watched::Unbound(to_exchange),
            Watched::ExchangeRemoved(e),
            Watched::QueueRemoved(q.clone()),
        ];
        assert_eq!(topology.take_watched(), gone);
        topology.add_queue(q, QueueId(2), false);
        topology.declare_exchange(exchange("e", false)).unwrap();
        topology.bind(to_queue.clone()).unwrap();
        topology.take_watched();
        topology.unbind(to_queue.clone()).unwrap();
        topology.unbind(to_queue.clone()).unwrap();
        assert_eq!(topology.take_watched(), [Watched::Unbound(to_queue)]);
        topology.watch(false);
        topology.delete_exchange("e", false).unwrap();
        assert!(topology.take_watched().is_empty());
    }
}
