//! When messages that wait for a time are due.
//!
//! They wait in a queue that nobody consumes from. Its levels are the slots of a *wheel* ([wheel]): a message enters the
//! level of the slot that its time falls into, the wider the farther away that is. Of a slot nothing is known but when it
//! begins, so that memory does not grow with messages. Shortly before a slot begins, the [`Agenda`] has it read: a slot
//! with few messages is noted message by message, one with many is taken apart into finer slots. Those that are due and find
//! no room where they go stand in lines until there is some.

mod agenda;
mod lines;
pub mod wheel;

pub use agenda::{Agenda, Fate, Pass, Step, Waiting};
