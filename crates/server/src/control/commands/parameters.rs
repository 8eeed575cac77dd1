//! Changes of runtime parameters.

use posthouse_node::admin::{self, AdminError};
use posthouse_node::broker::Broker;
use serde::Deserialize;
use serde_json::Value;

use super::root;

/// See the module's documentation; `vhost` is `/` when left out.
#[derive(Deserialize)]
#[serde(tag = "command", content = "args", rename_all = "snake_case", deny_unknown_fields)]
#[expect(clippy::enum_variant_names, reason = "the names are rabbitmqctl's")]
pub(super) enum Command {
    SetParameter {
        #[serde(default = "root")]
        vhost: String,
        component: String,
        name: String,
        /// JSON text.
        value: String,
    },
    ClearParameter {
        #[serde(default = "root")]
        vhost: String,
        component: String,
        name: String,
    },
    SetGlobalParameter {
        name: String,
        /// JSON text.
        value: String,
    },
    ClearGlobalParameter {
        name: String,
    },
}

/// Carries it out.
pub(super) fn run(broker: &Broker, command: Command) -> Result<Value, AdminError> {
    match command {
        Command::SetParameter { vhost, component, name, value } => {
            admin::set_parameter(broker, &vhost, &component, &name, &decoded(&value)?)?;
        }
        Command::ClearParameter { vhost, component, name } => {
            admin::clear_parameter(broker, &vhost, &component, &name)?;
        }
        Command::SetGlobalParameter { name, value } => {
            admin::set_global_parameter(broker, &name, decoded(&value)?)?;
        }
        Command::ClearGlobalParameter { name } => admin::clear_global_parameter(broker, &name)?,
    }
    Ok(Value::Null)
}

fn decoded(text: &str) -> Result<Value, AdminError> {
    serde_json::from_str(text).map_err(|error| AdminError::NotJson(error.to_string()))
}
