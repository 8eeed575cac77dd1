//! Virtual hosts: found, added, deleted with everything in them.

use std::sync::{Arc, PoisonError};

use posthouse_model::args::QueueKind;
use posthouse_model::errors;
use posthouse_model::ids::QueueId;
use posthouse_model::name::Name;
use posthouse_model::reply::ReplyError;

use super::Broker;
use crate::declare::DeleteIf;
use crate::events;
use crate::metadata::VhostMetadata;
use crate::queue_handle::QueueHandle;
use crate::records::{self, LIMITS, VHOST_LIMITS};
use crate::vhost::VirtualHost;

impl Broker {
    /// The virtual host of that name, or the error of `connection.open`.
    pub fn vhost(&self, name: &str) -> Result<Arc<VirtualHost>, ReplyError> {
        let vhosts = self.vhosts.read().unwrap_or_else(PoisonError::into_inner);
        vhosts.get(name).cloned().ok_or_else(|| errors::vhost_not_found(name))
    }

    /// All virtual hosts by name.
    pub fn vhosts(&self) -> Vec<Arc<VirtualHost>> {
        let vhosts = self.vhosts.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = vhosts.values().cloned().collect();
        all.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        all
    }

    /// Adds a virtual host; false when it is there already.
    pub fn add_vhost(&self, name: &Name, metadata: VhostMetadata) -> bool {
        let mut vhosts = self.vhosts.write().unwrap_or_else(PoisonError::into_inner);
        if vhosts.contains_key(name) {
            return false;
        }
        let vhost = VirtualHost::new(name.clone(), self.events.clone());
        events::add_exchange(self, &vhost);
        vhost.change(|inner| inner.metadata = metadata);
        self.keep(vec![records::put_vhost(name, &vhost.metadata())]);
        let metadata = vhost.metadata();
        vhosts.insert(name.clone(), Arc::new(vhost));
        self.events.emit("vhost.created", |fields| {
            let kind = metadata.default_queue_type.map_or("undefined", QueueKind::name);
            fields
                .text("name", name)
                .text("description", &metadata.description)
                .texts("tags", &metadata.tags)
                .text("default_queue_type", kind)
                .flag("tracing", false)
        });
        true
    }

    /// Deletes a virtual host with everything in it and closes its connections; false when there is none.
    pub fn delete_vhost(&self, name: &str) -> bool {
        let removed = self.vhosts.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        let Some(vhost) = removed else { return false };
        // From here on nothing is declared in it any more, whoever holds it.
        vhost.change(|inner| inner.deleted = true);
        self.connections.close(|info| info.vhost == name, &errors::vhost_deleted(name));
        for queue in vhost.all_queues() {
            // Without conditions nothing is refused.
            let _ = self.remove_queue(&vhost, &queue, DeleteIf::default());
        }
        let (exchanges, bindings) = vhost.with_topology(|topology| {
            let names: Vec<Name> = topology.exchanges().iter().map(|e| e.name.clone()).collect();
            (names, topology.bindings())
        });
        for binding in bindings {
            // Those between predeclared exchanges are kept, too.
            let _ = self.unbind(&vhost, binding);
        }
        for exchange in exchanges {
            // Predeclared ones are refused, and are not kept anyway.
            let _ = self.delete_exchange(&vhost, &exchange, false);
        }
        let changes = self.authorities.forget_vhost(name);
        self.keep_auth(&changes);
        let mut ops = vhost.look(|inner| inner.policies.forget(name));
        let others = vhost.look(|inner| inner.parameters.keys().cloned().collect::<Vec<_>>());
        let forget = |(component, key): &(String, String)| records::delete_parameter(name, component, key);
        ops.extend(others.iter().map(forget));
        ops.push(records::delete_parameter(name, VHOST_LIMITS, LIMITS));
        ops.push(records::delete_schedule(name));
        ops.push(records::delete_vhost(name));
        self.keep(ops);
        self.events.emit("vhost.deleted", |fields| fields.text("name", name));
        true
    }

    /// Makes a virtual host known that was read back, or for the first start.
    pub(crate) fn insert_vhost(&self, vhost: Arc<VirtualHost>) {
        let mut vhosts = self.vhosts.write().unwrap_or_else(PoisonError::into_inner);
        vhosts.insert(vhost.name().clone(), vhost);
    }

    /// The durable queue of that identity.
    pub(crate) fn queue_by_id(&self, id: QueueId) -> Option<Arc<QueueHandle>> {
        self.vhosts().iter().find_map(|vhost| vhost.queue_by_id(id))
    }
}
