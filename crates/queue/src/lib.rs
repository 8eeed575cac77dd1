//! Exchanges, bindings and queues as deterministic state machines.
//!
//! No lock, no file, no socket, no clock: what happens is decided by the calls alone.

mod header_value;
pub mod kind;
pub mod machine;
pub mod schedule;
pub mod seen;
pub mod stream;
pub mod topology;
