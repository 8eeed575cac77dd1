//! Steps in moving, copying, redriving and purging some of a queue's messages. They change no definitions, so they do not
//! wait for commands that do.

use std::sync::Arc;

use posthouse_node::broker::Broker;
use posthouse_node::message_filter::MessageFilter;
use posthouse_node::relocate::{self, Action, Progress, Request};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Failure, root};

/// See the module's documentation.
#[derive(Deserialize)]
#[serde(tag = "command", content = "args", rename_all = "snake_case")]
pub(super) enum Command {
    PurgeMessages(Step),
    RedriveQueue(Step),
    MoveMessages(StepTo),
    CopyMessages(StepTo),
}

/// `vhost` is `/` when left out.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    #[serde(default = "root")]
    vhost: String,
    name: String,
    #[serde(default)]
    filter: Option<String>,
    #[serde(default = "everything")]
    count: u64,
    #[serde(default)]
    progress: Option<Progress>,
}

/// As [`Step`], with the queue that gets the messages.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StepTo {
    #[serde(default = "root")]
    vhost: String,
    name: String,
    to: String,
    #[serde(default)]
    filter: Option<String>,
    #[serde(default = "everything")]
    count: u64,
    #[serde(default)]
    progress: Option<Progress>,
}

impl StepTo {
    fn split(self) -> (Step, String) {
        let Self { vhost, name, to, filter, count, progress } = self;
        (Step { vhost, name, filter, count, progress }, to)
    }
}

fn everything() -> u64 {
    u64::MAX
}

/// Takes the step.
pub(super) fn run(broker: &Arc<Broker>, command: Command) -> Result<Value, Failure> {
    let (step, action) = match command {
        Command::PurgeMessages(step) => (step, Action::Purge),
        Command::RedriveQueue(step) => (step, Action::Redrive),
        Command::MoveMessages(step) => {
            let (step, to) = step.split();
            (step, Action::Move(to))
        }
        Command::CopyMessages(step) => {
            let (step, to) = step.split();
            (step, Action::Copy(to))
        }
    };
    let Step { vhost, name, filter, count, progress } = step;
    let filters: Result<_, _> = filter.iter().map(|filter| MessageFilter::parse(filter)).collect();
    let filters = filters.map_err(Failure::usage)?;
    let request = Request { vhost, queue: name, action, filters, count, progress };
    Ok(json!(relocate::step(broker, &request)?))
}
