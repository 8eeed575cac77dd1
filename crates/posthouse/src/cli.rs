//! The command line: what can be asked, and how a refusal is printed.
//!
//! Every refusal is one line on stderr, `posthouse: what: expected ..., got ...`. Exit codes: [`USAGE`] when the
//! request itself is wrong (flag, setting, configuration file), [`STATE`] when the request is fine and the world is not.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Flag, Loaded};
use crate::one_line::escaped;
use crate::{bench, check, ctl, serve};

/// Exit code of a wrong flag, setting or configuration file.
pub(crate) const USAGE: u8 = 2;
/// Exit code when the state of the machine or of the data forbids what was asked.
pub(crate) const STATE: u8 = 1;

/// The Posthouse message broker.
#[derive(Parser, Debug)]
#[command(name = "posthouse", version, about, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the broker (the default)
    Serve(ServeArgs),
    /// Print the effective settings as TOML, with where each came from
    Config(ServeArgs),
    /// Verify the data directory of a stopped broker
    Check(check::CheckArgs),
    /// Administer a running broker
    Ctl(ctl::CtlArgs),
    /// Measure a broker
    Bench(bench::BenchArgs),
}

/// The settings that have a flag. Everything else is set in the file or the environment.
#[derive(Args, Debug, Default)]
struct ServeArgs {
    /// TOML configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where messages and definitions are kept
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Listen here for AMQP 0-9-1; may be repeated
    #[arg(long, value_name = "ADDR")]
    amqp: Vec<String>,
    /// "log" keeps durable messages on disk, "memory" uses no file at all
    #[arg(long, value_name = "KIND")]
    storage: Option<String>,
    /// Unix socket for posthouse ctl, instead of the one in the data directory
    #[arg(long, value_name = "PATH")]
    control_socket: Option<String>,
    /// What to log, for example "info" or "info,posthouse_node=debug"
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

impl ServeArgs {
    fn load(self) -> Result<Loaded, config::ConfigError> {
        let mut flags = Vec::new();
        let mut one = |flag, section, key, value: Option<String>| {
            flags.extend(value.map(|v| Flag { flag, section, key, values: vec![v] }));
        };
        one("--data-dir", "server", "data_dir", self.data_dir);
        one("--storage", "server", "storage", self.storage);
        one("--control-socket", "server", "control_socket", self.control_socket);
        one("--log", "logging", "filter", self.log);
        if !self.amqp.is_empty() {
            flags.push(Flag { flag: "--amqp", section: "amqp", key: "listeners", values: self.amqp });
        }
        config::load(self.config.as_deref(), std::env::vars_os(), flags, config::Machine::detect())
    }
}

/// Does what the command line asks.
pub(crate) fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return fail(USAGE, format_args!("{}", one_line(&error))),
        Err(help) => {
            // A closed pipe (`posthouse --help | head -1`) is not worth an error.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => with_settings(args, |loaded| serve::serve(&loaded)),
        Command::Config(args) => with_settings(args, |loaded| print(&loaded.to_toml())),
        Command::Check(args) => check::run(&args),
        Command::Ctl(args) => ctl::run(args),
        Command::Bench(args) => bench::run(args),
    }
}

/// Prints one line on stderr and gives the exit code.
pub(crate) fn fail(code: u8, message: fmt::Arguments<'_>) -> ExitCode {
    use std::io::Write;
    // Nobody is left to tell when stderr itself is gone.
    let _ = writeln!(std::io::stderr(), "posthouse: {}", escaped(&message.to_string()));
    ExitCode::from(code)
}

/// Writes a finished text to stdout.
pub(crate) fn print(text: &str) -> ExitCode {
    use std::io::{ErrorKind, Write};
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => fail(STATE, format_args!("stdout: {error}")),
        _ => ExitCode::SUCCESS,
    }
}

fn with_settings(args: ServeArgs, then: impl FnOnce(Loaded) -> ExitCode) -> ExitCode {
    match args.load() {
        Ok(loaded) => then(loaded),
        Err(error) => fail(USAGE, format_args!("{error}")),
    }
}

/// The argument parser explains itself over several lines; what was wrong and the nearest valid thing fit on one.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let said = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let lines: Vec<&str> = said.filter(|line| !line.is_empty() && !line.starts_with("For more")).collect();
    let joined = lines.join("; ").replace(":; ", ": ");
    joined.strip_prefix("error: ").unwrap_or(&joined).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(words: &[&str]) -> String {
        one_line(&Cli::try_parse_from([&["posthouse"], words].concat()).expect_err("must be refused"))
    }

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_is_the_default() {
        let cli = Cli::try_parse_from(["posthouse", "--amqp", "127.0.0.1:1", "--amqp", "[::1]:2"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.serve.amqp, ["127.0.0.1:1", "[::1]:2"]);
        let cli = Cli::try_parse_from(["posthouse", "serve", "--data-dir", "/x"]).unwrap();
        assert!(
            matches!(cli.command, Some(Command::Serve(ServeArgs { data_dir: Some(d), .. })) if d == "/x")
        );
    }

    #[test]
    fn refusals_are_one_line() {
        for (words, expected) in [
            (
                &["--data-dri", "x"][..],
                "unexpected argument '--data-dri' found; tip: a similar argument exists: '--data-dir'",
            ),
            (&["check"], "the following required arguments were not provided: <DIR>"),
            (&["--storage"], "a value is required for '--storage <KIND>' but none was supplied"),
            (&["serv"], "unrecognized subcommand 'serv'; tip: a similar subcommand exists: 'serve'"),
        ] {
            assert_eq!(refusal(words), expected);
        }
    }
}
