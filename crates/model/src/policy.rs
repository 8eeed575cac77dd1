//! Policies: settings that an operator gives to queues and exchanges by their names.
//!
//! One policy and one operator policy apply to an object at a time: of those whose pattern matches its name, the one of
//! the highest priority. [`merged`] is what both together say. Matching needs regular expressions, which are
//! the node's business; what the keys of a definition mean is in [`keys`].

pub mod keys;
mod terms;

use serde_json::{Map, Value};

use crate::name::Name;

pub use keys::{ExchangePolicy, PolicySettings, QueuePolicy};
pub use terms::ErlangTerm;

/// What a policy says: keys and values, as they were given.
pub type Definition = Map<String, Value>;

/// The two kinds of policies. Both can match one object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PolicyKind {
    /// Set by whoever runs an application.
    User,
    /// Set by whoever runs the broker; bounds what the other kind can say.
    Operator,
}

impl PolicyKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::User, Self::Operator];

    /// The component that it is among runtime parameters.
    pub fn component(self) -> &'static str {
        match self {
            Self::User => "policy",
            Self::Operator => "operator_policy",
        }
    }
}

/// What a policy may apply to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ApplyTo {
    /// Queues and exchanges.
    All,
    /// Exchanges.
    Exchanges,
    /// Queues of every type.
    Queues,
    /// Classic queues.
    ClassicQueues,
    /// Quorum queues.
    QuorumQueues,
    /// Streams.
    Streams,
}

impl ApplyTo {
    const ALL: [Self; 6] =
        [Self::All, Self::Exchanges, Self::Queues, Self::ClassicQueues, Self::QuorumQueues, Self::Streams];

    /// Its name in RabbitMQ.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Exchanges => "exchanges",
            Self::Queues => "queues",
            Self::ClassicQueues => "classic_queues",
            Self::QuorumQueues => "quorum_queues",
            Self::Streams => "streams",
        }
    }

    /// Reads the name.
    pub fn parse(name: &str) -> Result<Self, InvalidPolicy> {
        Self::ALL.into_iter().find(|known| known.name() == name).ok_or_else(|| {
            let text = format!(
                "apply-to '{name}' unrecognised; should be one of: 'queues', 'classic_queues', 'quorum_queues', \
                 'streams', 'exchanges', or 'all'"
            );
            InvalidPolicy(text)
        })
    }

    /// Whether a policy that applies to this can apply to that object.
    pub fn covers(self, object: Object) -> bool {
        match object {
            Object::Exchange => matches!(self, Self::All | Self::Exchanges),
            Object::ClassicQueue => matches!(self, Self::All | Self::Queues | Self::ClassicQueues),
            Object::QuorumQueue => matches!(self, Self::All | Self::Queues | Self::QuorumQueues),
            Object::Stream => matches!(self, Self::All | Self::Queues | Self::Streams),
        }
    }
}

/// What a policy is matched with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Object {
    /// An exchange.
    Exchange,
    /// A classic queue.
    ClassicQueue,
    /// A quorum queue.
    QuorumQueue,
    /// A stream.
    Stream,
}

/// Why a policy is refused: RabbitMQ's text.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvalidPolicy(pub String);

/// A policy or an operator policy of a virtual host.
#[derive(Clone, PartialEq, Debug)]
pub struct Policy {
    /// Its name, unique in its virtual host and kind.
    pub name: Name,
    /// Regular expression; it may match anywhere in the name of a queue or exchange.
    pub pattern: String,
    /// What it may apply to.
    pub apply_to: ApplyTo,
    /// Of those that match, the highest priority applies.
    pub priority: i64,
    /// What it says.
    pub definition: Definition,
}

impl Policy {
    /// Reads the JSON form, which is also that of a runtime parameter:
    /// `{"pattern":"^a","definition":{"max-length":5},"priority":0,"apply-to":"queues"}`. The last two may be missing.
    ///
    /// # Errors
    /// With RabbitMQ's text when a field is missing or unknown, has a wrong type, or the definition is refused.
    pub fn from_value(name: &str, value: &Value, kind: PolicyKind) -> Result<Self, InvalidPolicy> {
        const KNOWN: [&str; 4] = ["pattern", "definition", "priority", "apply-to"];
        let invalid = |text: String| Err(InvalidPolicy(text));
        let Some(fields) = value.as_object() else {
            return invalid(format!(
                "policy '{name}' should be an object, actually was {}",
                ErlangTerm(value)
            ));
        };
        if let Some(unknown) = fields.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            return invalid(format!(
                "Unrecognised terms [{}] in policy",
                ErlangTerm(&Value::from(unknown.as_str()))
            ));
        }
        let Some(pattern) = fields.get("pattern") else {
            return invalid("Key \"pattern\" not found in policy".to_owned());
        };
        let Some(pattern) = pattern.as_str() else {
            return invalid(format!("pattern should be a string, actually was {}", ErlangTerm(pattern)));
        };
        let Some(definition) = fields.get("definition") else {
            return invalid("Key \"definition\" not found in policy".to_owned());
        };
        let priority = match fields.get("priority") {
            None => 0,
            Some(value) => value.as_i64().ok_or_else(|| {
                InvalidPolicy(format!("priority should be a number, actually was {}", ErlangTerm(value)))
            })?,
        };
        let apply_to = match fields.get("apply-to") {
            None => ApplyTo::All,
            Some(Value::String(name)) => ApplyTo::parse(name)?,
            Some(other) => {
                return invalid(format!("apply-to should be a string, actually was {}", ErlangTerm(other)));
            }
        };
        Self::new(name, pattern, definition.clone(), priority, apply_to, kind)
    }

    /// Checks a policy. Whether its pattern is a regular expression is checked where it is compiled.
    ///
    /// # Errors
    /// With RabbitMQ's text when the name does not fit or the definition is refused.
    pub fn new(
        name: &str,
        pattern: &str,
        definition: Value,
        priority: i64,
        apply_to: ApplyTo,
        kind: PolicyKind,
    ) -> Result<Self, InvalidPolicy> {
        let checked = Name::new(name).ok().filter(|name| !name.is_empty());
        let name = checked.ok_or_else(|| {
            InvalidPolicy(format!("expected a policy name of 1 to 255 bytes, got {}", name.len()))
        })?;
        let Value::Object(definition) = definition else {
            return Err(InvalidPolicy(format!(
                "definition must be a dictionary: {}",
                ErlangTerm(&definition)
            )));
        };
        PolicySettings::parse(&definition, kind)?;
        Ok(Self { name, pattern: pattern.to_owned(), apply_to, priority, definition })
    }

    /// The form that [`Self::from_value`] reads.
    pub fn to_value(&self) -> Value {
        serde_json::json!({
            "pattern": self.pattern,
            "definition": self.definition,
            "priority": self.priority,
            "apply-to": self.apply_to.name(),
        })
    }
}

/// What a policy and an operator policy say together: of what both say, the stricter number, or else the
/// operator's word.
pub fn merged(user: Option<&Definition>, operator: Option<&Definition>) -> Definition {
    let mut all = user.cloned().unwrap_or_default();
    for (key, bound) in operator.into_iter().flatten() {
        let value = match all.get(key) {
            Some(said) => keys::stricter(key, said, bound).clone(),
            None => bound.clone(),
        };
        all.insert(key.clone(), value);
    }
    all
}

#[cfg(test)]
mod tests;
