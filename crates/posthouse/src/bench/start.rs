//! How long a broker takes from being started to letting a client in.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::client::Client;
use super::uri::Uri;

/// Flags of `posthouse bench start`.
#[derive(Args, Debug)]
pub(crate) struct StartArgs {
    /// Where it will listen
    #[arg(long, value_name = "URI", default_value = "amqp://guest:guest@127.0.0.1:5672/")]
    uri: Uri,
    /// Give up after so many seconds
    #[arg(long, value_name = "S", default_value_t = 60)]
    seconds: u64,
    /// The command that starts it, after --
    #[arg(value_name = "COMMAND", required = true, last = true)]
    command: Vec<String>,
}

const RETRY: Duration = Duration::from_micros(500);

/// Starts the command, connects until that succeeds, and stops it again with SIGTERM.
pub(super) fn run(args: &StartArgs) -> Result<String> {
    if std::net::TcpStream::connect((args.uri.host.as_str(), args.uri.port)).is_ok() {
        bail!("expected nothing to listen on {}:{} yet", args.uri.host, args.uri.port);
    }
    let Some((program, arguments)) = args.command.split_first() else { bail!("expected a command") };
    let begin = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| program.clone())?;
    let ready = wait(&mut child, args, begin);
    let stopping = Instant::now();
    let stopped = stop(child);
    let (ready, stopped) = (ready?, stopped?);
    let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
    let took = millis(stopping.elapsed());
    Ok(format!(
        "start to open connection {:.1} ms, SIGTERM to exit {took:.1} ms ({stopped})\n",
        millis(ready)
    ))
}

fn wait(child: &mut Child, args: &StartArgs, begin: Instant) -> Result<Duration> {
    loop {
        let error = match Client::connect(&args.uri) {
            Ok(client) => {
                let ready = begin.elapsed();
                client.close();
                return Ok(ready);
            }
            Err(error) => error,
        };
        if let Some(status) = child.try_wait()? {
            bail!("{} ended before it accepted: {status}", args.command.join(" "));
        }
        if begin.elapsed().as_secs() >= args.seconds {
            return Err(error.context(format!("not accepting after {} s", args.seconds)));
        }
        std::thread::sleep(RETRY);
    }
}

fn stop(mut child: Child) -> Result<std::process::ExitStatus> {
    let pid = rustix::process::Pid::from_child(&child);
    // It may have ended by itself; then there is nothing to signal.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    child.wait().context("waiting for the command")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_ends_is_reported() {
        // Bound and not accepting is a refusal too once the listener is gone.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let uri = format!("amqp://127.0.0.1:{port}").parse().unwrap();
        let args = StartArgs { uri, seconds: 5, command: vec!["false".into()] };
        assert_eq!(run(&args).unwrap_err().to_string(), "false ended before it accepted: exit status: 1");
    }
}
