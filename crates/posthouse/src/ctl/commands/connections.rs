//! Connections and channels.

use super::{Answer, Command, DONE, Rest};

/// In the order of `help`.
pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "list_connections",
        rest: Rest::Columns,
        answer: Answer::Rows {
            title: "Listing connections ...",
            shown: &["user", "peer_host", "peer_port", "state"],
            columns: CONNECTION_COLUMNS,
        },
        about: "connections; channels is how many are open",
        ..DONE
    },
    Command {
        name: "list_channels",
        rest: Rest::Columns,
        answer: Answer::Rows {
            title: "Listing channels ...",
            shown: &["pid", "user", "consumer_count", "messages_unacknowledged"],
            columns: CHANNEL_COLUMNS,
        },
        about: "channels of all connections; connection is the pid of list_connections",
        ..DONE
    },
    Command {
        name: "close_connection",
        positional: &["name", "reason"],
        answer: Answer::Done("Closing connection {name}, reason: {reason}..."),
        about: "close the connection of that name or pid",
        ..DONE
    },
    Command {
        name: "close_all_connections",
        positional: &["reason"],
        vhost: true,
        answer: Answer::Done("Closed {connections} connections, reason: {reason}"),
        about: "close all connections, or with -p those of a virtual host",
        ..DONE
    },
];

const CONNECTION_COLUMNS: &[&str] = &[
    "pid",
    "name",
    "user",
    "vhost",
    "state",
    "throttled_by",
    "peer_host",
    "peer_port",
    "host",
    "port",
    "channels",
    "protocol",
    "connected_at",
    "client_properties",
];

const CHANNEL_COLUMNS: &[&str] = &[
    "pid",
    "connection",
    "name",
    "number",
    "user",
    "vhost",
    "transactional",
    "confirm",
    "consumer_count",
    "messages_unacknowledged",
    "messages_uncommitted",
    "acks_uncommitted",
    "messages_unconfirmed",
    "prefetch_count",
    "global_prefetch_count",
];
