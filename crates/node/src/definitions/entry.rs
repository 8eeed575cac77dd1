//! One object of a document, from which fields are taken one by one; errors name the object.

use posthouse_model::name::Name;
use serde_json::{Map, Value};

use super::{DefinitionsError, LeftOut, Result};

/// See the module's documentation.
pub(super) struct Entry {
    /// Such as `queues`.
    section: &'static str,
    /// Such as `queue 'q' in vhost '/'`; the section and place until that is known.
    label: String,
    fields: Map<String, Value>,
}

impl Entry {
    /// The object at that place of a section.
    pub(super) fn new(section: &'static str, place: usize, value: Value) -> Result<Self> {
        let label = format!("{section}[{place}]");
        match value {
            Value::Object(fields) => Ok(Self { section, label, fields }),
            other => Err(invalid(&label, &format!("expected an object, got {}", kind(&other)))),
        }
    }

    /// Says what the object is called from now on.
    pub(super) fn label(&mut self, label: String) {
        self.label = label;
    }

    /// An error that names the object.
    pub(super) fn bad(&self, problem: impl std::fmt::Display) -> DefinitionsError {
        invalid(&self.label, &problem.to_string())
    }

    /// A field of any kind; none when it is missing.
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.fields.remove(key)
    }

    /// A field that must be a text; none when it is missing.
    pub(super) fn optional_text(&mut self, key: &str) -> Result<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.bad(format!("{key}: expected a text, got {}", kind(&other)))),
        }
    }

    /// A field that must be there and a text.
    pub(super) fn text(&mut self, key: &str) -> Result<String> {
        self.optional_text(key)?.ok_or_else(|| self.bad(format!("expected a field '{key}', got none")))
    }

    /// A field that must be there and a name, which may be empty.
    pub(super) fn name(&mut self, key: &str) -> Result<Name> {
        let text = self.text(key)?;
        Name::new(&text).map_err(|_| {
            self.bad(format!("{key}: expected a name of at most 255 bytes, got {} bytes", text.len()))
        })
    }

    /// A field that must be there and a name, which must not be empty.
    pub(super) fn filled_name(&mut self, key: &str) -> Result<Name> {
        let name = self.name(key)?;
        if name.is_empty() {
            Err(self.bad(format!("{key}: expected a name, got an empty one")))
        } else {
            Ok(name)
        }
    }

    /// A field that must be a truth value; `missing` when it is not there.
    pub(super) fn flag(&mut self, key: &str, missing: Option<bool>) -> Result<bool> {
        match (self.take(key), missing) {
            (Some(Value::Bool(flag)), _) | (None, Some(flag)) => Ok(flag),
            (None, None) => Err(self.bad(format!("expected a field '{key}', got none"))),
            (Some(other), _) => Err(self.bad(format!("{key}: expected true or false, got {}", kind(&other)))),
        }
    }

    /// A field that must be an object; empty when it is missing. RabbitMQ 3 writes some objects as lists of pairs.
    pub(super) fn object(&mut self, key: &str) -> Result<Map<String, Value>> {
        let value = self.take(key).unwrap_or_default();
        object(value).map_err(|other| self.bad(format!("{key}: expected an object, got {}", kind(&other))))
    }

    /// Notes the fields that nobody took.
    pub(super) fn finish(self, left_out: &mut LeftOut) {
        for key in self.fields.keys() {
            left_out.note(format!("{}: the field '{key}' is not known", self.section));
        }
    }
}

/// Reads an object, or a list of pairs of a key and a value in its place; nothing is an empty object.
pub(super) fn object(value: Value) -> std::result::Result<Map<String, Value>, Value> {
    match value {
        Value::Object(fields) => Ok(fields),
        Value::Null => Ok(Map::new()),
        Value::Array(pairs) => {
            let is_pair =
                |pair: &Value| pair.as_array().is_some_and(|pair| matches!(&pair[..], [Value::String(_), _]));
            if !pairs.iter().all(is_pair) {
                return Err(Value::Array(pairs));
            }
            let split = |pair: Value| match pair {
                Value::Array(mut pair) => match (pair.pop(), pair.pop()) {
                    (Some(value), Some(Value::String(key))) => Some((key, value)),
                    _ => None,
                },
                _ => None,
            };
            Ok(pairs.into_iter().filter_map(split).collect())
        }
        other => Err(other),
    }
}

/// What a value is, without showing it: it may be a secret.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn invalid(label: &str, problem: &str) -> DefinitionsError {
    DefinitionsError::Invalid(format!("{label}: {problem}"))
}
