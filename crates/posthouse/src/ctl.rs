//! `posthouse ctl`: administration of a running broker over its control socket.

use std::process::ExitCode;

use crate::cli;

/// Arguments of `posthouse ctl`.
#[derive(clap::Args, Debug)]
pub(crate) struct CtlArgs {
    /// A command of RabbitMQ's name (list_queues, add_user, ...) and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<String>,
}

/// Sends one command to the broker and prints its answer.
pub(crate) fn run(args: &CtlArgs) -> ExitCode {
    let command = args.words.first().map_or("", String::as_str);
    cli::fail(cli::USAGE, format_args!("ctl: {command:?} is not a command of this build"))
}
