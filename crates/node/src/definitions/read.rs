//! From a document to typed definitions. Knows nothing of what the broker has.

use posthouse_auth::password::PasswordHash;
use posthouse_model::errors::Resource;
use posthouse_model::exchange::ExchangeKind;
use posthouse_model::field::FieldValue;
use posthouse_model::limits::{UserLimits, VhostLimits};
use posthouse_model::name::Name;
use posthouse_model::policy::{Policy, PolicyKind};
use posthouse_queue::topology::{BindingRecord, DestinationName, ExchangeRecord, sorted_arguments};
use serde_json::{Map, Value};

use super::entry::{Entry, kind, object};
use super::{
    Definitions, DefinitionsError, LeftOut, MAX_BYTES, ParameterDefinition, Password, PermissionDefinition,
    PolicyDefinition, Result, TopicPermissionDefinition, UserDefinition, VhostDefinition, arguments,
};
use crate::declare::QueueDeclaration;
use crate::metadata::VhostMetadata;
use crate::records::{LIMITS, VHOST_LIMITS};

/// What a document says of where it is from.
const ORIGIN: [&str; 7] = [
    "rabbit_version",
    "rabbitmq_version",
    "product_name",
    "product_version",
    "rabbitmq_definition_format",
    "original_cluster_name",
    "explanation",
];

/// Fields that RabbitMQ also takes from a virtual host itself where its metadata do not have them.
const METADATA_OUTSIDE: [&str; 3] = ["description", "tags", "default_queue_type"];

/// Reads a document.
pub(super) fn read(document: &[u8]) -> Result<Definitions> {
    if document.len() > MAX_BYTES {
        return Err(DefinitionsError::TooLong(document.len()));
    }
    // Neither the text nor the parser's words are shown: there are hashes in it.
    let bad =
        |error: serde_json::Error| DefinitionsError::NotJson { line: error.line(), column: error.column() };
    let root: Map<String, Value> = serde_json::from_slice(document).map_err(bad)?;
    let mut reader = Reader { root, left_out: LeftOut::default() };
    let hashed_with_md5 = reader.is_before_3_6();
    let mut all = Definitions {
        users: reader.section("users", |entry| user(entry, hashed_with_md5))?,
        vhosts: reader.section("vhosts", vhost)?,
        permissions: reader.section("permissions", permission)?,
        topic_permissions: reader.section("topic_permissions", topic_permission)?,
        global_parameters: reader.section("global_parameters", global_parameter)?,
        policies: reader.section("policies", policy)?,
        exchanges: reader.section("exchanges", exchange)?,
        queues: reader.section("queues", queue)?,
        bindings: reader.section("bindings", binding)?,
        ..Definitions::default()
    };
    for parameter in reader.section("parameters", parameter)? {
        match parameter {
            Parameter::Policy(policy) => all.policies.push(policy),
            Parameter::Other(other) => all.parameters.push(other),
        }
    }
    reader.root.retain(|key, _| !ORIGIN.contains(&key.as_str()));
    for key in reader.root.keys() {
        reader.left_out.note(format!("the section '{key}' is not known"));
    }
    all.left_out = reader.left_out;
    Ok(all)
}

struct Reader {
    root: Map<String, Value>,
    left_out: LeftOut,
}

impl Reader {
    /// Reads every object of a section, which may be missing.
    fn section<T>(&mut self, key: &'static str, read: impl Fn(&mut Entry) -> Result<T>) -> Result<Vec<T>> {
        let entries = match self.root.remove(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(entries)) => entries,
            Some(other) => {
                return Err(DefinitionsError::Invalid(format!(
                    "{key}: expected a list, got {}",
                    kind(&other)
                )));
            }
        };
        let mut all = Vec::with_capacity(entries.len());
        for (place, value) in entries.into_iter().enumerate() {
            let mut entry = Entry::new(key, place, value)?;
            all.push(read(&mut entry)?);
            entry.finish(&mut self.left_out);
        }
        Ok(all)
    }

    /// Whether the document is of a RabbitMQ that did not say how it hashes passwords.
    fn is_before_3_6(&self) -> bool {
        let version = self.root.get("rabbitmq_version").or_else(|| self.root.get("rabbit_version"));
        let Some(version) = version.and_then(Value::as_str) else { return false };
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(u32::MAX));
        let (major, minor) = (numbers.next().unwrap_or(u32::MAX), numbers.next().unwrap_or(u32::MAX));
        (major, minor) < (3, 6)
    }
}

fn user(entry: &mut Entry, hashed_with_md5: bool) -> Result<UserDefinition> {
    let name = entry.filled_name("name")?;
    entry.label(format!("user '{name}'"));
    let algorithm = entry.optional_text("hashing_algorithm")?;
    let default =
        if hashed_with_md5 { "rabbit_password_hashing_md5" } else { "rabbit_password_hashing_sha256" };
    let password = match (entry.optional_text("password_hash")?, entry.optional_text("password")?) {
        (Some(hash), _) if hash.is_empty() => Password::None,
        (Some(hash), _) => {
            let hash = PasswordHash::from_text(algorithm.as_deref().unwrap_or(default), &hash);
            Password::Hash(hash.map_err(|problem| entry.bad(problem))?)
        }
        (None, Some(password)) if !password.is_empty() => Password::Plain(password),
        (None, _) => Password::None,
    };
    let tags = tags(entry)?;
    let limits = UserLimits::from_value(&Value::Object(entry.object("limits")?)).map_err(|e| entry.bad(e))?;
    Ok(UserDefinition { name, password, tags, limits })
}

/// A list of texts, or one text with commas, as before RabbitMQ 3.8.
fn tags(entry: &mut Entry) -> Result<Vec<String>> {
    let wrong = |entry: &Entry, got: &Value| {
        Err(entry.bad(format!("tags: expected a list of texts, got {}", kind(got))))
    };
    match entry.take("tags") {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => {
            Ok(text.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect())
        }
        Some(Value::Array(values)) => {
            let mut tags = Vec::with_capacity(values.len());
            for value in values {
                match value {
                    Value::String(tag) => tags.push(tag),
                    other => return wrong(entry, &other),
                }
            }
            Ok(tags)
        }
        Some(other) => wrong(entry, &other),
    }
}

fn vhost(entry: &mut Entry) -> Result<VhostDefinition> {
    let name = entry.filled_name("name")?;
    entry.label(format!("vhost '{name}'"));
    let mut metadata = entry.object("metadata")?;
    for key in METADATA_OUTSIDE {
        if let Some(value) = entry.take(key) {
            metadata.entry(key).or_insert(value);
        }
    }
    VhostMetadata::default().update(&Value::Object(metadata.clone())).map_err(|e| entry.bad(e))?;
    let limits =
        VhostLimits::from_value(&Value::Object(entry.object("limits")?)).map_err(|e| entry.bad(e))?;
    Ok(VhostDefinition { name, metadata, limits })
}

fn permission(entry: &mut Entry) -> Result<PermissionDefinition> {
    let (user, vhost) = (entry.text("user")?, entry.filled_name("vhost")?);
    entry.label(format!("permissions of user '{user}' in vhost '{vhost}'"));
    let patterns = [entry.text("configure")?, entry.text("write")?, entry.text("read")?];
    Ok(PermissionDefinition { user, vhost, patterns })
}

fn topic_permission(entry: &mut Entry) -> Result<TopicPermissionDefinition> {
    let (user, vhost) = (entry.text("user")?, entry.filled_name("vhost")?);
    let exchange = entry.text("exchange")?;
    entry.label(format!("topic permissions of user '{user}' on exchange '{exchange}' in vhost '{vhost}'"));
    let patterns = [entry.text("write")?, entry.text("read")?];
    Ok(TopicPermissionDefinition { user, vhost, exchange, patterns })
}

fn global_parameter(entry: &mut Entry) -> Result<(String, Value)> {
    let name = entry.text("name")?;
    entry.label(format!("global parameter '{name}'"));
    let value = entry.take("value").ok_or_else(|| entry.bad("expected a field 'value', got none"))?;
    Ok((name, value))
}

/// What a parameter is.
enum Parameter {
    Policy(PolicyDefinition),
    Other(ParameterDefinition),
}

fn parameter(entry: &mut Entry) -> Result<Parameter> {
    let (component, name) = (entry.text("component")?, entry.text("name")?);
    let vhost = entry.filled_name("vhost")?;
    entry.label(format!("{component} '{name}' in vhost '{vhost}'"));
    let value = entry.take("value").ok_or_else(|| entry.bad("expected a field 'value', got none"))?;
    let fields = |value| {
        object(value).map_err(|other| entry.bad(format!("value: expected an object, got {}", kind(&other))))
    };
    if let Some(policy_kind) = PolicyKind::ALL.into_iter().find(|kind| kind.component() == component) {
        let policy = read_policy(entry, &name, fields(value)?, policy_kind)?;
        return Ok(Parameter::Policy(PolicyDefinition { vhost, kind: policy_kind, policy }));
    }
    let value = if component == VHOST_LIMITS {
        if name != LIMITS {
            return Err(entry.bad(format!("expected the name '{LIMITS}', got '{name}'")));
        }
        let limits = Value::Object(fields(value)?);
        VhostLimits::from_value(&limits).map_err(|e| entry.bad(e))?;
        limits
    } else {
        value
    };
    Ok(Parameter::Other(ParameterDefinition { vhost, component, name, value }))
}

fn policy(entry: &mut Entry) -> Result<PolicyDefinition> {
    let (vhost, name) = (entry.filled_name("vhost")?, entry.text("name")?);
    entry.label(format!("policy '{name}' in vhost '{vhost}'"));
    let keys = ["pattern", "definition", "priority", "apply-to"];
    let fields = keys.into_iter().filter_map(|key| Some((key.to_owned(), entry.take(key)?))).collect();
    let policy = read_policy(entry, &name, fields, PolicyKind::User)?;
    Ok(PolicyDefinition { vhost, kind: PolicyKind::User, policy })
}

fn read_policy(entry: &Entry, name: &str, mut fields: Map<String, Value>, of: PolicyKind) -> Result<Policy> {
    if let Some(definition) = fields.get_mut("definition") {
        // Anything else is for the policy to refuse.
        *definition = object(definition.take()).map_or_else(|other| other, Value::Object);
    }
    let policy = Policy::from_value(name, &Value::Object(fields), of).map_err(|e| entry.bad(e))?;
    crate::policies::compile(&policy.pattern).map_err(|e| entry.bad(e))?;
    Ok(policy)
}

fn exchange(entry: &mut Entry) -> Result<(Name, ExchangeRecord)> {
    let (vhost, name) = (entry.filled_name("vhost")?, entry.filled_name("name")?);
    entry.label(format!("exchange '{name}' in vhost '{vhost}'"));
    let kind = entry.text("type")?;
    let record = ExchangeRecord {
        kind: ExchangeKind::parse(&kind, Resource::exchange(&vhost, &name)).map_err(|e| entry.bad(e.text))?,
        durable: entry.flag("durable", None)?,
        auto_delete: entry.flag("auto_delete", None)?,
        internal: entry.flag("internal", Some(false))?,
        arguments: arguments::to_table(entry.object("arguments")?).map_err(|e| entry.bad(e))?,
        name,
    };
    Ok((vhost, record))
}

fn queue(entry: &mut Entry) -> Result<(Name, QueueDeclaration)> {
    const QUEUE_TYPE: &str = "x-queue-type";
    let (vhost, name) = (entry.filled_name("vhost")?, entry.filled_name("name")?);
    entry.label(format!("queue '{name}' in vhost '{vhost}'"));
    let mut arguments = arguments::to_table(entry.object("arguments")?).map_err(|e| entry.bad(e))?;
    // The type is an argument, too, unless it is the default.
    if let Some(kind) = entry.optional_text("type")?
        && kind != "classic"
        && arguments.get(QUEUE_TYPE).is_none()
    {
        arguments.0.push((QUEUE_TYPE.to_owned(), FieldValue::string(&kind)));
    }
    let (durable, auto_delete) = (entry.flag("durable", None)?, entry.flag("auto_delete", None)?);
    let name = name.to_string();
    Ok((vhost, QueueDeclaration { name, durable, exclusive: false, auto_delete, arguments }))
}

fn binding(entry: &mut Entry) -> Result<(Name, BindingRecord)> {
    let (vhost, source) = (entry.filled_name("vhost")?, entry.name("source")?);
    let (destination, key) = (entry.filled_name("destination")?, entry.name("routing_key")?);
    entry.label(binding_label(&vhost, &source, &destination, &key));
    let kind = entry.text("destination_type")?;
    let record = BindingRecord {
        source,
        destination: match kind.as_str() {
            "queue" => DestinationName::Queue(destination),
            "exchange" => DestinationName::Exchange(destination),
            other => {
                return Err(entry.bad(format!("destination_type: expected queue or exchange, got '{other}'")));
            }
        },
        routing_key: key,
        arguments: sorted_arguments(
            arguments::to_table(entry.object("arguments")?).map_err(|e| entry.bad(e))?,
        ),
    };
    Ok((vhost, record))
}

/// What a binding is called in errors.
pub(super) fn binding_label(vhost: &str, source: &str, destination: &str, key: &str) -> String {
    format!("binding from '{source}' to '{destination}' with key '{key}' in vhost '{vhost}'")
}
