//! Text that clients chose, for people to read on one line: a line break or an escape sequence in a name must not pass for
//! the broker's own words, or move the cursor of the terminal that it is shown on.

use std::fmt::{self, Write};

/// The text with control characters as escapes.
pub(crate) fn escaped(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    // Writing to a string does not fail.
    let _ = OneLine(&mut written).write_str(text);
    written
}

/// Writes control characters as escapes.
pub(crate) struct OneLine<W>(pub(crate) W);

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
            assert_eq!(escaped(text), expected, "{text:?}");
        }
    }
}
