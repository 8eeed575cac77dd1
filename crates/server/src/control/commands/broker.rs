//! The broker as a whole.

use posthouse_node::listings;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Outcome, Shared, rows};

/// See the module's documentation.
#[derive(Deserialize)]
#[serde(tag = "command", content = "args", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Command {
    Status {},
    Ping {},
    Stop {},
}

/// Carries it out.
pub(super) fn run(shared: &Shared, command: &Command) -> Outcome {
    match command {
        Command::Status {} => Outcome::Done(status(shared)),
        Command::Ping {} => Outcome::Done(Value::Null),
        Command::Stop {} => Outcome::Stop,
    }
}

fn status(shared: &Shared) -> Value {
    let facts = &shared.facts;
    let mut status = json!({
        "version": facts.version,
        "pid": std::process::id(),
        "uptime_seconds": shared.started.elapsed().as_secs(),
        "listeners": facts.listeners,
        "data_dir": facts.data_dir.as_ref().map(|path| path.display().to_string()),
    });
    if let (Some(status), Value::Object(totals)) =
        (status.as_object_mut(), rows(listings::totals(&shared.broker)))
    {
        status.extend(totals);
    }
    status
}
