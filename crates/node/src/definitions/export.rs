//! From what the broker has to a document.

use posthouse_model::policy::PolicyKind;
use posthouse_queue::topology::DestinationName;
use serde_json::{Value, json};

use crate::broker::Broker;
use crate::listings::table_value;
use crate::records::{LIMITS, VHOST_LIMITS};
use crate::vhost::{REPLY_QUEUE_PREFIX, VirtualHost};

/// Names that start so belong to the broker: every virtual host has them anyway.
const RESERVED_PREFIX: &str = "amq.";

/// Everything that is defined, as one document. Exclusive queues go with their connection and are left out, and so is
/// what every virtual host starts with. `rabbitmq_version` is the version whose form this is, `version` the broker's.
pub fn export(broker: &Broker, rabbitmq_version: &str, version: &str) -> Value {
    let vhosts = broker.vhosts();
    let of_each = |of_one: fn(&VirtualHost) -> Vec<Value>| -> Vec<Value> {
        vhosts.iter().flat_map(|vhost| of_one(vhost)).collect()
    };
    let global = broker.global_parameters().into_iter();
    let global: Vec<Value> = global.map(|(name, value)| json!({"name": name, "value": value})).collect();
    json!({
        "rabbit_version": rabbitmq_version,
        "rabbitmq_version": rabbitmq_version,
        "product_name": "Posthouse",
        "product_version": version,
        "rabbitmq_definition_format": "cluster",
        "users": users(broker),
        "vhosts": vhosts.iter().map(|vhost| vhost_value(vhost)).collect::<Vec<_>>(),
        "permissions": permissions(broker),
        "topic_permissions": topic_permissions(broker),
        "parameters": of_each(parameters),
        "global_parameters": global,
        "policies": of_each(policies),
        "exchanges": of_each(exchanges),
        "queues": of_each(queues),
        "bindings": of_each(bindings),
    })
}

fn users(broker: &Broker) -> Vec<Value> {
    let users = broker.authorities().users().into_iter();
    users
        .map(|user| {
            let hash = user.password.as_ref();
            json!({
                "name": user.name.to_string(),
                "password_hash": hash.map(|hash| hash.to_text()).unwrap_or_default(),
                "hashing_algorithm": hash.map_or("rabbit_password_hashing_sha256", |hash| hash.exported_algorithm()),
                "tags": user.tags,
                "limits": user.limits.to_value(),
            })
        })
        .collect()
}

fn vhost_value(vhost: &VirtualHost) -> Value {
    json!({
        "name": vhost.name().to_string(),
        "metadata": vhost.metadata().to_value(),
        "limits": vhost.limits().to_value(),
    })
}

fn permissions(broker: &Broker) -> Vec<Value> {
    let records = broker.authorities().permissions().into_iter();
    records
        .map(|record| {
            json!({
                "user": record.user.to_string(),
                "vhost": record.vhost.to_string(),
                "configure": record.configure,
                "write": record.write,
                "read": record.read,
            })
        })
        .collect()
}

fn topic_permissions(broker: &Broker) -> Vec<Value> {
    let records = broker.authorities().topic_permissions().into_iter();
    records
        .map(|record| {
            json!({
                "user": record.user.to_string(),
                "vhost": record.vhost.to_string(),
                "exchange": record.exchange.to_string(),
                "write": record.write,
                "read": record.read,
            })
        })
        .collect()
}

fn parameters(vhost: &VirtualHost) -> Vec<Value> {
    let value = |component: &str, name: &str, value: Value| json!({"vhost": vhost.name().to_string(), "component": component, "name": name, "value": value});
    vhost.look(|inner| {
        let kind = PolicyKind::Operator;
        let policies = inner.policies.list(kind);
        let limits = (!inner.limits.is_empty()).then(|| value(VHOST_LIMITS, LIMITS, inner.limits.to_value()));
        policies
            .map(|policy| value(kind.component(), &policy.name, policy.to_value()))
            .chain(limits)
            .chain(
                inner.parameters.iter().map(|((component, name), kept)| value(component, name, kept.clone())),
            )
            .collect()
    })
}

fn policies(vhost: &VirtualHost) -> Vec<Value> {
    vhost.look(|inner| {
        let policies = inner.policies.list(PolicyKind::User);
        policies
            .map(|policy| {
                json!({
                    "vhost": vhost.name().to_string(),
                    "name": policy.name.to_string(),
                    "pattern": policy.pattern,
                    "apply-to": policy.apply_to.name(),
                    "definition": policy.definition,
                    "priority": policy.priority,
                })
            })
            .collect()
    })
}

fn exchanges(vhost: &VirtualHost) -> Vec<Value> {
    vhost.with_topology(|topology| {
        let own = topology.exchanges().into_iter();
        own.filter(|exchange| !exchange.name.is_empty() && !exchange.name.starts_with(RESERVED_PREFIX))
            .map(|exchange| {
                json!({
                    "vhost": vhost.name().to_string(),
                    "name": exchange.name.to_string(),
                    "type": exchange.kind.name(),
                    "durable": exchange.durable,
                    "auto_delete": exchange.auto_delete,
                    "internal": exchange.internal,
                    "arguments": table_value(&exchange.arguments),
                })
            })
            .collect()
    })
}

fn queues(vhost: &VirtualHost) -> Vec<Value> {
    let queues = vhost.queues().into_iter().filter(|queue| queue.definition.owner.is_none());
    queues
        .map(|queue| {
            json!({
                "vhost": vhost.name().to_string(),
                "name": queue.definition.name.to_string(),
                "type": queue.kind().name(),
                "durable": queue.definition.durable,
                "auto_delete": queue.definition.auto_delete,
                "arguments": table_value(&queue.lock().setup.arguments),
            })
        })
        .collect()
}

/// Those of the default exchange, and to queues that are left out, are left out.
fn bindings(vhost: &VirtualHost) -> Vec<Value> {
    let is_exclusive = |name: &str| {
        name.starts_with(REPLY_QUEUE_PREFIX)
            || vhost.find_queue(name).is_none_or(|queue| queue.definition.owner.is_some())
    };
    let all = vhost.with_topology(|topology| topology.bindings()).into_iter();
    all.filter(|binding| !binding.source.is_empty())
        .filter_map(|binding| {
            let (kind, destination) = match &binding.destination {
                DestinationName::Queue(name) if is_exclusive(name) => return None,
                DestinationName::Queue(name) => ("queue", name),
                DestinationName::Exchange(name) => ("exchange", name),
            };
            Some(json!({
                "vhost": vhost.name().to_string(),
                "source": binding.source.to_string(),
                "destination": destination.to_string(),
                "destination_type": kind,
                "routing_key": binding.routing_key.to_string(),
                "arguments": table_value(&binding.arguments),
            }))
        })
        .collect()
}
