//! Steps in moving, copying, redriving and purging some of a queue's messages, and cancelling scheduled ones. They change
//! no definitions, so they do not wait for commands that do.

use std::sync::Arc;

use posthouse_node::broker::Broker;
use posthouse_node::message_filter::MessageFilter;
use posthouse_node::relocate::{self, Action, Progress, Request};
use posthouse_node::schedule::listing;
use serde::Deserialize;
use serde_json::{Value, json};

use super::reading::which;
use super::{Failure, root};

/// See the module's documentation.
#[derive(Deserialize)]
#[serde(tag = "command", content = "args", rename_all = "snake_case")]
pub(super) enum Command {
    PurgeMessages(Step),
    RedriveQueue(Step),
    MoveMessages(StepTo),
    CopyMessages(StepTo),
    CancelScheduled(Scheduled),
}

/// Which scheduled messages are meant: by identity, by what is written on them, or both.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scheduled {
    #[serde(default = "root")]
    vhost: String,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    due_at: Option<u64>,
    #[serde(default)]
    filter: Option<String>,
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

fn cancel(broker: &Broker, scheduled: &Scheduled) -> Result<Value, Failure> {
    let Scheduled { vhost, id, due_at, filter } = scheduled;
    if id.is_none() && filter.is_none() {
        return Err(Failure::usage("expected an id or a filter, got neither"));
    }
    let which = which(id.as_deref(), *due_at, filter.as_deref())?;
    Ok(json!({"messages": listing::cancel(broker, vhost, &which)?}))
}

/// Takes the step.
pub(super) fn run(broker: &Arc<Broker>, command: Command) -> Result<Value, Failure> {
    let (step, action) = match command {
        Command::CancelScheduled(scheduled) => return cancel(broker, &scheduled),
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
