//! Declaring and deleting exchanges and bindings.

use posthouse_model::errors::Resource;
use posthouse_model::exchange::ExchangeKind;
use posthouse_model::exchange_args::is_known_of_exchanges;
use posthouse_model::reply::ReplyError;
use posthouse_queue::topology::super_streams::SUPER_STREAM;
use posthouse_queue::topology::{BindingRecord, ExchangeRecord, TopologyChange};
use posthouse_storage::meta::MetaOp;

use crate::broker::Broker;
use crate::history::Kept;
use crate::vhost::{Inner, VirtualHost};
use crate::{records, seen};

impl Broker {
    /// Declares an exchange, or checks that the one there is equivalent.
    pub fn declare_exchange(&self, vhost: &VirtualHost, exchange: ExchangeRecord) -> Result<(), ReplyError> {
        self.change_topology(vhost, |inner| {
            inner.check_not_deleted(vhost.name())?;
            let ExchangeRecord { name, arguments, .. } = exchange.clone();
            let changes = inner.topology.declare_exchange(exchange)?;
            let resource = Resource::exchange(vhost.name(), &name);
            let is_known = |argument: &str| argument == SUPER_STREAM || is_known_of_exchanges(argument);
            self.unknown_arguments.warn(resource, &arguments, is_known);
            inner.apply_exchange_policy(&name);
            Ok(changes)
        })
    }

    /// Deletes an exchange; a missing one is fine.
    pub fn delete_exchange(
        &self,
        vhost: &VirtualHost,
        name: &str,
        if_unused: bool,
    ) -> Result<(), ReplyError> {
        self.change_topology(vhost, |inner| inner.topology.delete_exchange(name, if_unused))
    }

    /// Binds a queue or an exchange. Messages that the source has kept for a new binding come back, oldest first, to be
    /// published there.
    pub fn bind(&self, vhost: &VirtualHost, binding: BindingRecord) -> Result<Vec<Kept>, ReplyError> {
        let source = binding.source.clone();
        let mut kept = Vec::new();
        self.change_topology(vhost, |inner| {
            inner.check_not_deleted(vhost.name())?;
            let epoch = inner.topology.epoch();
            let changes = inner.topology.bind(binding)?;
            let routes_as = inner.topology.routes_as(&source);
            if inner.topology.epoch() != epoch && routes_as == Some(ExchangeKind::RecentHistory) {
                kept = vhost.history(&source);
            }
            Ok(changes)
        })?;
        Ok(kept)
    }

    /// Removes a binding; a missing one is fine.
    pub fn unbind(&self, vhost: &VirtualHost, binding: BindingRecord) -> Result<(), ReplyError> {
        self.change_topology(vhost, |inner| inner.topology.unbind(binding))
    }

    fn change_topology(
        &self,
        vhost: &VirtualHost,
        change: impl FnOnce(&mut Inner) -> Result<Vec<TopologyChange>, ReplyError>,
    ) -> Result<(), ReplyError> {
        vhost.change(|inner| {
            let changes = change(inner)?;
            let ops = self.topology_ops(vhost, &changes);
            // Queued under the lock, so that changes are kept in the order in which they were made.
            self.keep(ops);
            Ok(())
        })
    }

    /// What is to be kept of changes that were just made.
    pub(crate) fn topology_ops(&self, vhost: &VirtualHost, changes: &[TopologyChange]) -> Vec<MetaOp> {
        let mut ops = Vec::new();
        for change in changes {
            ops.push(records::topology_change(vhost.name(), change));
            match change {
                TopologyChange::PutExchange(exchange) if seen::keeps(exchange, vhost) => {
                    let id = self.next_queue_id();
                    ops.push(records::put_seen(vhost.name(), &exchange.name, id));
                    vhost.seen().keep(&exchange.name, id);
                }
                TopologyChange::DeleteExchange(name) => ops.push(records::delete_seen(vhost.name(), name)),
                _ => {}
            }
        }
        ops
    }
}
