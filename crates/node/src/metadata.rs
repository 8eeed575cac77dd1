//! What an operator notes about a virtual host.

use posthouse_model::args::QueueKind;
use serde_json::{Map, Value, json};

/// Why metadata is refused, in one line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvalidMetadata(pub String);

/// A virtual host's metadata.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VhostMetadata {
    /// What it is for.
    pub description: String,
    /// Labels.
    pub tags: Vec<String>,
    /// The type of queues declared without `x-queue-type`; none for `classic`.
    pub default_queue_type: Option<QueueKind>,
    /// Refuses to be deleted.
    pub protected_from_deletion: bool,
    /// What nobody here knows, kept because a definitions file had it.
    pub others: Map<String, Value>,
}

/// Keys of the JSON form.
const DESCRIPTION: &str = "description";
const TAGS: &str = "tags";
const DEFAULT_QUEUE_TYPE: &str = "default_queue_type";
const PROTECTED: &str = "protected_from_deletion";

/// What RabbitMQ exports for no default queue type.
const UNDEFINED: &str = "undefined";

impl VhostMetadata {
    /// Takes over what the JSON form says, which is that of definitions and of the metadata store; what it does not
    /// mention stays.
    ///
    /// # Errors
    /// When a value has a wrong type, or the queue type does not exist.
    pub fn update(&mut self, value: &Value) -> Result<(), InvalidMetadata> {
        let wrong = |key: &str, expected: &str, got: &Value| {
            Err(InvalidMetadata(format!("metadata '{key}': expected {expected}, got {got}")))
        };
        let Some(fields) = value.as_object() else {
            return Err(InvalidMetadata(format!("expected metadata to be an object, got {value}")));
        };
        for (key, value) in fields {
            match (key.as_str(), value) {
                (DESCRIPTION, Value::String(text)) => self.description = text.clone(),
                (TAGS, Value::Array(tags)) => {
                    let texts = tags.iter().map(|tag| tag.as_str().map(str::to_owned)).collect::<Option<_>>();
                    let Some(texts) = texts else { return wrong(key, "a list of texts", value) };
                    self.tags = texts;
                }
                (DESCRIPTION, Value::Null) => self.description.clear(),
                (DEFAULT_QUEUE_TYPE, Value::Null) => self.default_queue_type = None,
                (DEFAULT_QUEUE_TYPE, Value::String(name)) => self.default_queue_type = queue_type(name)?,
                (PROTECTED, Value::Bool(protected)) => self.protected_from_deletion = *protected,
                (DESCRIPTION | DEFAULT_QUEUE_TYPE, _) => return wrong(key, "a text", value),
                (TAGS, _) => return wrong(key, "a list of texts", value),
                (PROTECTED, _) => return wrong(key, "true or false", value),
                _ => drop(self.others.insert(key.clone(), value.clone())),
            }
        }
        Ok(())
    }

    /// The form that [`Self::update`] reads.
    pub fn to_value(&self) -> Map<String, Value> {
        let mut fields = self.others.clone();
        fields.insert(DESCRIPTION.to_owned(), json!(self.description));
        fields.insert(TAGS.to_owned(), json!(self.tags));
        if let Some(kind) = self.default_queue_type {
            fields.insert(DEFAULT_QUEUE_TYPE.to_owned(), json!(kind.name()));
        }
        if self.protected_from_deletion {
            fields.insert(PROTECTED.to_owned(), json!(true));
        }
        fields
    }
}

fn queue_type(name: &str) -> Result<Option<QueueKind>, InvalidMetadata> {
    match QueueKind::from_name(name) {
        Some(kind) => Ok(Some(kind)),
        None if name == UNDEFINED => Ok(None),
        None => Err(InvalidMetadata(format!("unsupported queue type '{name}'"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_taken_over_and_the_rest_stays() {
        let mut metadata = VhostMetadata::default();
        let full = json!({
            "description": "d", "tags": ["a", "b"], "default_queue_type": "quorum",
            "protected_from_deletion": true, "x": {"y": 1},
        });
        metadata.update(&full).unwrap();
        metadata.update(&json!({})).unwrap();
        assert_eq!(Value::Object(metadata.to_value()), full);
        metadata.update(&json!({"tags": [], "default_queue_type": "undefined", "x": 2})).unwrap();
        metadata.update(&json!({"protected_from_deletion": false})).unwrap();
        assert_eq!(Value::Object(metadata.to_value()), json!({"description": "d", "tags": [], "x": 2}));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (value, text) in [
            (json!([]), "expected metadata to be an object, got []"),
            (json!({"description": 1}), "metadata 'description': expected a text, got 1"),
            (json!({"tags": "a"}), "metadata 'tags': expected a list of texts, got \"a\""),
            (json!({"tags": [1]}), "metadata 'tags': expected a list of texts, got [1]"),
            (
                json!({"protected_from_deletion": 1}),
                "metadata 'protected_from_deletion': expected true or false, got 1",
            ),
            (json!({"default_queue_type": "x"}), "unsupported queue type 'x'"),
        ] {
            assert_eq!(VhostMetadata::default().update(&value).unwrap_err().to_string(), text);
        }
    }
}
