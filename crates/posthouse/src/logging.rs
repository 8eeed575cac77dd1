//! The log on standard error: one line for each event, whatever is in it.
//!
//! Clients choose much of what is logged: names of users who fail to log in, of connections, queues and exchanges. Were it
//! written as it comes, a line break in a name would let anyone who reaches the port write lines of their own.

use std::fmt::{self, Write};
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::debug_fn;

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

/// Writes control characters as escapes.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive(is_unwanted) {
            let plain = piece.trim_end_matches(is_unwanted);
            self.0.write_str(plain)?;
            piece[plain.len()..]
                .chars()
                .try_for_each(|unwanted| write!(self.0, "{}", unwanted.escape_default()))?;
        }
        Ok(())
    }
}

/// Control characters, and what some viewers take for the end of a line.
fn is_unwanted(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_end_a_line_or_move_the_cursor_is_escaped() {
        for (text, expected) in [
            ("", ""),
            ("queue 'a b' \u{e9}\u{4e2d}", "queue 'a b' \u{e9}\u{4e2d}"),
            ("a\nb\r\n", "a\\nb\\r\\n"),
            ("\n\n", "\\n\\n"),
            ("\u{1b}[31mred\u{9b}2J\u{7f}\t", "\\u{1b}[31mred\\u{9b}2J\\u{7f}\\t"),
            ("a\u{2028}b\u{85}", "a\\u{2028}b\\u{85}"),
        ] {
            let mut written = String::new();
            OneLine(&mut written).write_str(text).unwrap();
            assert_eq!(written, expected, "{text:?}");
        }
    }
}
