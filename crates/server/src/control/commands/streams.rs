//! Streams and what they remember.

use posthouse_node::admin::streams::{self, Tracked};
use posthouse_node::admin::{AdminError, super_streams};
use posthouse_node::broker::Broker;
use serde::Deserialize;
use serde_json::Value;

use super::super_stream_options::SuperStreamOptions;
use super::{root, rows};

/// See the module's documentation; `vhost` is `/` when left out.
#[derive(Deserialize)]
#[serde(tag = "command", content = "args", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Command {
    /// Everything unless one of `offset` and `writer` is set.
    ListStreamTracking {
        #[serde(default = "root")]
        vhost: String,
        name: String,
        #[serde(default)]
        all: bool,
        #[serde(default)]
        offset: bool,
        #[serde(default)]
        writer: bool,
    },
    ResetOffset {
        #[serde(default = "root")]
        vhost: String,
        stream: String,
        reference: String,
    },
    AddSuperStream {
        #[serde(default = "root")]
        vhost: String,
        name: String,
        #[serde(flatten)]
        options: SuperStreamOptions,
    },
    DeleteSuperStream {
        #[serde(default = "root")]
        vhost: String,
        name: String,
    },
}

/// Carries it out.
pub(super) fn run(broker: &Broker, command: Command) -> Result<Value, AdminError> {
    match command {
        Command::ListStreamTracking { vhost, name, all, offset, writer } => {
            let which = match (offset, writer) {
                (true, false) if !all => Tracked::Offsets,
                (false, true) if !all => Tracked::Writers,
                _ => Tracked::All,
            };
            Ok(rows(streams::stream_tracking(broker, &vhost, &name, which)?))
        }
        Command::ResetOffset { vhost, stream, reference } => {
            streams::reset_offset(broker, &vhost, &stream, &reference)?;
            Ok(Value::Null)
        }
        Command::AddSuperStream { vhost, name, options } => {
            super_streams::add_super_stream(broker, &vhost, &options.of(name)?)?;
            Ok(Value::Null)
        }
        Command::DeleteSuperStream { vhost, name } => {
            super_streams::delete_super_stream(broker, &vhost, &name)?;
            Ok(Value::Null)
        }
    }
}
