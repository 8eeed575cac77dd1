//! AMQP 0-9-1 connections.
//!
//! [`connection`] reads and writes the socket, [`handshake`] opens a connection, [`session`] is an open one. The other
//! modules are parts of a session: one subject each.

mod attempts;
mod channel;
mod confirms;
pub(crate) mod connection;
mod consume_methods;
mod consumer;
mod deadlines;
mod deliver;
mod duplicates;
mod events;
mod exchange_methods;
mod firehose;
mod get;
mod handshake;
mod heartbeat;
mod history;
mod io;
mod later;
mod methods;
mod outbox;
mod pause;
mod publish;
mod queue_methods;
mod quota;
mod reply_to;
mod report;
mod routes;
mod session;
#[cfg(test)]
mod session_tests;
mod settling;
mod special;
mod streams;
mod tx;
mod unacked;
