//! Exchanges, bindings and queues as deterministic state machines.

pub mod topology;
