//! Commands that go through a queue's messages step by step, as fast as the operator allows.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::{self, CtlError};
use super::options::{Formatter, Request};

/// Steps per second while there is a rate.
const STEPS_PER_SECOND: u64 = 10;

/// Goes through the messages to the end, or until `--count` are done; what is to be printed. An interrupted run leaves
/// whole steps behind.
pub(super) fn run(request: &Request, socket: &Path, said: &str) -> Result<String, CtlError> {
    let count = number(request, "count")?.unwrap_or(u64::MAX);
    let rate = number(request, "rate")?;
    let (mut done, mut stayed, mut progress) = (0, 0, Value::Null);
    let started = Instant::now();
    loop {
        let step = rate.map_or(u64::MAX, |rate| (rate / STEPS_PER_SECOND).max(1));
        let mut args = request.args.clone();
        args.remove("rate");
        args.insert("count".into(), json!(step.min(count - done)));
        args.insert("progress".into(), progress);
        let answer = client::ask(socket, request.command.name, Value::Object(args), &[]);
        let mut answer = answer.map_err(|error| interrupted(error, done))?;
        done += answer["messages"].as_u64().unwrap_or(0);
        stayed += answer["stayed"].as_u64().unwrap_or(0);
        progress = answer["progress"].take();
        if progress.is_null() || done >= count {
            break;
        }
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(done as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(started.elapsed()));
        }
    }
    Ok(match request.formatter {
        Formatter::Json => format!("{}\n", json!({"messages": done, "stayed": stayed})),
        Formatter::Table if request.quiet => String::new(),
        Formatter::Table => {
            let answer = json!({"messages": done});
            let mut text = super::said_of(said, request, &answer);
            if stayed > 0 {
                text += &format!("{stayed} stayed: they have nowhere to go, or there is no room\n");
            }
            text
        }
    })
}

/// An error in the middle, with what was done before.
fn interrupted(error: CtlError, done: u64) -> CtlError {
    match error {
        CtlError::State(text) if done > 0 => {
            CtlError::State(format!("{text}; {done} messages were done before that"))
        }
        error => error,
    }
}

/// An option that is a number of at least 1.
fn number(request: &Request, name: &str) -> Result<Option<u64>, CtlError> {
    let Some(value) = request.args.get(name) else { return Ok(None) };
    let positive = value.as_u64().filter(|&number| number > 0);
    let bad = || CtlError::Usage(format!("--{name}: expected a number of at least 1, got {value}"));
    positive.map(Some).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_interrupted_hears_how_far_it_came() {
        let said = |done| match interrupted(CtlError::State("gone".into()), done) {
            CtlError::State(text) => text,
            CtlError::Usage(text) => panic!("{text}"),
        };
        assert_eq!((said(0), said(7)), ("gone".into(), "gone; 7 messages were done before that".into()));
    }
}
