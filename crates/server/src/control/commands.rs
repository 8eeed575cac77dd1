//! The commands of the control socket: from a line to a call on the broker, and from its outcome to a line.

use std::sync::PoisonError;

use posthouse_model::limits::{UserLimits, VhostLimits};
use posthouse_model::policy::{ApplyTo, Policy, PolicyKind};
use posthouse_node::admin::{self, AdminError};
use posthouse_node::broker::Broker;
use posthouse_node::browse;
use posthouse_node::declare::DeleteIf;
use posthouse_node::listings;
use posthouse_node::message_filter::MessageFilter;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Shared;

/// The version of requests and answers.
pub const VERSION: u64 = 1;

/// What can be asked. A request names it in `command` and its fields in `args`; `vhost` is `/` when left out.
#[derive(Deserialize)]
#[serde(tag = "command", content = "args", rename_all = "snake_case", deny_unknown_fields)]
#[expect(missing_docs, reason = "the names are rabbitmqctl's, and the calls they lead to are documented")]
pub enum Command {
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
    AuthenticateUser {
        name: String,
        password: String,
    },
    SetUserTags {
        name: String,
        tags: Vec<String>,
    },
    ListUsers {},
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
    ListPermissions {
        #[serde(default = "root")]
        vhost: String,
    },
    ListUserPermissions {
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
    ListTopicPermissions {
        #[serde(default = "root")]
        vhost: String,
    },
    ListUserTopicPermissions {
        user: String,
    },
    SetUserLimits {
        user: String,
        limits: String,
    },
    ClearUserLimits {
        user: String,
        limit: String,
    },
    ListUserLimits {},
    SetVhostLimits {
        #[serde(default = "root")]
        vhost: String,
        limits: String,
    },
    ClearVhostLimits {
        #[serde(default = "root")]
        vhost: String,
    },
    ListVhostLimits {},
    SetVhostTags {
        name: String,
        tags: Vec<String>,
    },
    UpdateVhostMetadata(VhostNotes),
    EnableVhostDeletionProtection {
        name: String,
    },
    DisableVhostDeletionProtection {
        name: String,
    },
    AddVhost(VhostNotes),
    DeleteVhost {
        name: String,
    },
    ListVhosts {},
    TraceOn {
        #[serde(default = "root")]
        vhost: String,
    },
    TraceOff {
        #[serde(default = "root")]
        vhost: String,
    },
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
    CloseConnection {
        name: String,
        reason: String,
    },
    CloseAllConnections {
        #[serde(default)]
        vhost: Option<String>,
        reason: String,
    },
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
    SetPolicy(SetPolicy),
    ClearPolicy {
        #[serde(default = "root")]
        vhost: String,
        name: String,
    },
    ListPolicies {
        #[serde(default = "root")]
        vhost: String,
    },
    SetOperatorPolicy(SetPolicy),
    ClearOperatorPolicy {
        #[serde(default = "root")]
        vhost: String,
        name: String,
    },
    ListOperatorPolicies {
        #[serde(default = "root")]
        vhost: String,
    },
    Status {},
    Ping {},
    Stop {},
}

/// A virtual host and what to note about it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VhostNotes {
    name: String,
    description: Option<String>,
    /// With commas between them.
    tags: Option<String>,
    default_queue_type: Option<String>,
}

impl VhostNotes {
    /// The JSON form of the metadata that was given.
    fn metadata(&self) -> Value {
        let tags = self
            .tags
            .as_deref()
            .map(|tags| Value::from_iter(tags.split(',').map(str::trim).filter(|tag| !tag.is_empty())));
        let fields = [
            ("description", self.description.clone().map(Value::from)),
            ("tags", tags),
            ("default_queue_type", self.default_queue_type.clone().map(Value::from)),
        ];
        let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(given.collect())
    }
}

/// A policy to be set.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetPolicy {
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

fn root() -> String {
    "/".to_owned()
}

/// Messages shown unless another number is asked for.
fn few() -> usize {
    10
}

fn body_bytes() -> usize {
    browse::BODY_BYTES
}

fn all() -> String {
    "all".to_owned()
}

/// What came of a command.
pub(crate) enum Outcome {
    /// It was done; this is the answer.
    Done(Value),
    /// The broker is to stop.
    Stop,
}

/// Why a command was not done.
#[derive(Debug)]
pub(crate) struct Failure {
    /// `usage` when the request is wrong, `state` when the broker's state forbids it.
    kind: &'static str,
    /// One line; shows no secret.
    text: String,
}

impl Failure {
    /// The request is wrong.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { kind: "usage", text: text.into() }
    }

    /// The broker's state forbids it.
    pub(crate) fn state(text: impl Into<String>) -> Self {
        Self { kind: "state", text: text.into() }
    }
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        Self::state(error.to_string())
    }
}

/// The answer's line, without its line feed.
pub(crate) fn encode(outcome: &Result<Outcome, Failure>) -> String {
    let answer = match outcome {
        Ok(Outcome::Done(value)) => json!({"v": VERSION, "ok": value}),
        Ok(Outcome::Stop) => json!({"v": VERSION, "ok": {"pid": std::process::id()}}),
        Err(Failure { kind, text }) => json!({"v": VERSION, "error": text, "kind": kind}),
    };
    answer.to_string()
}

/// Reads a request.
pub(crate) fn parse(line: &[u8]) -> Result<Command, Failure> {
    // The parser's text may quote what was sent, a password included; its place is enough.
    let bad = |error: serde_json::Error| {
        Failure::usage(format!(
            "expected a JSON object on one line, got an error at column {}",
            error.column()
        ))
    };
    let mut request: Value = serde_json::from_slice(line.trim_ascii_end()).map_err(bad)?;
    if request.get("v") != Some(&json!(VERSION)) {
        return Err(Failure::usage(format!("expected a request with \"v\":{VERSION}")));
    }
    let name = request.get("command").and_then(Value::as_str).unwrap_or_default().to_owned();
    let args = request.get_mut("args").map_or(json!({}), Value::take);
    let given: Vec<String> = args.as_object().map(|args| args.keys().cloned().collect()).unwrap_or_default();
    serde_json::from_value(json!({"command": name, "args": args})).map_err(|error| {
        if error.to_string().starts_with("unknown variant") {
            Failure::usage(format!("command {name:?} is not supported yet"))
        } else {
            Failure::usage(format!("{name}: missing, unknown or mistyped arguments, got {given:?}"))
        }
    })
}

/// Carries a command out. May block for as long as the disk takes.
pub(crate) fn run(shared: &Shared, command: Command) -> Result<Outcome, Failure> {
    let broker = &*shared.broker;
    let value = match command {
        Command::Stop {} => return Ok(Outcome::Stop),
        Command::Ping {} => Value::Null,
        Command::Status {} => status(shared),
        Command::ListUsers {} => rows(listings::users(broker)),
        Command::ListPermissions { vhost } => rows(listings::permissions(broker, &vhost)?),
        Command::ListUserPermissions { user } => rows(listings::user_permissions(broker, &user)?),
        Command::ListVhosts {} => rows(listings::vhosts(broker)),
        Command::ListQueues { vhost } => rows(listings::queues(broker, &vhost)?),
        Command::ListExchanges { vhost } => rows(listings::exchanges(broker, &vhost)?),
        Command::ListBindings { vhost } => rows(listings::bindings(broker, &vhost)?),
        Command::ListConsumers { vhost } => rows(listings::consumers(broker, &vhost)?),
        Command::ListConnections {} => rows(listings::connections(broker)),
        Command::ListChannels {} => rows(listings::channels(broker)?),
        Command::ListTopicPermissions { vhost } => rows(listings::topic_permissions(broker, &vhost)?),
        Command::ListUserTopicPermissions { user } => rows(listings::user_topic_permissions(broker, &user)?),
        Command::ListVhostLimits {} => rows(listings::vhost_limits(broker)),
        Command::ListUserLimits {} => rows(listings::user_limits(broker)),
        Command::BrowseQueue { vhost, name, skip, count, filter, body_bytes } => {
            let request = browse_request(skip, count, filter.as_deref(), body_bytes)?;
            rows(browse::browse(broker, &vhost, &name, &request)?)
        }
        Command::ListPolicies { vhost } => rows(listings::policies(broker, &vhost, PolicyKind::User)?),
        Command::ListOperatorPolicies { vhost } => {
            rows(listings::policies(broker, &vhost, PolicyKind::Operator)?)
        }
        Command::AuthenticateUser { name, password } => {
            admin::authenticate_user(broker, &name, password.as_bytes())?;
            Value::Null
        }
        changing => {
            let _turn = shared.changing.lock().unwrap_or_else(PoisonError::into_inner);
            change(shared, changing)?
        }
    };
    Ok(Outcome::Done(value))
}

fn change(shared: &Shared, command: Command) -> Result<Value, AdminError> {
    let broker = &*shared.broker;
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
        Command::DeleteVhost { name } => admin::delete_vhost(broker, &name)?,
        Command::TraceOn { vhost } => admin::set_tracing(broker, &vhost, true)?,
        Command::TraceOff { vhost } => admin::set_tracing(broker, &vhost, false)?,
        Command::CloseConnection { name, reason } => admin::close_connection(broker, &name, &reason)?,
        Command::CloseAllConnections { vhost, reason } => {
            let closed = admin::close_all_connections(broker, vhost.as_deref(), &reason)?;
            return Ok(json!({"connections": closed}));
        }
        Command::DeleteQueue { vhost, name, if_empty, if_unused } => {
            let when = DeleteIf { unused: if_unused, empty: if_empty };
            return Ok(json!({"messages": admin::delete_queue(broker, &vhost, &name, when)?}));
        }
        Command::PurgeQueue { vhost, name } => {
            return Ok(json!({"messages": admin::purge_queue(broker, &vhost, &name)?}));
        }
        other => return change_settings(broker, other),
    }
    Ok(Value::Null)
}

/// Changes virtual hosts, limits, topic permissions and policies.
fn change_settings(broker: &Broker, command: Command) -> Result<Value, AdminError> {
    match command {
        Command::AddVhost(notes) => admin::add_vhost(broker, &notes.name, &notes.metadata())?,
        Command::UpdateVhostMetadata(notes) => {
            admin::update_vhost_metadata(broker, &notes.name, &notes.metadata())?;
        }
        Command::SetVhostTags { name, tags } => {
            admin::update_vhost_metadata(broker, &name, &json!({"tags": tags}))?;
        }
        Command::EnableVhostDeletionProtection { name } => {
            admin::update_vhost_metadata(broker, &name, &json!({"protected_from_deletion": true}))?;
        }
        Command::DisableVhostDeletionProtection { name } => {
            admin::update_vhost_metadata(broker, &name, &json!({"protected_from_deletion": false}))?;
        }
        Command::SetVhostLimits { vhost, limits } => {
            let limits = VhostLimits::from_value(&json_text("limits", &limits)?)?;
            admin::set_vhost_limits(broker, &vhost, limits)?;
        }
        Command::ClearVhostLimits { vhost } => admin::clear_vhost_limits(broker, &vhost)?,
        Command::SetUserLimits { user, limits } => {
            let limits = UserLimits::from_value(&json_text("limits", &limits)?)?;
            admin::set_user_limits(broker, &user, &limits)?;
        }
        Command::ClearUserLimits { user, limit } => admin::clear_user_limits(broker, &user, &limit)?,
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
        Command::SetPolicy(args) => set_policy(broker, PolicyKind::User, &args)?,
        Command::SetOperatorPolicy(args) => set_policy(broker, PolicyKind::Operator, &args)?,
        Command::ClearPolicy { vhost, name } => {
            admin::clear_policy(broker, &vhost, PolicyKind::User, &name)?;
        }
        Command::ClearOperatorPolicy { vhost, name } => {
            admin::clear_policy(broker, &vhost, PolicyKind::Operator, &name)?;
        }
        // Everything that changes nothing was answered before.
        _ => {}
    }
    Ok(Value::Null)
}

fn set_policy(broker: &Broker, kind: PolicyKind, args: &SetPolicy) -> Result<(), AdminError> {
    let SetPolicy { vhost, name, pattern, definition, priority, apply_to } = args;
    let definition = json_text("definition", definition)?;
    let policy = Policy::new(name, pattern, definition, *priority, ApplyTo::parse(apply_to)?, kind)?;
    admin::set_policy(broker, vhost, kind, policy)
}

/// Reads an argument that is JSON text.
fn json_text(argument: &str, text: &str) -> Result<Value, AdminError> {
    let bad = |error| AdminError::Invalid(format!("expected {argument} to be JSON, got {text:?}: {error}"));
    serde_json::from_str(text).map_err(bad)
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

fn status(shared: &Shared) -> Value {
    let facts = &shared.facts;
    let mut status = json!({
        "version": facts.version,
        "pid": std::process::id(),
        "uptime_seconds": shared.started.elapsed().as_secs(),
        "listeners": facts.listeners,
        "data_dir": facts.data_dir.as_ref().map(|path| path.display().to_string()),
    });
    if let (Some(status), Value::Object(totals)) =
        (status.as_object_mut(), rows(listings::totals(&shared.broker)))
    {
        status.extend(totals);
    }
    status
}

/// Rows have texts for keys and numbers, texts and lists for values, which always have a JSON form.
fn rows(rows: impl Serialize) -> Value {
    serde_json::to_value(rows).unwrap_or_default()
}
