//! Setting and clearing runtime parameters.
//!
//! Only the components that the broker acts on can be set, as in a RabbitMQ without further plugins. Others come with
//! imported definitions; they are kept, listed, exported again, and can be cleared.

use posthouse_model::limits::VhostLimits;
use posthouse_model::policy::{Policy, PolicyKind};
use serde_json::Value;

use super::{AdminError, Result, clear_policy, clear_vhost_limits, find_vhost, set_policy, set_vhost_limits};
use crate::broker::Broker;
use crate::records::{self, LIMITS, VHOST_LIMITS};

/// Sets a parameter of a virtual host.
pub fn set_parameter(broker: &Broker, vhost: &str, component: &str, name: &str, value: &Value) -> Result<()> {
    if component == PolicyKind::User.component() {
        return Err(AdminError::PolicyAsParameter("set"));
    }
    if component == PolicyKind::Operator.component() {
        let kind = PolicyKind::Operator;
        return set_policy(broker, vhost, kind, Policy::from_value(name, value, kind)?);
    }
    if component != VHOST_LIMITS {
        return Err(AdminError::Invalid(format!("component {component} not found")));
    }
    if name != LIMITS {
        return Err(AdminError::Invalid(format!(
            "expected the name '{LIMITS}' for {component}, got '{name}'"
        )));
    }
    set_vhost_limits(broker, vhost, VhostLimits::from_value(value)?)
}

/// Clears a parameter of a virtual host.
pub fn clear_parameter(broker: &Broker, vhost: &str, component: &str, name: &str) -> Result<()> {
    if component == PolicyKind::User.component() {
        return Err(AdminError::PolicyAsParameter("cleared"));
    }
    if component == PolicyKind::Operator.component() {
        return clear_policy(broker, vhost, PolicyKind::Operator, name);
    }
    let found = find_vhost(broker, vhost)?;
    if component == VHOST_LIMITS && name == LIMITS {
        return if found.limits().is_empty() {
            Err(AdminError::NoSuchParameter)
        } else {
            clear_vhost_limits(broker, vhost)
        };
    }
    found.change(|inner| {
        let key = (component.to_owned(), name.to_owned());
        inner.parameters.remove(&key).ok_or(AdminError::NoSuchParameter)?;
        broker.keep(vec![records::delete_parameter(vhost, component, name)]);
        Ok::<(), AdminError>(())
    })?;
    Ok(broker.store().meta().flush()?)
}

/// Sets a parameter of the broker as a whole, of any name.
pub fn set_global_parameter(broker: &Broker, name: &str, value: Value) -> Result<()> {
    broker.put_global_parameter(name, value);
    Ok(broker.store().meta().flush()?)
}

/// Clears a parameter of the broker as a whole.
pub fn clear_global_parameter(broker: &Broker, name: &str) -> Result<()> {
    if !broker.remove_global_parameter(name) {
        return Err(AdminError::NoSuchParameter);
    }
    Ok(broker.store().meta().flush()?)
}
