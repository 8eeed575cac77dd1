//! What a document asks for against what there is: everything that would be refused, before anything is changed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use posthouse_auth::authorities::check_topic_patterns;
use posthouse_auth::permissions::Permissions;
use posthouse_model::errors::Resource;
use posthouse_model::limits::{self, VhostLimits};
use posthouse_model::name::Name;
use posthouse_queue::topology::{DestinationName, Topology};
use serde_json::Value;

use super::read::binding_label;
use super::{Definitions, DefinitionsError, Result};
use crate::broker::Broker;
use crate::declare::{self, QueueDeclaration};
use crate::records::VHOST_LIMITS;
use crate::vhost::VirtualHost;

/// Checks a document. Bindings whose ends do not exist are taken out of it: RabbitMQ exports some, and ignores them
/// when it imports.
///
/// # Errors
/// Names the first object that cannot be, and why.
pub(super) fn check(broker: &Broker, mut definitions: Definitions) -> Result<Definitions> {
    let vhosts = Vhosts::new(broker, &definitions);
    check_users(broker, &vhosts, &definitions)?;
    for parameter in &definitions.parameters {
        let label = || format!("{} '{}' in vhost '{}'", parameter.component, parameter.name, parameter.vhost);
        vhosts.check(&parameter.vhost, label)?;
    }
    for policy in &definitions.policies {
        let label =
            || format!("{} '{}' in vhost '{}'", policy.kind.component(), policy.policy.name, policy.vhost);
        vhosts.check(&policy.vhost, label)?;
    }
    check_exchanges(&vhosts, &definitions)?;
    check_queues(&vhosts, &definitions)?;
    leave_out_loose_bindings(&vhosts, &mut definitions)?;
    Ok(definitions)
}

fn invalid(label: &str, problem: impl std::fmt::Display) -> DefinitionsError {
    DefinitionsError::Invalid(format!("{label}: {problem}"))
}

/// The virtual hosts that there will be, with what they have now; none is new.
struct Vhosts(HashMap<Name, Option<Arc<VirtualHost>>>);

impl Vhosts {
    fn new(broker: &Broker, definitions: &Definitions) -> Self {
        let mut all: HashMap<_, _> =
            definitions.vhosts.iter().map(|vhost| (vhost.name.clone(), None)).collect();
        all.extend(broker.vhosts().into_iter().map(|vhost| (vhost.name().clone(), Some(vhost))));
        Self(all)
    }

    fn check(&self, name: &Name, label: impl Fn() -> String) -> Result<()> {
        self.find(name, label).map(drop)
    }

    /// The virtual host, or nothing when it is a new one.
    fn find(&self, name: &Name, label: impl Fn() -> String) -> Result<Option<&Arc<VirtualHost>>> {
        let found = self.0.get(name).map(Option::as_ref);
        found.ok_or_else(|| invalid(&label(), format!("vhost '{name}' does not exist")))
    }
}

fn check_users(broker: &Broker, vhosts: &Vhosts, definitions: &Definitions) -> Result<()> {
    let new: HashSet<&str> = definitions.users.iter().map(|user| &*user.name).collect();
    let check_user = |user: &str, label: &str| {
        if new.contains(user) || broker.authorities().identity(user).is_some() {
            return Ok(());
        }
        Err(invalid(label, format!("user '{user}' does not exist")))
    };
    for permission in &definitions.permissions {
        let label = format!("permissions of user '{}' in vhost '{}'", permission.user, permission.vhost);
        check_user(&permission.user, &label)?;
        vhosts.check(&permission.vhost, || label.clone())?;
        let [configure, write, read] = &permission.patterns;
        Permissions::new(configure, write, read).map_err(|problem| invalid(&label, problem))?;
    }
    for permission in &definitions.topic_permissions {
        let (user, vhost) = (&permission.user, &permission.vhost);
        let exchange = &permission.exchange;
        let label = format!("topic permissions of user '{user}' on exchange '{exchange}' in vhost '{vhost}'");
        check_user(user, &label)?;
        vhosts.check(vhost, || label.clone())?;
        if Name::new(exchange).map_or(true, |name| name.is_empty()) {
            return Err(invalid(&label, "expected an exchange name of 1 to 255 bytes"));
        }
        let [write, read] = &permission.patterns;
        check_topic_patterns(user, vhost, write, read).map_err(|problem| invalid(&label, problem))?;
    }
    Ok(())
}

fn check_exchanges(vhosts: &Vhosts, definitions: &Definitions) -> Result<()> {
    for (vhost_name, exchange) in &definitions.exchanges {
        let label = || format!("exchange '{}' in vhost '{vhost_name}'", exchange.name);
        let checked = match vhosts.find(vhost_name, label)? {
            Some(vhost) => vhost.with_topology(|topology| topology.check_declaration(exchange)),
            None => Topology::new(vhost_name.clone()).check_declaration(exchange),
        };
        checked.map_err(|problem| invalid(&label(), problem.text))?;
    }
    Ok(())
}

fn check_queues(vhosts: &Vhosts, definitions: &Definitions) -> Result<()> {
    let mut new: HashMap<&Name, HashSet<&str>> = HashMap::new();
    for (vhost_name, queue) in &definitions.queues {
        let QueueDeclaration { name, durable, auto_delete, arguments, .. } = queue;
        let label = || format!("queue '{name}' in vhost '{vhost_name}'");
        let vhost = vhosts.find(vhost_name, label)?;
        let checked = match vhost.and_then(|vhost| vhost.find_queue(name)) {
            Some(known) => declare::check_equivalent(&known, *durable, false, *auto_delete, 0, arguments),
            None => {
                new.entry(vhost_name).or_default().insert(name);
                declare::new_machine(queue, Resource::queue(vhost_name, name)).map(drop)
            }
        };
        checked.map_err(|problem| invalid(&label(), problem.text))?;
    }
    for (vhost_name, new) in new {
        let vhost = vhosts.0.get(vhost_name).and_then(Option::as_ref);
        let queues = new.len() + vhost.map_or(0, |vhost| vhost.queues().len());
        let max = limits::bound(limits_to_be(vhost, vhost_name, definitions).max_queues);
        if let Some(max) = max.filter(|max| queues > *max as usize) {
            let problem = format!("expected at most {max} queues (max-queues), they would become {queues}");
            return Err(invalid(&format!("vhost '{vhost_name}'"), problem));
        }
    }
    Ok(())
}

/// The limits that a virtual host will have.
fn limits_to_be(vhost: Option<&Arc<VirtualHost>>, name: &Name, definitions: &Definitions) -> VhostLimits {
    let parameters = definitions.parameters.iter().rev();
    let mut as_parameter = parameters.filter(|p| p.vhost == *name && p.component == VHOST_LIMITS);
    let as_parameter = as_parameter.next().map(|parameter: &_| parameter.value.clone());
    let own = definitions.vhosts.iter().find(|vhost| vhost.name == *name).map(|vhost| vhost.limits.clone());
    match (as_parameter, own.filter(|own| !own.is_empty())) {
        (Some(value), _) => VhostLimits::from_value(&Value::clone(&value)).unwrap_or_default(),
        (None, Some(own)) => own,
        (None, None) => vhost.map(|vhost| vhost.limits()).unwrap_or_default(),
    }
}

fn leave_out_loose_bindings(vhosts: &Vhosts, definitions: &mut Definitions) -> Result<()> {
    let new_exchanges: HashSet<(&Name, &Name)> =
        definitions.exchanges.iter().map(|(vhost, exchange)| (vhost, &exchange.name)).collect();
    let new_queues: HashSet<(&Name, &str)> =
        definitions.queues.iter().map(|(vhost, queue)| (vhost, &*queue.name)).collect();
    let predeclared = Topology::new(Name::truncated(""));
    let mut kept = Vec::with_capacity(definitions.bindings.len());
    for (vhost_name, binding) in std::mem::take(&mut definitions.bindings) {
        let destination = binding.destination.name();
        let label = || binding_label(&vhost_name, &binding.source, destination, &binding.routing_key);
        let vhost = vhosts.find(&vhost_name, label)?;
        let has_exchange = |name: &Name| match vhost {
            Some(vhost) => vhost.with_topology(|topology| topology.exchange(name).is_some()),
            None => predeclared.exchange(name).is_some(),
        } || new_exchanges.contains(&(&vhost_name, name));
        let has_queue = |name: &Name| {
            new_queues.contains(&(&vhost_name, &**name))
                || vhost.is_some_and(|vhost| vhost.find_queue(name).is_some())
        };
        let missing = match &binding.destination {
            _ if !has_exchange(&binding.source) => Some(("exchange", &binding.source)),
            DestinationName::Exchange(name) if !has_exchange(name) => Some(("exchange", name)),
            DestinationName::Queue(name) if !has_queue(name) => Some(("queue", name)),
            // Every queue is bound to the default exchange by itself.
            DestinationName::Queue(name) if binding.source.is_empty() && binding.routing_key == *name => {
                continue;
            }
            _ => None,
        };
        match missing {
            Some((kind, name)) => {
                definitions.left_out.note(format!("{}: {kind} '{name}' does not exist", label()));
            }
            None => kept.push((vhost_name, binding)),
        }
    }
    definitions.bindings = kept;
    Ok(())
}
