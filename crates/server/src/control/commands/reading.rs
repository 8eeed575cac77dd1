//! What is looked at and changes nothing.

use posthouse_model::policy::PolicyKind;
use posthouse_node::broker::Broker;
use posthouse_node::message_filter::MessageFilter;
use posthouse_node::schedule::listing;
use posthouse_node::{admin, browse, listings};
use serde::Deserialize;
use serde_json::Value;

use super::{Failure, root, rows};

/// See the module's documentation; `vhost` is `/` when left out.
#[derive(Deserialize)]
#[serde(tag = "command", content = "args", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Command {
    AuthenticateUser {
        name: String,
        password: String,
    },
    ListUsers {},
    ListPermissions {
        #[serde(default = "root")]
        vhost: String,
    },
    ListUserPermissions {
        user: String,
    },
    ListTopicPermissions {
        #[serde(default = "root")]
        vhost: String,
    },
    ListUserTopicPermissions {
        user: String,
    },
    ListUserLimits {},
    ListVhostLimits {},
    ListVhosts {},
    ListQueues {
        #[serde(default = "root")]
        vhost: String,
    },
    ListExchanges {
        #[serde(default = "root")]
        vhost: String,
    },
    ListBindings {
        #[serde(default = "root")]
        vhost: String,
    },
    ListConsumers {
        #[serde(default = "root")]
        vhost: String,
    },
    ListConnections {},
    ListChannels {},
    BrowseQueue {
        #[serde(default = "root")]
        vhost: String,
        name: String,
        #[serde(default)]
        skip: u64,
        #[serde(default = "few")]
        count: usize,
        #[serde(default)]
        filter: Option<String>,
        #[serde(default = "body_bytes")]
        body_bytes: usize,
    },
    ListScheduled {
        #[serde(default = "root")]
        vhost: String,
        #[serde(default = "few_scheduled")]
        count: usize,
        #[serde(default)]
        due_at: Option<u64>,
        #[serde(default)]
        filter: Option<String>,
    },
    ListPolicies {
        #[serde(default = "root")]
        vhost: String,
    },
    ListParameters {
        #[serde(default = "root")]
        vhost: String,
    },
    ListGlobalParameters {},
    ListOperatorPolicies {
        #[serde(default = "root")]
        vhost: String,
    },
}

/// Carries it out.
pub(super) fn run(broker: &Broker, command: Command) -> Result<Value, Failure> {
    let value = match command {
        Command::AuthenticateUser { name, password } => {
            admin::authenticate_user(broker, &name, password.as_bytes())?;
            Value::Null
        }
        Command::ListUsers {} => rows(listings::users(broker)),
        Command::ListPermissions { vhost } => rows(listings::permissions(broker, &vhost)?),
        Command::ListUserPermissions { user } => rows(listings::user_permissions(broker, &user)?),
        Command::ListTopicPermissions { vhost } => rows(listings::topic_permissions(broker, &vhost)?),
        Command::ListUserTopicPermissions { user } => rows(listings::user_topic_permissions(broker, &user)?),
        Command::ListUserLimits {} => rows(listings::user_limits(broker)),
        Command::ListVhostLimits {} => rows(listings::vhost_limits(broker)),
        Command::ListVhosts {} => rows(listings::vhosts(broker)),
        Command::ListQueues { vhost } => rows(listings::queues(broker, &vhost)?),
        Command::ListExchanges { vhost } => rows(listings::exchanges(broker, &vhost)?),
        Command::ListBindings { vhost } => rows(listings::bindings(broker, &vhost)?),
        Command::ListConsumers { vhost } => rows(listings::consumers(broker, &vhost)?),
        Command::ListConnections {} => rows(listings::connections(broker)),
        Command::ListChannels {} => rows(listings::channels(broker)?),
        Command::BrowseQueue { vhost, name, skip, count, filter, body_bytes } => {
            let request = browse_request(skip, count, filter.as_deref(), body_bytes)?;
            rows(browse::browse(broker, &vhost, &name, &request)?)
        }
        Command::ListScheduled { vhost, count, due_at, filter } => {
            let most = listing::COUNT_MAX;
            if !(1..=most).contains(&count) {
                return Err(Failure::usage(format!("count: expected 1 to {most}, got {count}")));
            }
            let which = which(None, due_at, filter.as_deref())?;
            rows(listing::list(broker, &vhost, &which, count)?)
        }
        Command::ListPolicies { vhost } => rows(listings::policies(broker, &vhost, PolicyKind::User)?),
        Command::ListParameters { vhost } => rows(listings::parameters(broker, &vhost)?),
        Command::ListGlobalParameters {} => rows(listings::global_parameters(broker)),
        Command::ListOperatorPolicies { vhost } => {
            rows(listings::policies(broker, &vhost, PolicyKind::Operator)?)
        }
    };
    Ok(value)
}

/// Messages shown unless another number is asked for.
fn few() -> usize {
    10
}

/// Scheduled messages shown unless another number is asked for.
fn few_scheduled() -> usize {
    100
}

/// Which scheduled messages are meant.
pub(super) fn which(
    id: Option<&str>,
    due_ms: Option<u64>,
    filter: Option<&str>,
) -> Result<listing::Which, Failure> {
    let id = id.map(listing::parse_id).transpose().map_err(Failure::usage)?;
    let filter = filter.map(MessageFilter::parse).transpose().map_err(Failure::usage)?;
    Ok(listing::Which { id, due_ms, filters: filter.into_iter().collect() })
}

fn body_bytes() -> usize {
    browse::BODY_BYTES
}

fn browse_request(
    skip: u64,
    count: usize,
    filter: Option<&str>,
    body_bytes: usize,
) -> Result<browse::Request, Failure> {
    if !(1..=browse::COUNT_MAX).contains(&count) {
        return Err(Failure::usage(format!("count: expected 1 to {}, got {count}", browse::COUNT_MAX)));
    }
    let filters = filter.map(MessageFilter::parse).transpose().map_err(Failure::usage)?;
    Ok(browse::Request { skip, count, filters: filters.into_iter().collect(), body_bytes })
}
