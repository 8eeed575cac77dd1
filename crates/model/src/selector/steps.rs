//! How much work comparing a message with selectors may be.
//!
//! A selector has some thousand names, patterns and literals at most, a message some ten thousand headers and a text of a
//! hundred thousand bytes: comparing every one with every other takes a tenth of a second, and an exchange may have any
//! number of selectors. So what it takes is counted, roughly, and comes to an end.

use std::cell::Cell;

/// Steps that are left: looking at one header, one literal, one operation, or comparing one character with a pattern.
#[derive(Debug)]
pub struct Steps(Cell<Option<usize>>);

impl Steps {
    /// What comparing one message with one selector may take: a few milliseconds.
    pub const OF_A_SELECTOR: usize = 500_000;
    /// What comparing one message with all selectors that it meets on its way may take: some tens of milliseconds.
    pub const OF_A_MESSAGE: usize = 10_000_000;

    /// So many are left.
    pub fn new(left: usize) -> Self {
        Self(Cell::new(Some(left)))
    }

    /// Whether there are any.
    pub fn are_left(&self) -> bool {
        self.left() > 0
    }

    /// Whether more were asked for than there were.
    pub(super) fn are_used_up(&self) -> bool {
        self.0.get().is_none()
    }

    /// Takes some, or what is left when that is not enough; then it is false, and nothing is left.
    pub(super) fn take(&self, count: usize) -> bool {
        self.0.set(self.0.get().and_then(|left| left.checked_sub(count)));
        !self.are_used_up()
    }

    fn left(&self) -> usize {
        self.0.get().unwrap_or(0)
    }

    /// Takes so many out, if there are, to be used on their own.
    pub(super) fn share(&self, most: usize) -> Self {
        let share = self.left().min(most);
        self.take(share);
        Self::new(share)
    }

    /// What is left of a share.
    pub(super) fn take_back(&self, share: Self) {
        self.0.set(self.0.get().map(|left| left + share.left()));
    }
}

impl Default for Steps {
    fn default() -> Self {
        Self::new(Self::OF_A_MESSAGE)
    }
}
