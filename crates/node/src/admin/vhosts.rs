//! Adding, changing and deleting virtual hosts.

use posthouse_model::limits::VhostLimits;
use posthouse_model::name::Name;
use serde_json::Value;

use super::{AdminError, Result, find_vhost};
use crate::broker::Broker;
use crate::metadata::{InvalidMetadata, VhostMetadata};
use crate::records::{self, LIMITS, VHOST_LIMITS};
use crate::vhost::VirtualHost;

/// Adds a virtual host in which nobody may do anything yet, with the JSON form of its metadata.
pub fn add_vhost(broker: &Broker, name: &str, metadata: &Value) -> Result<()> {
    let checked = Name::new(name).ok().filter(|name| !name.is_empty());
    let checked = checked.ok_or(AdminError::InvalidVhostName(name.len()))?;
    let mut all = VhostMetadata::default();
    all.update(metadata)?;
    if !broker.add_vhost(&checked, all) {
        return Err(AdminError::VhostExists(name.to_owned()));
    }
    Ok(broker.store().meta().flush()?)
}

/// Deletes a virtual host with everything in it and closes its connections, unless it is protected from that.
pub fn delete_vhost(broker: &Broker, name: &str) -> Result<()> {
    if find_vhost(broker, name)?.metadata().protected_from_deletion {
        return Err(AdminError::ProtectedVhost(name.to_owned()));
    }
    if !broker.delete_vhost(name) {
        return Err(AdminError::NoSuchVhost(name.to_owned()));
    }
    Ok(broker.store().meta().flush()?)
}

/// Takes over what the JSON form of metadata says; the rest stays.
pub fn update_vhost_metadata(broker: &Broker, name: &str, metadata: &Value) -> Result<()> {
    put_metadata(broker, &*find_vhost(broker, name)?, metadata)?;
    Ok(broker.store().meta().flush()?)
}

/// The same, without waiting until it is kept.
pub(crate) fn put_metadata(
    broker: &Broker,
    vhost: &VirtualHost,
    metadata: &Value,
) -> std::result::Result<(), InvalidMetadata> {
    let mut all = vhost.metadata();
    all.update(metadata)?;
    vhost.change(|inner| {
        inner.metadata = all;
        broker.keep(vec![records::put_vhost(vhost.name(), &inner.metadata)]);
    });
    Ok(())
}

/// Replaces a virtual host's limits. They count for what comes: nothing is closed or deleted.
pub fn set_vhost_limits(broker: &Broker, name: &str, limits: VhostLimits) -> Result<()> {
    put_vhost_limits(broker, &*find_vhost(broker, name)?, limits);
    Ok(broker.store().meta().flush()?)
}

/// The same, without waiting until it is kept.
pub(crate) fn put_vhost_limits(broker: &Broker, vhost: &VirtualHost, limits: VhostLimits) {
    broker.events().emit("vhost.limits.set", |fields| {
        fields.text("name", LIMITS).text("vhost", vhost.name()).limits(&limits.to_value())
    });
    vhost.change(|inner| {
        inner.limits = limits;
        // Sessions look at quotas when they look for routes.
        inner.topology.forget_routes();
        broker.keep(vec![records::put_parameter(
            vhost.name(),
            VHOST_LIMITS,
            LIMITS,
            &inner.limits.to_value(),
        )]);
    });
}

/// Lifts a virtual host's limits.
pub fn clear_vhost_limits(broker: &Broker, name: &str) -> Result<()> {
    let vhost = find_vhost(broker, name)?;
    vhost.change(|inner| {
        inner.limits = VhostLimits::default();
        inner.topology.forget_routes();
        broker.keep(vec![records::delete_parameter(vhost.name(), VHOST_LIMITS, LIMITS)]);
    });
    broker
        .events()
        .emit("vhost.limits.cleared", |fields| fields.text("name", LIMITS).text("vhost", vhost.name()));
    Ok(broker.store().meta().flush()?)
}
