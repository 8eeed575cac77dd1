//! Super streams: an exchange that says it is one, with streams bound to it in an order, its partitions.

use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::ids::QueueId;
use posthouse_model::name::Name;

use super::{Destination, ExchangeRecord, Topology};

/// The argument of an exchange that makes it a super stream, when it is true.
pub const SUPER_STREAM: &str = "x-super-stream";

/// The argument of a binding that says which partition it leads to, from 0 on.
pub const PARTITION_ORDER: &str = "x-stream-partition-order";

impl Topology {
    /// The queues that a super stream has as partitions, in order; `None` when the exchange is not there or is none.
    pub fn partitions(&self, exchange: &str) -> Option<Vec<Name>> {
        let found = self.exchange_id(exchange).and_then(|id| self.at(id))?;
        if !is_super_stream(&found.record) {
            return None;
        }
        let mut partitions = Vec::new();
        for ((destination, _), sets) in &found.bindings {
            let Destination::Queue(id) = destination else { continue };
            let order = sets.values().find_map(order_of);
            if let (Some(order), Some(queue)) = (order, self.queues.get(id)) {
                partitions.push((order, queue.name.clone()));
            }
        }
        partitions.sort_unstable();
        Some(partitions.into_iter().map(|(_, name)| name).collect())
    }

    /// Which partition of a super stream a queue is; `None` when it is none.
    pub fn partition_order(&self, queue: QueueId) -> Option<u64> {
        let destination = Destination::Queue(queue);
        self.incoming.get(&destination)?.iter().find_map(|(source, key)| {
            let exchange = self.at(*source).filter(|exchange| is_super_stream(&exchange.record))?;
            exchange.bindings.get(&(destination, key.clone()))?.values().find_map(order_of)
        })
    }
}

fn is_super_stream(exchange: &ExchangeRecord) -> bool {
    exchange.arguments.get(SUPER_STREAM) == Some(&FieldValue::Bool(true))
}

fn order_of(arguments: &FieldTable) -> Option<u64> {
    u64::try_from(arguments.get(PARTITION_ORDER)?.as_int()?).ok()
}

#[cfg(test)]
mod tests {
    use posthouse_model::exchange::ExchangeKind;

    use super::*;
    use crate::topology::{BindingRecord, DestinationName};

    #[test]
    fn partitions_are_in_the_order_of_their_bindings() {
        let mut topology = Topology::new(Name::truncated("/"));
        let arguments = |name: &str, value| FieldTable(vec![(name.to_owned(), value)]);
        for (name, is_super) in [("s", true), ("plain", false)] {
            let exchange = ExchangeRecord {
                name: Name::truncated(name),
                kind: ExchangeKind::Direct,
                durable: true,
                auto_delete: false,
                internal: false,
                arguments: arguments(SUPER_STREAM, FieldValue::Bool(is_super)),
            };
            topology.declare_exchange(exchange).unwrap();
        }
        for (id, order) in [(1, 2), (2, 0), (3, 1)] {
            let name = Name::truncated(&format!("s-{order}"));
            topology.add_queue(name.clone(), QueueId(id), true);
            for source in ["s", "plain"] {
                let binding = BindingRecord {
                    source: Name::truncated(source),
                    destination: DestinationName::Queue(name.clone()),
                    routing_key: Name::truncated(&order.to_string()),
                    arguments: arguments(PARTITION_ORDER, FieldValue::I64(order)),
                };
                topology.bind(binding).unwrap();
            }
        }
        topology.add_queue(Name::truncated("q"), QueueId(4), true);
        let names = ["s-0", "s-1", "s-2"].map(Name::truncated);
        assert_eq!(topology.partitions("s").as_deref(), Some(&names[..]));
        assert_eq!((topology.partitions("plain"), topology.partitions("no")), (None, None));
        let orders = [1, 2, 3, 4].map(|id| topology.partition_order(QueueId(id)));
        assert_eq!(orders, [Some(2), Some(0), Some(1), None]);
    }
}
