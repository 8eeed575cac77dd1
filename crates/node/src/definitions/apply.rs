//! Makes it so: checked definitions become what the broker has, section by section.

use std::collections::{BTreeSet, HashSet};

use posthouse_auth::password::PasswordHash;
use posthouse_auth::users::{AuthChange, PermissionRecord, TopicPermissionRecord, User};
use posthouse_model::limits::VhostLimits;
use posthouse_model::name::Name;
use posthouse_model::shares::UserNumber;
use posthouse_queue::topology::DestinationName;
use serde_json::Value;

use super::read::binding_label;
use super::{
    Definitions, DefinitionsError, LeftOut, ParameterDefinition, Password, PolicyDefinition, Result,
    UserDefinition, VhostDefinition,
};
use crate::admin::{self, AdminError};
use crate::broker::Broker;
use crate::listings::table_value;
use crate::metadata::VhostMetadata;
use crate::policies;
use crate::records::VHOST_LIMITS;
use crate::vhost::VirtualHost;

/// Carries out what was checked. What is left out comes back.
pub(super) fn apply(broker: &Broker, definitions: Definitions) -> Result<LeftOut> {
    let Definitions { users, vhosts, parameters, global_parameters, exchanges, queues, .. } = definitions;
    for vhost in vhosts {
        let label = format!("vhost '{}'", vhost.name);
        put_vhost(broker, vhost).map_err(|problem| stopped(&label, problem))?;
    }
    for user in users {
        let label = format!("user '{}'", user.name);
        put_user(broker, user).map_err(|problem| stopped(&label, problem))?;
    }
    for permission in definitions.permissions {
        let label = format!("permissions of user '{}' in vhost '{}'", permission.user, permission.vhost);
        let [configure, write, read] = permission.patterns;
        let (user, vhost) = (Name::truncated(&permission.user), permission.vhost);
        let record = PermissionRecord { user, vhost, configure, write, read };
        put_auth(broker, AuthChange::PutPermissions(record)).map_err(|problem| stopped(&label, problem))?;
    }
    for permission in definitions.topic_permissions {
        let label =
            format!("topic permissions of user '{}' in vhost '{}'", permission.user, permission.vhost);
        let [write, read] = permission.patterns;
        let [user, exchange] = [permission.user, permission.exchange].map(|name| Name::truncated(&name));
        let record = TopicPermissionRecord { user, vhost: permission.vhost, exchange, write, read };
        put_auth(broker, AuthChange::PutTopicPermissions(record))
            .map_err(|problem| stopped(&label, problem))?;
    }
    for parameter in parameters {
        let label = format!("{} '{}' in vhost '{}'", parameter.component, parameter.name, parameter.vhost);
        put_parameter(broker, parameter).map_err(|problem| stopped(&label, problem))?;
    }
    for (name, value) in global_parameters {
        broker.put_global_parameter(&name, value);
    }
    put_policies(broker, definitions.policies)?;
    for (vhost, exchange) in exchanges {
        pace(broker)?;
        let label = format!("exchange '{}' in vhost '{vhost}'", exchange.name);
        let vhost = find_vhost(broker, &vhost)?;
        broker.declare_exchange(&vhost, exchange).map_err(|problem| stopped(&label, problem.text))?;
    }
    for (vhost, queue) in queues {
        pace(broker)?;
        let label = format!("queue '{}' in vhost '{vhost}'", queue.name);
        let vhost = find_vhost(broker, &vhost)?;
        broker.import_queue(&vhost, &queue).map_err(|problem| stopped(&label, problem.text))?;
    }
    bind(broker, definitions.bindings)?;
    Ok(definitions.left_out)
}

fn stopped(label: &str, problem: impl std::fmt::Display) -> DefinitionsError {
    DefinitionsError::Stopped(format!("{label}: {problem}"))
}

/// The metadata store takes changes without waiting; so that they do not pile up, this waits when there are many.
fn pace(broker: &Broker) -> Result<()> {
    let meta = broker.store().meta();
    if meta.congested() { Ok(meta.flush()?) } else { Ok(()) }
}

/// It was checked that it exists; by now somebody may have deleted it.
fn find_vhost(broker: &Broker, name: &Name) -> Result<std::sync::Arc<VirtualHost>> {
    broker.vhost(name).map_err(|_| stopped(&format!("vhost '{name}'"), "it does not exist any more"))
}

fn put_vhost(broker: &Broker, vhost: VhostDefinition) -> std::result::Result<(), AdminError> {
    let VhostDefinition { name, metadata, limits } = vhost;
    let said = Value::Object(metadata);
    let mut all = VhostMetadata::default();
    all.update(&said)?;
    if !broker.add_vhost(&name, all) {
        admin::put_metadata(broker, &*admin::find_vhost(broker, &name)?, &said)?;
    }
    if !limits.is_empty() {
        admin::put_vhost_limits(broker, &*admin::find_vhost(broker, &name)?, limits);
    }
    Ok(())
}

fn put_user(broker: &Broker, user: UserDefinition) -> std::result::Result<(), AdminError> {
    let UserDefinition { name, password, tags, limits } = user;
    let password = match password {
        Password::None => None,
        Password::Hash(hash) => Some(hash),
        Password::Plain(text) => Some(hashed(broker, text.as_bytes())?),
    };
    let changes =
        broker.authorities().put_user(User { name, password, tags, limits, number: UserNumber::NOBODY })?;
    broker.keep_auth(&changes);
    Ok(())
}

fn hashed(broker: &Broker, password: &[u8]) -> std::result::Result<PasswordHash, AdminError> {
    let hashed = PasswordHash::new(password, broker.authorities().hash_cost());
    hashed.map_err(|problem| posthouse_auth::authorities::AuthError::from(problem).into())
}

fn put_auth(broker: &Broker, change: AuthChange) -> std::result::Result<(), AdminError> {
    broker.authorities().restore(change.clone())?;
    broker.keep_auth(&[change]);
    Ok(())
}

fn put_parameter(broker: &Broker, parameter: ParameterDefinition) -> std::result::Result<(), AdminError> {
    let ParameterDefinition { vhost, component, name, value } = parameter;
    let vhost = admin::find_vhost(broker, &vhost)?;
    if component == VHOST_LIMITS {
        admin::put_vhost_limits(broker, &vhost, VhostLimits::from_value(&value)?);
    } else {
        broker.put_parameter(&vhost, component, name, value);
    }
    Ok(())
}

/// Sets all policies of a virtual host before they are matched, once, with what there is.
fn put_policies(broker: &Broker, all: Vec<PolicyDefinition>) -> Result<()> {
    let mut touched = BTreeSet::new();
    for PolicyDefinition { vhost: vhost_name, kind, policy } in all {
        let label = format!("{} '{}' in vhost '{vhost_name}'", kind.component(), policy.name);
        let vhost = find_vhost(broker, &vhost_name)?;
        admin::put_policy(broker, &vhost, kind, policy).map_err(|problem| stopped(&label, problem))?;
        touched.insert(vhost_name);
    }
    for vhost in &touched {
        policies::apply(broker, &*find_vhost(broker, vhost)?);
    }
    Ok(())
}

/// A binding as JSON tells it apart from others.
type BindingKey = (Name, Name, DestinationName, Name, String);

/// Binds what is not bound yet. JSON does not tell 32-bit integers from 64-bit ones, so what is there already is told by
/// its JSON form: importing an export again binds nothing twice.
fn bind(broker: &Broker, bindings: Vec<(Name, posthouse_queue::topology::BindingRecord)>) -> Result<()> {
    let names: BTreeSet<&Name> = bindings.iter().map(|(vhost, _)| vhost).collect();
    let mut known: HashSet<BindingKey> = HashSet::new();
    for name in names {
        let there = find_vhost(broker, name)?.with_topology(|topology| topology.bindings());
        known.extend(there.into_iter().map(|binding| {
            let arguments = table_value(&binding.arguments).to_string();
            (name.clone(), binding.source, binding.destination, binding.routing_key, arguments)
        }));
    }
    for (vhost_name, binding) in bindings {
        pace(broker)?;
        let key = (
            vhost_name.clone(),
            binding.source.clone(),
            binding.destination.clone(),
            binding.routing_key.clone(),
            table_value(&binding.arguments).to_string(),
        );
        if !known.insert(key) {
            continue;
        }
        let destination = binding.destination.name();
        let label = binding_label(&vhost_name, &binding.source, destination, &binding.routing_key);
        let vhost = find_vhost(broker, &vhost_name)?;
        // What a recent history exchange has kept is for bindings that a client makes.
        broker.bind(&vhost, binding).map(drop).map_err(|problem| stopped(&label, problem.text))?;
    }
    Ok(())
}
