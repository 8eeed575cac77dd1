//! A running broker as its clients see it: one file per behaviour.

#![allow(
    clippy::unwrap_used,
    reason = "a helper that panics is a test that fails, as in the tests themselves"
)]

mod behaviour;
mod durability;
mod misbehaviour;
