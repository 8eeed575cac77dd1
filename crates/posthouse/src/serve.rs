//! Running the broker from its settings until it is told to stop.

use std::process::ExitCode;

use crate::cli;
use crate::config::Settings;

/// Runs the broker until SIGTERM or SIGINT. Exit code 0 after an orderly stop, 1 when the state of the machine or
/// of the data directory forbids starting.
pub(crate) fn serve(settings: Settings) -> ExitCode {
    let dir = settings.server.data_dir.display();
    cli::fail(cli::STATE, format_args!("serve: this build has no broker in it (data directory {dir})"))
}
