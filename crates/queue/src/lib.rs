//! Exchanges, bindings and queues as deterministic state machines.
