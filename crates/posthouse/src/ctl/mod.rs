//! `posthouse ctl`: administration of a running broker over its control socket.
//!
//! The commands, their arguments and the tables they print are rabbitmqctl's, so that scripts carry over. Exit codes are
//! those of the command line: 1 when the broker is not running or refuses, 2 when the request itself is wrong.

mod client;
mod commands;
mod definitions;
mod options;
mod steps;
mod table;
#[cfg(test)]
mod tests;

use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli;
use crate::config::{self, Flag};

use client::CtlError;
use commands::{Answer, Command};
use options::{Formatter, Request};

/// Arguments of `posthouse ctl`.
#[derive(clap::Args, Debug)]
#[command(disable_help_flag = true)]
pub(crate) struct CtlArgs {
    /// A command of RabbitMQ's name (list_queues, add_user, ...) and its arguments; "help" lists all
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<String>,
}

/// Sends one command to the broker and prints its answer.
pub(crate) fn run(args: CtlArgs) -> ExitCode {
    let request = match options::parse(args.words) {
        Ok(Some(request)) => request,
        Ok(None) => return cli::print(&commands::help()),
        Err(problem) => return cli::fail(cli::USAGE, format_args!("ctl: {problem}")),
    };
    let done = carry_out(request);
    match done {
        Ok(text) => cli::print(&text),
        Err(CtlError::Usage(problem)) => cli::fail(cli::USAGE, format_args!("ctl: {problem}")),
        Err(CtlError::State(problem)) => cli::fail(cli::STATE, format_args!("ctl: {problem}")),
    }
}

fn carry_out(mut request: Request) -> Result<String, CtlError> {
    if request.command.takes_password() && !request.args.contains_key("password") {
        request.args.insert("password".into(), Value::from(read_password()?));
    }
    let path = socket_path(&request)?;
    match request.command.answer {
        Answer::Document => definitions::export(&request, &path),
        Answer::Imported => definitions::import(&request, &path),
        Answer::Steps(said) => steps::run(&request, &path, said),
        _ => {
            let args = Value::Object(request.args.clone());
            let answer = match request.command.name {
                name @ "convert_queue" => {
                    client::ask_for_long(&path, name, args, &mut || is_converting(&request, &path))?
                }
                name => client::ask(&path, name, args, &[])?,
            };
            Ok(show(&request, &answer))
        }
    }
}

/// Whether the queue is still being converted: what it has not kept yet is written, which takes as long as it is much.
fn is_converting(request: &Request, path: &Path) -> bool {
    let queues = client::ask(path, "list_queues", json!({"vhost": request.vhost()}), &[]);
    let rows = queues.ok().and_then(|rows| rows.as_array().cloned()).unwrap_or_default();
    rows.iter().any(|row| Some(&row["name"]) == request.args.get("name") && row["state"] == "converting")
}

/// Where the broker's control socket is, by the settings it was started with.
fn socket_path(request: &Request) -> Result<PathBuf, CtlError> {
    if let Some(path) = &request.control_socket {
        return Ok(path.into());
    }
    let data_dir = request.data_dir.clone().map(|dir| Flag {
        flag: "--data-dir",
        section: "server",
        key: "data_dir",
        values: vec![dir],
    });
    let explicit = data_dir.is_some();
    let flags = data_dir.into_iter().collect();
    let file = request.config.as_deref().map(std::path::Path::new);
    let loaded = config::load(file, std::env::vars_os(), flags, config::Machine::detect())
        .map_err(|error| CtlError::Usage(error.to_string()))?;
    let server = loaded.settings.server;
    let in_data_dir = || server.data_dir.join(posthouse_server::control::FILE_NAME);
    Ok(if explicit { in_data_dir() } else { server.control_path().unwrap_or_else(in_data_dir) })
}

fn read_password() -> Result<String, CtlError> {
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    read.map_err(|error| CtlError::State(format!("cannot read the password from standard input: {error}")))?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(CtlError::Usage("expected a password as argument or on standard input, got none".into()));
    }
    Ok(password.to_owned())
}

fn show(request: &Request, answer: &Value) -> String {
    let columns = &request.columns;
    let aligned = std::io::stdout().is_terminal();
    match (request.formatter, request.command.answer) {
        (Formatter::Json, Answer::Rows { .. }) => {
            format!("{}\n", table::selected(columns, answer))
        }
        (Formatter::Json, _) if answer.is_null() => "{}\n".to_owned(),
        (Formatter::Json, _) => format!("{answer}\n"),
        (Formatter::Table, Answer::Rows { title, .. }) => {
            let mut text = String::new();
            if !request.quiet {
                text = format!("{}\n", title.replace("{vhost}", request.vhost()));
            }
            text + &table::table(columns, answer, request.headers, aligned)
        }
        (Formatter::Table, Answer::Status) => table::facts(commands::STATUS, answer),
        (Formatter::Table, Answer::Done(said)) if !request.quiet => said_of(said, request, answer),
        // The last three are shown where they are carried out.
        (Formatter::Table, Answer::Done(_) | Answer::Document | Answer::Imported | Answer::Steps(_)) => {
            String::new()
        }
    }
}

/// The sentence with what it names filled in.
fn said_of(said: &str, request: &Request, answer: &Value) -> String {
    let mut text = said.replace("{vhost}", request.vhost());
    for (name, value) in &request.args {
        if name != "password" {
            text = text.replace(&format!("{{{name}}}"), &table::cell(value));
        }
    }
    for fact in ["messages", "connections", "from"] {
        text = text.replace(&format!("{{{fact}}}"), &table::cell(&answer[fact]));
    }
    text + "\n"
}

/// For messages: what the command is called like.
fn usage_of(command: &Command) -> String {
    format!("usage: posthouse ctl {}", command.usage())
}
