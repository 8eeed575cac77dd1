//! The log on standard error: one line for each event, whatever is in it.
//!
//! Clients choose much of what is logged: names of users who fail to log in, of connections, queues and exchanges. Were it
//! written as it comes, a line break in a name would let anyone who reaches the port write lines of their own.

use std::fmt::Write;
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::debug_fn;

use crate::one_line::OneLine;

/// Begins to log what the filter lets through; it must have been checked when the settings were read.
pub(crate) fn start(filter: &str) {
    // Colours are for people: files and pipes get plain text.
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .fmt_fields(fields())
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        .init();
}

/// Writes an event's message and then its fields as `name=value`.
fn fields() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    debug_fn(|writer, field, value| match field.name() {
        "message" => write!(OneLine(writer), "{value:?}"),
        name => write!(OneLine(writer), "{name}={value:?}"),
    })
    .delimited(" ")
}
