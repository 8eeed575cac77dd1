//! Closing connections.

use posthouse_node::admin::{self, AdminError};
use posthouse_node::broker::Broker;
use serde::Deserialize;
use serde_json::{Value, json};

/// See the module's documentation; `vhost` is `/` when left out.
#[derive(Deserialize)]
#[serde(tag = "command", content = "args", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Command {
    CloseConnection {
        name: String,
        reason: String,
    },
    CloseAllConnections {
        #[serde(default)]
        vhost: Option<String>,
        reason: String,
    },
}

/// Carries it out.
pub(super) fn run(broker: &Broker, command: Command) -> Result<Value, AdminError> {
    match command {
        Command::CloseConnection { name, reason } => admin::close_connection(broker, &name, &reason)?,
        Command::CloseAllConnections { vhost, reason } => {
            let closed = admin::close_all_connections(broker, vhost.as_deref(), &reason)?;
            return Ok(json!({"connections": closed}));
        }
    }
    Ok(Value::Null)
}
