//! Exporting and importing definitions. The document that is imported follows the request's line.

use posthouse_amqp::peer_properties::COMPATIBLE_VERSION;
use posthouse_node::admin::AdminError;
use posthouse_node::broker::Broker;
use posthouse_node::definitions;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;

/// See the module's documentation.
#[derive(Deserialize)]
#[serde(tag = "command", content = "args", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Command {
    ExportDefinitions {},
    ImportDefinitions {
        /// How many bytes follow.
        bytes: usize,
    },
}

impl Command {
    /// How many bytes follow the request's line.
    pub(super) fn payload_bytes(&self) -> Option<usize> {
        match self {
            Self::ExportDefinitions {} => None,
            Self::ImportDefinitions { bytes } => Some(*bytes),
        }
    }
}

/// Carries out an export.
pub(super) fn export(shared: &Shared) -> Value {
    definitions::export(&shared.broker, COMPATIBLE_VERSION, shared.facts.version)
}

/// Carries out an import.
pub(super) fn import(broker: &Broker, document: &[u8]) -> Result<Value, AdminError> {
    let imported = definitions::import(broker, document)?;
    let counts = imported.counts.into_iter().map(|(section, count)| (section.to_owned(), Value::from(count)));
    Ok(json!({"imported": Value::Object(counts.collect()), "left_out": imported.left_out}))
}
