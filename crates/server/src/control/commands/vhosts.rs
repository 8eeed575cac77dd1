//! Changes of virtual hosts, their metadata, limits and tracing.

use posthouse_model::limits::VhostLimits;
use posthouse_node::admin::{self, AdminError};
use posthouse_node::broker::Broker;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{json_text, root};

/// See the module's documentation; `vhost` is `/` when left out.
#[derive(Deserialize)]
#[serde(tag = "command", content = "args", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Command {
    SetVhostLimits {
        #[serde(default = "root")]
        vhost: String,
        limits: String,
    },
    ClearVhostLimits {
        #[serde(default = "root")]
        vhost: String,
    },
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
    TraceOn {
        #[serde(default = "root")]
        vhost: String,
    },
    TraceOff {
        #[serde(default = "root")]
        vhost: String,
    },
}

/// Carries it out.
pub(super) fn run(broker: &Broker, command: Command) -> Result<Value, AdminError> {
    match command {
        Command::SetVhostLimits { vhost, limits } => {
            let limits = VhostLimits::from_value(&json_text("limits", &limits)?)?;
            admin::set_vhost_limits(broker, &vhost, limits)?;
        }
        Command::ClearVhostLimits { vhost } => admin::clear_vhost_limits(broker, &vhost)?,
        Command::SetVhostTags { name, tags } => {
            admin::update_vhost_metadata(broker, &name, &json!({"tags": tags}))?;
        }
        Command::UpdateVhostMetadata(notes) => {
            admin::update_vhost_metadata(broker, &notes.name, &notes.metadata())?;
        }
        Command::EnableVhostDeletionProtection { name } => {
            admin::update_vhost_metadata(broker, &name, &json!({"protected_from_deletion": true}))?;
        }
        Command::DisableVhostDeletionProtection { name } => {
            admin::update_vhost_metadata(broker, &name, &json!({"protected_from_deletion": false}))?;
        }
        Command::AddVhost(notes) => admin::add_vhost(broker, &notes.name, &notes.metadata())?,
        Command::DeleteVhost { name } => admin::delete_vhost(broker, &name)?,
        Command::TraceOn { vhost } => admin::set_tracing(broker, &vhost, true)?,
        Command::TraceOff { vhost } => admin::set_tracing(broker, &vhost, false)?,
    }
    Ok(Value::Null)
}

/// A virtual host and what to note about it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VhostNotes {
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
