//! Exchanges and bindings: where a message goes.

pub mod destinations;
pub mod trie;
