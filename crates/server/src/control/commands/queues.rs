//! Changes of queues and what is in them.

use posthouse_model::args::QueueKind;
use posthouse_node::admin::{self, AdminError};
use posthouse_node::broker::Broker;
use posthouse_node::convert;
use posthouse_node::declare::DeleteIf;
use serde::Deserialize;
use serde_json::{Value, json};

use super::root;

/// See the module's documentation; `vhost` is `/` when left out.
#[derive(Deserialize)]
#[expect(clippy::enum_variant_names, reason = "the names are rabbitmqctl's")]
#[serde(tag = "command", content = "args", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Command {
    DeleteQueue {
        #[serde(default = "root")]
        vhost: String,
        name: String,
        #[serde(default)]
        if_empty: bool,
        #[serde(default)]
        if_unused: bool,
    },
    PurgeQueue {
        #[serde(default = "root")]
        vhost: String,
        name: String,
    },
    ConvertQueue {
        #[serde(default = "root")]
        vhost: String,
        name: String,
        to: String,
    },
}

/// Carries it out.
pub(super) fn run(broker: &Broker, command: Command) -> Result<Value, AdminError> {
    match command {
        Command::DeleteQueue { vhost, name, if_empty, if_unused } => {
            let when = DeleteIf { unused: if_unused, empty: if_empty };
            Ok(json!({"messages": admin::delete_queue(broker, &vhost, &name, when)?}))
        }
        Command::PurgeQueue { vhost, name } => {
            Ok(json!({"messages": admin::purge_queue(broker, &vhost, &name)?}))
        }
        Command::ConvertQueue { vhost, name, to } => {
            let kind = QueueKind::from_name(&to).ok_or_else(|| {
                AdminError::Invalid(format!("--to: expected classic or quorum, got {to:?}"))
            })?;
            Ok(json!({"from": convert::convert(broker, &vhost, &name, kind)?.name()}))
        }
    }
}
