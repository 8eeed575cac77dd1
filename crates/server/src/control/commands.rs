//! The commands of the control socket: from a line to a call on the broker, and from its outcome to a line. What there
//! is to ask is in files by subject, below this module.

mod broker;
mod connections;
mod definitions;
mod messages;
mod parameters;
mod policies;
mod queues;
mod reading;
mod streams;
mod super_stream_options;
mod users;
mod vhosts;

use std::sync::PoisonError;

use posthouse_model::name::Name;
use posthouse_node::admin::AdminError;
use posthouse_node::broker::Broker;
use posthouse_node::events;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Shared;

/// The version of requests and answers.
pub const VERSION: u64 = 1;

/// What is asked, with its arguments. A request names it in `command` and its fields in `args`.
pub struct Command(Subject);

/// The commands of each subject.
enum Subject {
    Broker(broker::Command),
    Reading(reading::Command),
    Users(users::Command),
    Vhosts(vhosts::Command),
    Queues(queues::Command),
    Streams(streams::Command),
    Messages(messages::Command),
    Connections(connections::Command),
    Policies(policies::Command),
    Parameters(parameters::Command),
    Definitions(definitions::Command),
}

/// How each subject reads its commands.
const READERS: &[fn(&Value) -> serde_json::Result<Subject>] = &[
    |request| broker::Command::deserialize(request).map(Subject::Broker),
    |request| reading::Command::deserialize(request).map(Subject::Reading),
    |request| users::Command::deserialize(request).map(Subject::Users),
    |request| vhosts::Command::deserialize(request).map(Subject::Vhosts),
    |request| queues::Command::deserialize(request).map(Subject::Queues),
    |request| streams::Command::deserialize(request).map(Subject::Streams),
    |request| messages::Command::deserialize(request).map(Subject::Messages),
    |request| connections::Command::deserialize(request).map(Subject::Connections),
    |request| policies::Command::deserialize(request).map(Subject::Policies),
    |request| parameters::Command::deserialize(request).map(Subject::Parameters),
    |request| definitions::Command::deserialize(request).map(Subject::Definitions),
];

impl Command {
    /// The command of that name with these arguments, a JSON object.
    ///
    /// # Errors
    /// When there is no such command, or it has other arguments.
    pub fn new(name: &str, args: &Value) -> Result<Self, Failure> {
        let request = json!({"command": name, "args": args});
        for read in READERS {
            match read(&request) {
                Ok(subject) => return Ok(Self(subject)),
                Err(error) if error.to_string().starts_with("unknown variant") => {}
                Err(error) => return Err(Failure::usage(format!("{name}: {}", complaint(&error, args)))),
            }
        }
        Err(Failure::usage(format!("command {name:?} is not supported yet")))
    }

    /// How many bytes follow the request's line; none when nothing does.
    pub(crate) fn payload_bytes(&self) -> Option<usize> {
        match &self.0 {
            Subject::Definitions(command) => command.payload_bytes(),
            _ => None,
        }
    }
}

/// What is wrong with a command's arguments. Shows their names only: the values may be secrets.
fn complaint(error: &serde_json::Error, args: &Value) -> String {
    let given: Vec<&String> = args.as_object().into_iter().flat_map(Map::keys).collect();
    let text = error.to_string();
    match text.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
        Some(missing) => format!("expected an argument {missing:?}, got {given:?}"),
        None => format!("missing, unknown or mistyped arguments, got {given:?}"),
    }
}

/// What came of a command.
pub(crate) enum Outcome {
    /// It was done; this is the answer.
    Done(Value),
    /// The broker is to stop.
    Stop,
}

/// Why a command was not done.
#[derive(Debug)]
pub struct Failure {
    /// `usage` when the request is wrong, `state` when the broker's state forbids it.
    kind: &'static str,
    /// One line; shows no secret.
    text: String,
}

impl Failure {
    /// The request is wrong.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { kind: "usage", text: text.into() }
    }

    /// The broker's state forbids it.
    pub(crate) fn state(text: impl Into<String>) -> Self {
        Self { kind: "state", text: text.into() }
    }
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        Self::state(error.to_string())
    }
}

/// The answer's line, without its line feed.
pub(crate) fn encode(outcome: &Result<Outcome, Failure>) -> String {
    let answer = match outcome {
        Ok(Outcome::Done(value)) => json!({"v": VERSION, "ok": value}),
        Ok(Outcome::Stop) => json!({"v": VERSION, "ok": {"pid": std::process::id()}}),
        Err(Failure { kind, text }) => json!({"v": VERSION, "error": text, "kind": kind}),
    };
    answer.to_string()
}

/// Reads a request.
pub(crate) fn parse(line: &[u8]) -> Result<Command, Failure> {
    // The parser's text may quote what was sent, a password included; its place is enough.
    let bad = |error: serde_json::Error| {
        Failure::usage(format!(
            "expected a JSON object on one line, got an error at column {}",
            error.column()
        ))
    };
    let request: Value = serde_json::from_slice(line.trim_ascii_end()).map_err(bad)?;
    if request.get("v") != Some(&json!(VERSION)) {
        return Err(Failure::usage(format!("expected a request with \"v\":{VERSION}")));
    }
    let name = request.get("command").and_then(Value::as_str).unwrap_or_default();
    Command::new(name, request.get("args").unwrap_or(&json!({})))
}

/// Carries a command out, with the payload that followed it. May block for as long as the disk takes.
pub(crate) fn run(shared: &Shared, command: Command, payload: &[u8]) -> Result<Outcome, Failure> {
    match command.0 {
        Subject::Broker(command) => Ok(broker::run(shared, &command)),
        Subject::Definitions(definitions::Command::ExportDefinitions {}) => {
            Ok(Outcome::Done(definitions::export(shared)))
        }
        Subject::Reading(command) => reading::run(&shared.broker, command).map(Outcome::Done),
        Subject::Messages(command) => messages::run(&shared.broker, command).map(Outcome::Done),
        changing => {
            let _turn = shared.changing.lock().unwrap_or_else(PoisonError::into_inner);
            let operator = Name::truncated(events::OPERATOR);
            let changed = events::acting(&operator, || change(&shared.broker, changing, payload));
            Ok(Outcome::Done(changed?))
        }
    }
}

fn change(broker: &Broker, subject: Subject, payload: &[u8]) -> Result<Value, AdminError> {
    match subject {
        Subject::Users(command) => users::run(broker, command),
        Subject::Vhosts(command) => vhosts::run(broker, command),
        Subject::Queues(command) => queues::run(broker, command),
        Subject::Streams(command) => streams::run(broker, command),
        Subject::Connections(command) => connections::run(broker, command),
        Subject::Policies(command) => policies::run(broker, command),
        Subject::Parameters(command) => parameters::run(broker, command),
        Subject::Definitions(_) => definitions::import(broker, payload),
        // They change no definitions and were carried out before.
        Subject::Broker(_) | Subject::Reading(_) | Subject::Messages(_) => Ok(Value::Null),
    }
}

fn root() -> String {
    "/".to_owned()
}

/// Reads an argument that is JSON text.
fn json_text(argument: &str, text: &str) -> Result<Value, AdminError> {
    let bad = |error| AdminError::Invalid(format!("expected {argument} to be JSON, got {text:?}: {error}"));
    serde_json::from_str(text).map_err(bad)
}

/// Rows have texts for keys and numbers, texts and lists for values, which always have a JSON form.
fn rows(rows: impl Serialize) -> Value {
    serde_json::to_value(rows).unwrap_or_default()
}
