//! Setting and clearing policies.

use posthouse_model::field::FieldValue;
use posthouse_model::policy::{InvalidPolicy, Policy, PolicyKind};

use super::{AdminError, Result, find_vhost};
use crate::broker::Broker;
use crate::vhost::VirtualHost;
use crate::{policies, records};

/// Adds a policy to a virtual host or replaces the one of that name, and applies it to what is there.
pub fn set_policy(broker: &Broker, vhost: &str, kind: PolicyKind, policy: Policy) -> Result<()> {
    let vhost = find_vhost(broker, vhost)?;
    put_policy(broker, &vhost, kind, policy)?;
    policies::apply(broker, &vhost);
    Ok(broker.store().meta().flush()?)
}

/// Adds a policy or replaces the one of that name. It has no effect before [`policies::apply`].
pub(crate) fn put_policy(
    broker: &Broker,
    vhost: &VirtualHost,
    kind: PolicyKind,
    policy: Policy,
) -> std::result::Result<(), InvalidPolicy> {
    let put = records::put_parameter(vhost.name(), kind.component(), &policy.name, &policy.to_value());
    let (name, value) = (policy.name.to_string(), policy.to_value());
    vhost.change(|inner| {
        inner.policies.set(kind, policy)?;
        // Under the lock, so that changes are kept in the order in which they were made.
        broker.keep(vec![put]);
        Ok::<(), InvalidPolicy>(())
    })?;
    let key = match kind {
        PolicyKind::User => "policy.set",
        PolicyKind::Operator => "operator.policy.set",
    };
    broker.events().emit(key, |fields| {
        let text = |key: &str| value[key].as_str().unwrap_or_default();
        fields
            .text("name", &name)
            .text("vhost", vhost.name())
            .text("pattern", text("pattern"))
            .text("apply-to", text("apply-to"))
            .with("priority", FieldValue::I64(value["priority"].as_i64().unwrap_or_default()))
            .text("definition", &value["definition"].to_string())
    });
    Ok(())
}

/// Removes a policy, and its effect.
pub fn clear_policy(broker: &Broker, vhost: &str, kind: PolicyKind, name: &str) -> Result<()> {
    let vhost = find_vhost(broker, vhost)?;
    vhost.change(|inner| {
        if !inner.policies.clear(kind, name) {
            return Err(AdminError::NoSuchParameter);
        }
        broker.keep(vec![records::delete_parameter(vhost.name(), kind.component(), name)]);
        Ok(())
    })?;
    let key = match kind {
        PolicyKind::User => "policy.cleared",
        PolicyKind::Operator => "operator.policy.cleared",
    };
    broker.events().emit(key, |fields| fields.text("name", name).text("vhost", vhost.name()));
    policies::apply(broker, &vhost);
    Ok(broker.store().meta().flush()?)
}
