//! Changes of users, what they may do, and their limits.

use posthouse_model::limits::UserLimits;
use posthouse_node::admin::{self, AdminError};
use posthouse_node::broker::Broker;
use serde::Deserialize;
use serde_json::Value;

use super::{json_text, root};

/// See the module's documentation; `vhost` is `/` when left out.
#[derive(Deserialize)]
#[serde(tag = "command", content = "args", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Command {
    AddUser {
        name: String,
        password: String,
    },
    DeleteUser {
        name: String,
    },
    ChangePassword {
        name: String,
        password: String,
    },
    ClearPassword {
        name: String,
    },
    SetUserTags {
        name: String,
        tags: Vec<String>,
    },
    SetPermissions {
        #[serde(default = "root")]
        vhost: String,
        user: String,
        configure: String,
        write: String,
        read: String,
    },
    ClearPermissions {
        #[serde(default = "root")]
        vhost: String,
        user: String,
    },
    SetTopicPermissions {
        #[serde(default = "root")]
        vhost: String,
        user: String,
        exchange: String,
        write: String,
        read: String,
    },
    ClearTopicPermissions {
        #[serde(default = "root")]
        vhost: String,
        user: String,
        #[serde(default)]
        exchanges: Vec<String>,
    },
    SetUserLimits {
        user: String,
        limits: String,
    },
    ClearUserLimits {
        user: String,
        limit: String,
    },
}

/// Carries it out.
pub(super) fn run(broker: &Broker, command: Command) -> Result<Value, AdminError> {
    match command {
        Command::AddUser { name, password } => admin::add_user(broker, &name, password.as_bytes())?,
        Command::DeleteUser { name } => admin::delete_user(broker, &name)?,
        Command::ChangePassword { name, password } => {
            admin::change_password(broker, &name, password.as_bytes())?;
        }
        Command::ClearPassword { name } => admin::clear_password(broker, &name)?,
        Command::SetUserTags { name, tags } => admin::set_user_tags(broker, &name, tags)?,
        Command::SetPermissions { vhost, user, configure, write, read } => {
            admin::set_permissions(broker, &user, &vhost, [&configure, &write, &read])?;
        }
        Command::ClearPermissions { vhost, user } => admin::clear_permissions(broker, &user, &vhost)?,
        Command::SetTopicPermissions { vhost, user, exchange, write, read } => {
            admin::set_topic_permissions(broker, &user, &vhost, &exchange, [&write, &read])?;
        }
        Command::ClearTopicPermissions { vhost, user, exchanges } if exchanges.is_empty() => {
            admin::clear_topic_permissions(broker, &user, &vhost, None)?;
        }
        Command::ClearTopicPermissions { vhost, user, exchanges } => {
            for exchange in exchanges {
                admin::clear_topic_permissions(broker, &user, &vhost, Some(&exchange))?;
            }
        }
        Command::SetUserLimits { user, limits } => {
            let limits = UserLimits::from_value(&json_text("limits", &limits)?)?;
            admin::set_user_limits(broker, &user, &limits)?;
        }
        Command::ClearUserLimits { user, limit } => admin::clear_user_limits(broker, &user, &limit)?,
    }
    Ok(Value::Null)
}
