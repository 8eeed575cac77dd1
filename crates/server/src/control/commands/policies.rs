//! Changes of policies and operator policies.

use posthouse_model::policy::{ApplyTo, Policy, PolicyKind};
use posthouse_node::admin::{self, AdminError};
use posthouse_node::broker::Broker;
use serde::Deserialize;
use serde_json::Value;

use super::{json_text, root};

/// See the module's documentation; `vhost` is `/` when left out.
#[derive(Deserialize)]
#[serde(tag = "command", content = "args", rename_all = "snake_case", deny_unknown_fields)]
#[expect(clippy::enum_variant_names, reason = "the names are rabbitmqctl's")]
pub(super) enum Command {
    SetPolicy(SetPolicy),
    ClearPolicy {
        #[serde(default = "root")]
        vhost: String,
        name: String,
    },
    SetOperatorPolicy(SetPolicy),
    ClearOperatorPolicy {
        #[serde(default = "root")]
        vhost: String,
        name: String,
    },
}

/// Carries it out.
pub(super) fn run(broker: &Broker, command: Command) -> Result<Value, AdminError> {
    match command {
        Command::SetPolicy(args) => set_policy(broker, PolicyKind::User, &args)?,
        Command::ClearPolicy { vhost, name } => {
            admin::clear_policy(broker, &vhost, PolicyKind::User, &name)?;
        }
        Command::SetOperatorPolicy(args) => set_policy(broker, PolicyKind::Operator, &args)?,
        Command::ClearOperatorPolicy { vhost, name } => {
            admin::clear_policy(broker, &vhost, PolicyKind::Operator, &name)?;
        }
    }
    Ok(Value::Null)
}

/// A policy to be set.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SetPolicy {
    #[serde(default = "root")]
    vhost: String,
    name: String,
    pattern: String,
    /// JSON text.
    definition: String,
    #[serde(default)]
    priority: i64,
    #[serde(default = "all")]
    apply_to: String,
}

fn all() -> String {
    "all".to_owned()
}

fn set_policy(broker: &Broker, kind: PolicyKind, args: &SetPolicy) -> Result<(), AdminError> {
    let SetPolicy { vhost, name, pattern, definition, priority, apply_to } = args;
    let definition = json_text("definition", definition)?;
    let policy = Policy::new(name, pattern, definition, *priority, ApplyTo::parse(apply_to)?, kind)?;
    admin::set_policy(broker, vhost, kind, policy)
}
