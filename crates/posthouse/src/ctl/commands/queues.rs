//! Queues and what is in them.

use super::{Answer, Command, CtlOption, DONE, OptionKind, Rest};

/// In the order of `help`.
pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "list_queues",
        vhost: true,
        rest: Rest::Columns,
        answer: Answer::Rows {
            title: "Listing queues for vhost {vhost} ...",
            shown: &["name", "messages"],
            columns: &[
                "name",
                "durable",
                "durability",
                "auto_delete",
                "exclusive",
                "arguments",
                "policy",
                "operator_policy",
                "effective_policy_definition",
                "messages",
                "messages_ready",
                "messages_unacknowledged",
                "messages_delayed",
                "messages_dlx",
                "consumers",
                "memory",
                "type",
                "state",
                "vhost",
                "owner_connection",
                "single_active_consumer_tag",
                "single_active_consumer_pid",
                "messages_published",
                "messages_delivered",
                "messages_redelivered",
                "messages_acknowledged",
                "messages_maxlen",
                "messages_expired",
                "messages_rejected",
                "messages_dlx_dropped",
                "messages_delivery_limit",
                "messages_duplicate",
            ],
        },
        about: "queues; memory is bytes, the last ones count since the start",
        ..DONE
    },
    Command {
        name: "delete_queue",
        positional: &["name"],
        vhost: true,
        flags: &["if_empty", "if_unused"],
        answer: Answer::Done("Deleted queue '{name}' on vhost '{vhost}' with {messages} ready messages"),
        about: "delete a queue",
        ..DONE
    },
    Command {
        name: "convert_queue",
        positional: &["name"],
        vhost: true,
        options: CONVERT_OPTIONS,
        answer: Answer::Done("Queue '{name}' in vhost '{vhost}' is a {to} queue now; it was a {from} queue"),
        about: "make a classic queue a quorum queue, or back, with its messages and consumers",
        ..DONE
    },
    Command {
        name: "purge_queue",
        positional: &["name"],
        vhost: true,
        answer: Answer::Done("Purged {messages} messages from queue '{name}' in vhost '{vhost}'"),
        about: "delete a queue's ready messages",
        ..DONE
    },
    Command {
        name: "purge_messages",
        positional: &["name"],
        vhost: true,
        options: STEP_OPTIONS,
        answer: Answer::Steps("Purged {messages} messages from queue '{name}' in vhost '{vhost}'"),
        about: "delete those of a queue's ready messages that match a filter",
        ..DONE
    },
    Command {
        name: "redrive_queue",
        positional: &["name"],
        vhost: true,
        options: STEP_OPTIONS,
        answer: Answer::Steps("Redrove {messages} messages of queue '{name}' in vhost '{vhost}'"),
        about: "give dead letters back to the queues that they come from",
        ..DONE
    },
    Command {
        name: "move_messages",
        positional: &["name", "to"],
        vhost: true,
        options: STEP_OPTIONS,
        answer: Answer::Steps("Moved {messages} messages from queue '{name}' to '{to}' in vhost '{vhost}'"),
        about: "move ready messages to another queue; a rate is messages per second",
        ..DONE
    },
    Command {
        name: "copy_messages",
        positional: &["name", "to"],
        vhost: true,
        options: STEP_OPTIONS,
        answer: Answer::Steps("Copied {messages} messages from queue '{name}' to '{to}' in vhost '{vhost}'"),
        about: "copy ready messages to another queue",
        ..DONE
    },
    Command {
        name: "browse_queue",
        positional: &["name"],
        vhost: true,
        options: BROWSE_OPTIONS,
        rest: Rest::Columns,
        answer: Answer::Rows {
            title: "Browsing a queue in vhost \"{vhost}\" ...",
            shown: &["position", "redelivered", "routing_key", "payload_bytes", "payload"],
            columns: &[
                "position",
                "number",
                "redelivered",
                "delayed_until",
                "exchange",
                "routing_key",
                "received_at",
                "properties",
                "payload_bytes",
                "payload",
                "payload_encoding",
                "truncated",
            ],
        },
        about: "show messages that are ready or delayed and leave them as they are; a filter is NAME or NAME=VALUE, where NAME is \
                exchange, routing_key, headers.KEY or a property, or sql: and a selector",
        ..DONE
    },
    Command {
        name: "list_scheduled",
        vhost: true,
        options: SCHEDULED_OPTIONS,
        rest: Rest::Columns,
        answer: Answer::Rows {
            title: "Listing scheduled messages for vhost {vhost} ...",
            shown: &["id", "due_at", "exchange", "routing_key", "payload_bytes"],
            columns: &[
                "id",
                "due_at",
                "exchange",
                "routing_key",
                "persistent",
                "properties",
                "payload_bytes",
            ],
        },
        about: "messages that wait for a time, those that are due first",
        ..DONE
    },
    Command {
        name: "cancel_scheduled",
        vhost: true,
        options: CANCEL_OPTIONS,
        answer: Answer::Done("Cancelled {messages} scheduled messages in vhost '{vhost}'"),
        about: "delete messages that wait for a time: one by its id, or those that match a filter",
        ..DONE
    },
];

const SCHEDULED_OPTIONS: &[CtlOption] = &[
    CtlOption { name: "count", kind: OptionKind::Number, default: None },
    CtlOption { name: "due_at", kind: OptionKind::Number, default: None },
    CtlOption { name: "filter", kind: OptionKind::Text, default: None },
];

const CANCEL_OPTIONS: &[CtlOption] = &[
    CtlOption { name: "id", kind: OptionKind::Text, default: None },
    CtlOption { name: "due_at", kind: OptionKind::Number, default: None },
    CtlOption { name: "filter", kind: OptionKind::Text, default: None },
];

const CONVERT_OPTIONS: &[CtlOption] = &[CtlOption { name: "to", kind: OptionKind::Text, default: None }];

const STEP_OPTIONS: &[CtlOption] = &[
    CtlOption { name: "filter", kind: OptionKind::Text, default: None },
    CtlOption { name: "count", kind: OptionKind::Number, default: None },
    CtlOption { name: "rate", kind: OptionKind::Number, default: None },
];

const BROWSE_OPTIONS: &[CtlOption] = &[
    CtlOption { name: "skip", kind: OptionKind::Number, default: None },
    CtlOption { name: "count", kind: OptionKind::Number, default: None },
    CtlOption { name: "filter", kind: OptionKind::Text, default: None },
    CtlOption { name: "body_bytes", kind: OptionKind::Number, default: None },
];
