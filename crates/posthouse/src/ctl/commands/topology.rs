//! Exchanges, bindings and consumers.

use super::{Answer, Command, DONE, Rest};

/// In the order of `help`.
pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "list_exchanges",
        vhost: true,
        rest: Rest::Columns,
        answer: Answer::Rows {
            title: "Listing exchanges for vhost {vhost} ...",
            shown: &["name", "type"],
            columns: &[
                "name",
                "type",
                "durable",
                "auto_delete",
                "internal",
                "arguments",
                "policy",
                "operator_policy",
                "effective_policy_definition",
                "vhost",
            ],
        },
        about: "exchanges",
        ..DONE
    },
    Command {
        name: "list_bindings",
        vhost: true,
        rest: Rest::Columns,
        answer: Answer::Rows {
            title: "Listing bindings for vhost {vhost}...",
            shown: BINDING_COLUMNS,
            columns: &[
                "source_name",
                "source_kind",
                "destination_name",
                "destination_kind",
                "routing_key",
                "arguments",
                "vhost",
            ],
        },
        about: "bindings",
        ..DONE
    },
    Command {
        name: "list_consumers",
        vhost: true,
        rest: Rest::Columns,
        answer: Answer::Rows {
            title: "Listing consumers in vhost {vhost} ...",
            shown: &[
                "queue_name",
                "channel_pid",
                "consumer_tag",
                "ack_required",
                "prefetch_count",
                "active",
                "arguments",
            ],
            columns: CONSUMER_COLUMNS,
        },
        about: "consumers",
        ..DONE
    },
];

const BINDING_COLUMNS: &[&str] =
    &["source_name", "source_kind", "destination_name", "destination_kind", "routing_key", "arguments"];

const CONSUMER_COLUMNS: &[&str] = &[
    "queue_name",
    "channel_pid",
    "connection",
    "channel",
    "consumer_tag",
    "ack_required",
    "prefetch_count",
    "active",
    "activity_status",
    "consumer_timeout",
    "exclusive",
    "priority",
    "arguments",
    "consumer",
    "vhost",
];
