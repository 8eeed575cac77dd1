//! Rows of runtime parameters.

use posthouse_model::policy::PolicyKind;
use serde::Serialize;

use super::Result;
use crate::admin;
use crate::broker::Broker;
use crate::records::{LIMITS, VHOST_LIMITS};

/// A parameter of a virtual host.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct ParameterRow {
    /// What it is for.
    pub component: String,
    /// Name.
    pub name: String,
    /// Value, as JSON text.
    pub value: String,
}

/// A parameter of the broker as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct GlobalParameterRow {
    /// Name.
    pub name: String,
    /// Value, as JSON text.
    pub value: String,
}

/// All parameters of a virtual host but policies, by component and name.
pub fn parameters(broker: &Broker, vhost: &str) -> Result<Vec<ParameterRow>> {
    let mut rows = admin::find_vhost(broker, vhost)?.look(|inner| {
        let row = |component: &str, name: &str, value: String| ParameterRow {
            component: component.to_owned(),
            name: name.to_owned(),
            value,
        };
        let kind = PolicyKind::Operator;
        let policies = inner.policies.list(kind);
        let limits = (!inner.limits.is_empty()).then(|| inner.limits.to_value().to_string());
        policies
            .map(|policy| row(kind.component(), &policy.name, policy.to_value().to_string()))
            .chain(limits.map(|limits| row(VHOST_LIMITS, LIMITS, limits)))
            .chain(
                inner
                    .parameters
                    .iter()
                    .map(|((component, name), value)| row(component, name, value.to_string())),
            )
            .collect::<Vec<_>>()
    });
    rows.sort_unstable();
    Ok(rows)
}

/// All parameters of the broker as a whole, by name.
pub fn global_parameters(broker: &Broker) -> Vec<GlobalParameterRow> {
    let all = broker.global_parameters().into_iter();
    all.map(|(name, value)| GlobalParameterRow { name, value: value.to_string() }).collect()
}
