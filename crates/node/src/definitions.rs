//! Definitions: virtual hosts, users, permissions, parameters, policies, exchanges, queues and bindings as one JSON
//! document, in the form that RabbitMQ exports and imports.
//!
//! ```text
//! {"rabbit_version":"4.3.0", "users":[{"name":..,"password_hash":..,"hashing_algorithm":..,"tags":[..],"limits":{}}],
//!  "vhosts":[..], "permissions":[..], "topic_permissions":[..], "parameters":[..], "global_parameters":[..],
//!  "policies":[..], "exchanges":[..], "queues":[..], "bindings":[..]}
//! ```
//!
//! `read.rs` turns a document into typed definitions, `check.rs` compares them with what is there, `apply.rs` makes them
//! so. Everything that can be told before is refused before the first change. What the document does not mention stays;
//! importing the same document again changes nothing.

mod apply;
mod arguments;
mod check;
mod entry;
mod export;
mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use posthouse_auth::password::PasswordHash;
use posthouse_model::limits::{UserLimits, VhostLimits};
use posthouse_model::name::Name;
use posthouse_model::policy::{Policy, PolicyKind};
use posthouse_queue::topology::{BindingRecord, ExchangeRecord};
use posthouse_storage::meta::MetaError;
use serde_json::{Map, Value};

use crate::admin::AdminError;
use crate::broker::Broker;
use crate::declare::QueueDeclaration;

pub use export::export;

/// Bytes of a document that is imported, at most.
pub const MAX_BYTES: usize = 64 << 20;
/// How many things that were left out are named.
const LEFT_OUT_MAX: usize = 100;

/// Why definitions are refused.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionsError {
    /// The document is too long.
    #[error("expected at most {MAX_BYTES} bytes of definitions, got {0}")]
    TooLong(usize),
    /// It is no JSON.
    #[error("expected definitions as a JSON object, got an error at line {line} column {column}")]
    NotJson {
        /// Where, from 1.
        line: usize,
        /// Where, from 1.
        column: usize,
    },
    /// Something in it is wrong, or does not go together with what is there. Nothing was changed.
    #[error("{0}")]
    Invalid(String),
    /// Something could not be carried out; what comes before it in the document's order was.
    #[error("{0}; the definitions before it are imported")]
    Stopped(String),
    /// The definitions are in force and cannot be kept.
    #[error("the definitions are imported but not kept: {0}")]
    Meta(#[from] MetaError),
}

type Result<T> = std::result::Result<T, DefinitionsError>;

/// What an import did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Imported {
    /// How many of each section the document had, in its order.
    pub counts: Vec<(&'static str, usize)>,
    /// What was left out and why, one line each; at most a hundred.
    pub left_out: Vec<String>,
}

/// A document, read.
#[derive(Debug, Default)]
struct Definitions {
    users: Vec<UserDefinition>,
    vhosts: Vec<VhostDefinition>,
    permissions: Vec<PermissionDefinition>,
    topic_permissions: Vec<TopicPermissionDefinition>,
    parameters: Vec<ParameterDefinition>,
    global_parameters: Vec<(String, Value)>,
    policies: Vec<PolicyDefinition>,
    exchanges: Vec<(Name, ExchangeRecord)>,
    queues: Vec<(Name, QueueDeclaration)>,
    bindings: Vec<(Name, BindingRecord)>,
    left_out: LeftOut,
}

#[derive(Debug)]
struct UserDefinition {
    name: Name,
    password: Password,
    tags: Vec<String>,
    limits: UserLimits,
}

/// How a document says what a user's password is.
enum Password {
    /// There is none: no login by password.
    None,
    /// As a hash.
    Hash(PasswordHash),
    /// As it is.
    Plain(String),
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

#[derive(Debug)]
struct VhostDefinition {
    name: Name,
    metadata: Map<String, Value>,
    limits: VhostLimits,
}

#[derive(Debug)]
struct PermissionDefinition {
    user: String,
    vhost: Name,
    /// Configure, write, read.
    patterns: [String; 3],
}

#[derive(Debug)]
struct TopicPermissionDefinition {
    user: String,
    vhost: Name,
    exchange: String,
    /// Write, read.
    patterns: [String; 2],
}

/// A runtime parameter that is no policy.
#[derive(Debug)]
struct ParameterDefinition {
    vhost: Name,
    component: String,
    name: String,
    value: Value,
}

#[derive(Debug)]
struct PolicyDefinition {
    vhost: Name,
    kind: PolicyKind,
    policy: Policy,
}

/// What is left out, bounded.
#[derive(Debug, Default)]
struct LeftOut {
    notes: BTreeSet<String>,
    more: usize,
}

impl LeftOut {
    fn note(&mut self, text: String) {
        if self.notes.len() < LEFT_OUT_MAX {
            self.notes.insert(text);
        } else if !self.notes.contains(&text) {
            self.more += 1;
        }
    }

    fn into_lines(self) -> Vec<String> {
        let more = (self.more > 0).then(|| format!("and {} more", self.more));
        self.notes.into_iter().chain(more).collect()
    }
}

/// Imports a document. May block for as long as hashing passwords and the disk take; the definitions survive a restart
/// when this returns.
///
/// # Errors
/// Names the object that is at fault, see [`DefinitionsError`].
pub fn import(broker: &Broker, document: &[u8]) -> std::result::Result<Imported, AdminError> {
    let definitions = read::read(document)?;
    let counts = definitions.counts();
    let imported = check::check(broker, definitions).and_then(|checked| apply::apply(broker, checked));
    // Also after a failure: what was imported before it is in force.
    let kept = broker.store().meta().flush();
    let left_out = imported?.into_lines();
    kept.map_err(DefinitionsError::from)?;
    Ok(Imported { counts, left_out })
}

impl Definitions {
    fn counts(&self) -> Vec<(&'static str, usize)> {
        let all = [
            ("users", self.users.len()),
            ("vhosts", self.vhosts.len()),
            ("permissions", self.permissions.len()),
            ("topic_permissions", self.topic_permissions.len()),
            ("parameters", self.parameters.len()),
            ("global_parameters", self.global_parameters.len()),
            ("policies", self.policies.len()),
            ("exchanges", self.exchanges.len()),
            ("queues", self.queues.len()),
            ("bindings", self.bindings.len()),
        ];
        all.to_vec()
    }
}
