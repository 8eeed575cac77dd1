//! One running broker, without protocol and without sockets: virtual hosts, publishing, delivering, settling,
//! definitions, watermarks.

pub mod admin;
pub mod alarms;
pub mod broker;
pub mod browse;
pub mod clock;
pub mod connections;
pub mod convert;
pub mod dead_letters;
pub mod deadlines;
pub mod declare;
pub mod definitions;
pub mod deliver;
pub mod draws;
pub mod events;
pub mod expiry;
pub mod history;
pub mod listings;
pub mod message_filter;
pub mod metadata;
pub mod owner;
pub mod policies;
pub mod positions;
mod priorities;
pub mod publish;
pub mod queue_handle;
pub mod queue_setup;
pub mod quotas;
pub mod records;
pub mod relocate;
pub mod residency;
mod room;
pub mod schedule;
pub mod seen;
pub mod start;
pub mod streams;
pub mod survey;
pub mod timers;
mod transfer;
mod unique;
mod unknown_arguments;
pub mod vhost;
pub mod waker;
mod workers;

/// What this node is called where RabbitMQ's formats want the name of a node.
pub const NODE_NAME: &str = "posthouse@localhost";
