//! The asking end of the control socket; its protocol is drawn in [`posthouse_server::control`].

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use posthouse_server::control::MAX_REQUEST_BYTES;
use posthouse_server::control::commands::VERSION;
use serde_json::{Value, json};

/// How long the broker may take to answer, or to stop; then it is asked whether it is still at it.
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
    ask_while(path, command, args, payload, PATIENCE, &mut || false)
}

/// Asks for something that may take as long as it likes: after each two minutes without an answer, `goes_on` says whether
/// the broker is still at it.
pub(crate) fn ask_for_long(
    path: &Path,
    command: &str,
    args: Value,
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<Value, CtlError> {
    ask_while(path, command, args, &[], PATIENCE, goes_on)
}

fn ask_while(
    path: &Path,
    command: &str,
    args: Value,
    payload: &[u8],
    patience: Duration,
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<Value, CtlError> {
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
    socket.set_read_timeout(Some(patience)).map_err(failed)?;
    (&socket).write_all(request.as_bytes()).and_then(|()| (&socket).write_all(payload)).map_err(failed)?;
    let mut input = BufReader::new(socket).take(MAX_ANSWER_BYTES);
    let mut line = Vec::new();
    loop {
        match input.read_until(b'\n', &mut line) {
            Ok(_) => break,
            // What has come so far is in the line.
            Err(error) if is_timeout(&error) && goes_on() => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let answer = read_answer(&line)?;
    if command == "stop" {
        // The broker hangs up when it is done.
        input.read_to_end(&mut line).map_err(failed)?;
    }
    Ok(answer)
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
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
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc;

    use super::*;

    /// The broker answers when it was asked so often whether it is still at it.
    fn asked(times: u32, answers_after: u32) -> (Result<Value, CtlError>, u32) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let (asked, was_asked) = mpsc::channel::<()>();
        let broker = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            // Ends early when nobody asks any more.
            if (0..answers_after).all(|_| was_asked.recv().is_ok()) {
                peer.write_all(b"{\"v\":1,\"ok\":7}\n").unwrap();
            }
            let _ = was_asked.recv();
        });
        let mut count = 0;
        let mut goes_on = || {
            count += 1;
            asked.send(()).is_ok() && count <= times
        };
        let answer = ask_while(&path, "c", Value::Null, &[], Duration::from_millis(5), &mut goes_on);
        drop(asked);
        broker.join().unwrap();
        (answer, count)
    }

    #[test]
    fn whoever_is_still_at_it_is_waited_for() {
        let (answer, count) = asked(u32::MAX, 3);
        assert!(matches!(answer, Ok(ref value) if *value == json!(7)), "{answer:?}");
        assert!(count >= 3, "{count}");
        match asked(2, u32::MAX) {
            (Err(CtlError::State(said)), 3) => assert!(said.contains("did not answer"), "{said}"),
            other => panic!("{other:?}"),
        }
    }

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
