//! The nouns every Posthouse crate shares: identifiers, message records and chunks, field tables, content
//! headers, and the one table of client-visible errors.
//!
//! Plain data. This crate knows no clock, no file, no socket and no randomness. The one thing that is shared between
//! threads is a small store of [buffers] that are used again.

pub mod args;
pub mod attempts;
pub mod bitmap;
pub mod buffers;
pub mod chunk;
pub mod deaths;
pub mod delay;
pub mod delayed_retry;
pub mod delays;
pub mod durability;
pub mod errors;
pub mod exchange;
pub mod exchange_args;
pub mod field;
pub mod former_levels;
pub mod header_entries;
pub mod ids;
pub mod limits;
pub mod name;
pub mod named_props;
pub mod policy;
pub mod priorities;
pub mod props;
pub mod queue_settings;
pub mod raw_table;
pub mod record;
pub mod reply;
pub mod selector;
pub mod shares;
pub mod stream_args;
