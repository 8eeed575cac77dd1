//! The asking end of the control socket; its protocol is drawn in [`posthouse_server::control`].

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use posthouse_server::control::MAX_REQUEST_BYTES;
use posthouse_server::control::commands::VERSION;
use serde_json::{Value, json};

/// How long the broker may take to answer, or to stop.
const PATIENCE: Duration = Duration::from_secs(120);
/// More than any list can be.
const MAX_ANSWER_BYTES: u64 = 4 << 30;

/// Why a command came to nothing. The text is one line.
#[derive(Debug)]
pub(crate) enum CtlError {
    /// The request is wrong.
    Usage(String),
    /// The broker does not run, or its state forbids it.
    State(String),
}

/// Asks the broker behind a control socket. `payload` follows the request.
pub(crate) fn ask(path: &Path, command: &str, args: Value, payload: &[u8]) -> Result<Value, CtlError> {
    let mut request = json!({"v": VERSION, "command": command, "args": args}).to_string();
    request.push('\n');
    if request.len() as u64 > MAX_REQUEST_BYTES {
        let got = request.len();
        return Err(CtlError::Usage(format!(
            "expected at most {MAX_REQUEST_BYTES} bytes of arguments, got {got}"
        )));
    }
    let shown = path.display();
    let socket = UnixStream::connect(path)
        .map_err(|error| CtlError::State(format!("no broker answers on {shown}: {error}")))?;
    let failed =
        |error: std::io::Error| CtlError::State(format!("the broker did not answer on {shown}: {error}"));
    socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    (&socket).write_all(request.as_bytes()).and_then(|()| (&socket).write_all(payload)).map_err(failed)?;
    let mut input = BufReader::new(socket).take(MAX_ANSWER_BYTES);
    let mut line = Vec::new();
    input.read_until(b'\n', &mut line).map_err(failed)?;
    let answer = read_answer(&line)?;
    if command == "stop" {
        // The broker hangs up when it is done.
        input.read_to_end(&mut line).map_err(failed)?;
    }
    Ok(answer)
}

fn read_answer(line: &[u8]) -> Result<Value, CtlError> {
    if line.is_empty() {
        return Err(CtlError::State("the broker hung up before it had answered".into()));
    }
    let bad =
        || CtlError::State("expected an answer of version 1 from the broker, got something else".into());
    let mut answer: Value = serde_json::from_slice(line).map_err(|_| bad())?;
    if answer["v"] != json!(VERSION) {
        return Err(bad());
    }
    if let Some(error) = answer["error"].as_str() {
        let error = error.to_owned();
        return Err(match answer["kind"].as_str() {
            Some("usage") => CtlError::Usage(error),
            _ => CtlError::State(error),
        });
    }
    answer.get_mut("ok").map(Value::take).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_answer_says_so() {
        for (line, expected) in [
            (&b""[..], "the broker hung up before it had answered"),
            (b"{\"v\":1", "expected an answer of version 1 from the broker, got something else"),
            (b"{\"v\":0,\"ok\":1}", "expected an answer of version 1 from the broker, got something else"),
            (b"{\"v\":1,\"error\":\"no\"}", "no"),
        ] {
            match read_answer(line) {
                Err(CtlError::State(said)) => assert_eq!(said, expected),
                other => panic!("{other:?}"),
            }
        }
    }
}
