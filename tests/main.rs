//! A running broker as its clients see it: one file per behaviour.

mod behaviour;
mod durability;
mod misbehaviour;
