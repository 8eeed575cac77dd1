//! The commands: names, arguments, columns and sentences.

use std::fmt::Write;

/// One command.
#[derive(Debug)]
pub(crate) struct Command {
    /// rabbitmqctl's name, which is also its name on the control socket.
    pub(crate) name: &'static str,
    /// Names of its arguments on the control socket, in rabbitmqctl's order.
    pub(crate) positional: &'static [&'static str],
    /// What may follow those.
    pub(crate) rest: Rest,
    /// Whether it takes `-p VHOST`.
    pub(crate) vhost: bool,
    /// Options of its own that take a value.
    pub(crate) options: &'static [CtlOption],
    /// Flags of its own, such as `if_empty` for `--if-empty`.
    pub(crate) flags: &'static [&'static str],
    /// What it answers.
    pub(crate) answer: Answer,
    /// What it does, in one line.
    pub(crate) about: &'static str,
}

/// An option with a value.
#[derive(Debug)]
pub(crate) struct CtlOption {
    /// Its name on the control socket, such as `apply_to` for `--apply-to`.
    pub(crate) name: &'static str,
    /// What it is.
    pub(crate) kind: OptionKind,
    /// Its value when it is not given; none leaves it out.
    pub(crate) default: Option<&'static str>,
}

/// What an option's value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OptionKind {
    /// Any text.
    Text,
    /// A whole number.
    Number,
}

impl CtlOption {
    /// As it is written on the command line.
    pub(crate) fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }
}

/// What may follow the arguments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rest {
    /// Nothing.
    None,
    /// The last argument may be missing: it is read from standard input.
    Password,
    /// Any number of words that make a list of that name.
    List(&'static str),
    /// Names of columns.
    Columns,
}

/// What a command answers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// A sentence.
    Done(&'static str),
    /// A table.
    Rows {
        /// The line above the table.
        title: &'static str,
        /// The columns shown unless others are named.
        shown: &'static [&'static str],
        /// All columns.
        columns: &'static [&'static str],
    },
    /// The broker's state.
    Status,
}

impl Command {
    /// Whether its last argument is a password, which may come from standard input.
    pub(crate) fn takes_password(&self) -> bool {
        self.rest == Rest::Password
    }

    /// Its arguments as a manual writes them.
    pub(crate) fn usage(&self) -> String {
        let mut text = self.name.to_owned();
        if self.vhost {
            text += " [-p VHOST]";
        }
        for option in self.options {
            // Writing to a string cannot fail.
            let _ = write!(text, " [{} {}]", option.flag(), option.name.to_uppercase());
        }
        for flag in self.flags {
            let _ = write!(text, " [--{}]", flag.replace('_', "-"));
        }
        for (index, name) in self.positional.iter().enumerate() {
            let optional = self.takes_password() && index + 1 == self.positional.len();
            let name = name.to_uppercase();
            let _ = if optional { write!(text, " [{name}]") } else { write!(text, " {name}") };
        }
        match self.rest {
            Rest::List(name) => text += &format!(" [{}...]", name.trim_end_matches('s').to_uppercase()),
            Rest::Columns => text += " [COLUMN...]",
            Rest::None | Rest::Password => {}
        }
        text
    }
}

/// The command of that name.
pub(crate) fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

/// Whether this is an option of some command that takes a value.
pub(crate) fn takes_value(flag: &str) -> bool {
    COMMANDS.iter().flat_map(|command| command.options).any(|option| option.flag() == flag)
}

/// All commands and options.
pub(crate) fn help() -> String {
    let mut text = String::from("posthouse ctl [OPTIONS] COMMAND [ARGUMENTS]\n\nCommands:\n");
    for command in COMMANDS {
        let _ = writeln!(text, "  {}\n      {}", command.usage(), command.about);
    }
    text += "\nOptions, before or after the command:\n\
        \x20 --data-dir DIR          data directory of the broker (default: as for serve)\n\
        \x20 --config FILE           configuration file of the broker, which says where both are\n\
        \x20 --control-socket PATH   control socket of the broker, when it is elsewhere\n\
        \x20 --columns A,B,..        columns of a table, instead of naming them as arguments\n\
        \x20 --formatter NAME        table or json\n\
        \x20 -q, --quiet             no sentences, tables and errors only\n\
        \x20 -s, --silent            as --quiet, and no column names\n";
    text
}

const DONE: Command = Command {
    name: "",
    positional: &[],
    rest: Rest::None,
    vhost: false,
    options: &[],
    flags: &[],
    answer: Answer::Done(""),
    about: "",
};

const BROWSE_OPTIONS: &[CtlOption] = &[
    CtlOption { name: "skip", kind: OptionKind::Number, default: None },
    CtlOption { name: "count", kind: OptionKind::Number, default: None },
    CtlOption { name: "filter", kind: OptionKind::Text, default: None },
    CtlOption { name: "body_bytes", kind: OptionKind::Number, default: None },
];

const PERMISSIONS: &[&str] = &["user", "vhost", "configure", "write", "read"];

/// In the order of `help`.
pub(crate) const COMMANDS: &[Command] = &[
    Command {
        name: "add_user",
        positional: &["name", "password"],
        rest: Rest::Password,
        answer: Answer::Done(
            "Adding user \"{name}\" ...\nDone. Give the user permissions with set_permissions.",
        ),
        about: "add a user; without PASSWORD it is read from standard input",
        ..DONE
    },
    Command {
        name: "delete_user",
        positional: &["name"],
        answer: Answer::Done("Deleting user \"{name}\" ..."),
        about: "delete a user and close their connections",
        ..DONE
    },
    Command {
        name: "change_password",
        positional: &["name", "password"],
        rest: Rest::Password,
        answer: Answer::Done("Changing password for user \"{name}\" ..."),
        about: "give a user another password",
        ..DONE
    },
    Command {
        name: "clear_password",
        positional: &["name"],
        answer: Answer::Done("Clearing password for user \"{name}\" ..."),
        about: "no login with a password any more",
        ..DONE
    },
    Command {
        name: "authenticate_user",
        positional: &["name", "password"],
        rest: Rest::Password,
        answer: Answer::Done("Authenticating user \"{name}\" ...\nSuccess"),
        about: "check a password",
        ..DONE
    },
    Command {
        name: "set_user_tags",
        positional: &["name"],
        rest: Rest::List("tags"),
        answer: Answer::Done("Setting tags for user \"{name}\" to {tags} ..."),
        about: "replace a user's tags",
        ..DONE
    },
    Command {
        name: "list_users",
        rest: Rest::Columns,
        answer: Answer::Rows {
            title: "Listing users ...",
            shown: &["user", "tags"],
            columns: &["user", "tags"],
        },
        about: "users and their tags",
        ..DONE
    },
    Command {
        name: "set_permissions",
        positional: &["user", "configure", "write", "read"],
        vhost: true,
        answer: Answer::Done("Setting permissions for user \"{user}\" in vhost \"{vhost}\" ..."),
        about: "three patterns of names: what may be declared, written to, read from",
        ..DONE
    },
    Command {
        name: "clear_permissions",
        positional: &["user"],
        vhost: true,
        answer: Answer::Done("Clearing permissions for user \"{user}\" in vhost \"{vhost}\" ..."),
        about: "take a user's permissions away",
        ..DONE
    },
    Command {
        name: "list_permissions",
        vhost: true,
        rest: Rest::Columns,
        answer: Answer::Rows {
            title: "Listing permissions for vhost \"{vhost}\" ...",
            shown: &["user", "configure", "write", "read"],
            columns: PERMISSIONS,
        },
        about: "permissions in a virtual host",
        ..DONE
    },
    Command {
        name: "list_user_permissions",
        positional: &["user"],
        rest: Rest::Columns,
        answer: Answer::Rows {
            title: "Listing permissions of a user ...",
            shown: &["vhost", "configure", "write", "read"],
            columns: PERMISSIONS,
        },
        about: "permissions of a user",
        ..DONE
    },
    Command {
        name: "add_vhost",
        positional: &["name"],
        options: VHOST_OPTIONS,
        answer: Answer::Done("Adding vhost \"{name}\" ..."),
        about: "add a virtual host",
        ..DONE
    },
    Command {
        name: "delete_vhost",
        positional: &["name"],
        answer: Answer::Done("Deleting vhost \"{name}\" ..."),
        about: "delete a virtual host with its queues and messages, and close its connections",
        ..DONE
    },
    Command {
        name: "trace_on",
        vhost: true,
        answer: Answer::Done("Starting tracing for vhost \"{vhost}\" ...\nTrace enabled for vhost {vhost}"),
        about: "copy what is published and delivered to amq.rabbitmq.trace, until trace_off or a restart",
        ..DONE
    },
    Command {
        name: "trace_off",
        vhost: true,
        answer: Answer::Done("Stopping tracing for vhost \"{vhost}\" ...\nTrace disabled for vhost {vhost}"),
        about: "stop the copying that trace_on started",
        ..DONE
    },
    Command {
        name: "list_vhosts",
        rest: Rest::Columns,
        answer: Answer::Rows { title: "Listing vhosts ...", shown: &["name"], columns: VHOST_COLUMNS },
        about: "virtual hosts",
        ..DONE
    },
    Command {
        name: "update_vhost_metadata",
        positional: &["name"],
        options: VHOST_OPTIONS,
        answer: Answer::Done("Updating metadata of vhost \"{name}\" ..."),
        about: "change what is noted about a virtual host",
        ..DONE
    },
    Command {
        name: "set_vhost_tags",
        positional: &["name"],
        rest: Rest::List("tags"),
        answer: Answer::Done("Setting tags for virtual host \"{name}\" to {tags} ..."),
        about: "replace a virtual host's tags",
        ..DONE
    },
    Command {
        name: "enable_vhost_deletion_protection",
        positional: &["name"],
        answer: Answer::Done("Protecting vhost \"{name}\" from deletion ..."),
        about: "refuse to delete a virtual host from now on",
        ..DONE
    },
    Command {
        name: "disable_vhost_deletion_protection",
        positional: &["name"],
        answer: Answer::Done("Removing deletion protection from vhost \"{name}\" ..."),
        about: "let a virtual host be deleted again",
        ..DONE
    },
    Command {
        name: "set_vhost_limits",
        positional: &["limits"],
        vhost: true,
        answer: Answer::Done("Setting vhost limits to \"{limits}\" for vhost \"{vhost}\" ..."),
        about: "limits, a JSON object of max-connections and max-queues; -1 for none",
        ..DONE
    },
    Command {
        name: "clear_vhost_limits",
        vhost: true,
        answer: Answer::Done("Clearing vhost \"{vhost}\" limits ..."),
        about: "lift a virtual host's limits",
        ..DONE
    },
    Command {
        name: "list_vhost_limits",
        rest: Rest::Columns,
        answer: Answer::Rows {
            title: "Listing limits for all vhosts ...",
            shown: &["vhost", "limits"],
            columns: &["vhost", "limits"],
        },
        about: "limits of virtual hosts that have any",
        ..DONE
    },
    Command {
        name: "set_user_limits",
        positional: &["user", "limits"],
        answer: Answer::Done("Setting user limits to \"{limits}\" for user \"{user}\" ..."),
        about: "limits, a JSON object of max-connections and max-channels; -1 for none",
        ..DONE
    },
    Command {
        name: "clear_user_limits",
        positional: &["user", "limit"],
        answer: Answer::Done("Clearing \"{limit}\" limit for user \"{user}\" ..."),
        about: "lift the limit of that name, or all",
        ..DONE
    },
    Command {
        name: "list_user_limits",
        rest: Rest::Columns,
        answer: Answer::Rows {
            title: "Listing limits for all users ...",
            shown: &["user", "limits"],
            columns: &["user", "limits"],
        },
        about: "limits of users that have any",
        ..DONE
    },
    Command {
        name: "set_topic_permissions",
        positional: &["user", "exchange", "write", "read"],
        vhost: true,
        answer: Answer::Done(
            "Setting topic permissions on \"{exchange}\" for user \"{user}\" in vhost \"{vhost}\" ...",
        ),
        about: "two patterns of routing keys: what may be published and bound in a topic exchange",
        ..DONE
    },
    Command {
        name: "clear_topic_permissions",
        positional: &["user"],
        rest: Rest::List("exchanges"),
        vhost: true,
        answer: Answer::Done("Clearing topic permissions for user \"{user}\" in vhost \"{vhost}\" ..."),
        about: "take them away, in these exchanges or all",
        ..DONE
    },
    Command {
        name: "list_topic_permissions",
        rest: Rest::Columns,
        vhost: true,
        answer: Answer::Rows {
            title: "Listing topic permissions for vhost \"{vhost}\" ...",
            shown: &["user", "exchange", "write", "read"],
            columns: TOPIC_COLUMNS,
        },
        about: "topic permissions in a virtual host",
        ..DONE
    },
    Command {
        name: "list_user_topic_permissions",
        positional: &["user"],
        rest: Rest::Columns,
        answer: Answer::Rows {
            title: "Listing topic permissions of a user ...",
            shown: &["vhost", "exchange", "write", "read"],
            columns: TOPIC_COLUMNS,
        },
        about: "topic permissions of a user",
        ..DONE
    },
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
                "auto_delete",
                "exclusive",
                "arguments",
                "policy",
                "operator_policy",
                "effective_policy_definition",
                "messages",
                "messages_ready",
                "messages_unacknowledged",
                "consumers",
                "memory",
                "type",
                "state",
                "vhost",
                "owner_connection",
                "messages_published",
                "messages_delivered",
                "messages_redelivered",
                "messages_acknowledged",
                "messages_maxlen",
            ],
        },
        about: "queues; memory is bytes, the last five count since the start",
        ..DONE
    },
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
        name: "purge_queue",
        positional: &["name"],
        vhost: true,
        answer: Answer::Done("Purged {messages} messages from queue '{name}' in vhost '{vhost}'"),
        about: "delete a queue's ready messages",
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
        about: "show ready messages and leave them as they are; a filter is NAME or NAME=VALUE, where NAME is \
                exchange, routing_key, headers.KEY or a property",
        ..DONE
    },
    Command {
        name: "set_policy",
        positional: &["name", "pattern", "definition"],
        vhost: true,
        options: POLICY_OPTIONS,
        answer: Answer::Done(
            "Setting policy \"{name}\" for pattern \"{pattern}\" to \"{definition}\" with priority \"{priority}\" \
             for vhost \"{vhost}\" ...",
        ),
        about: "give settings, a JSON object, to queues and exchanges whose names match",
        ..DONE
    },
    Command {
        name: "clear_policy",
        positional: &["name"],
        vhost: true,
        answer: Answer::Done("Clearing policy \"{name}\" on vhost \"{vhost}\" ..."),
        about: "remove a policy and its effect",
        ..DONE
    },
    Command {
        name: "list_policies",
        vhost: true,
        rest: Rest::Columns,
        answer: Answer::Rows {
            title: "Listing policies for vhost \"{vhost}\" ...",
            shown: POLICY_COLUMNS,
            columns: POLICY_COLUMNS,
        },
        about: "policies, in the order in which they are tried",
        ..DONE
    },
    Command {
        name: "set_operator_policy",
        positional: &["name", "pattern", "definition"],
        vhost: true,
        options: POLICY_OPTIONS,
        answer: Answer::Done(
            "Setting operator policy override \"{name}\" for pattern \"{pattern}\" to \"{definition}\" with \
             priority \"{priority}\" for vhost \"{vhost}\" ...",
        ),
        about: "the same, to bound what policies can say",
        ..DONE
    },
    Command {
        name: "clear_operator_policy",
        positional: &["name"],
        vhost: true,
        answer: Answer::Done("Clearing operator policy \"{name}\" on vhost \"{vhost}\" ..."),
        about: "remove an operator policy and its effect",
        ..DONE
    },
    Command {
        name: "list_operator_policies",
        vhost: true,
        rest: Rest::Columns,
        answer: Answer::Rows {
            title: "Listing operator policy overrides for vhost \"{vhost}\" ...",
            shown: POLICY_COLUMNS,
            columns: POLICY_COLUMNS,
        },
        about: "operator policies, in the order in which they are tried",
        ..DONE
    },
    Command {
        name: "status",
        answer: Answer::Status,
        about: "version, listeners, memory, disk and counts",
        ..DONE
    },
    Command {
        name: "ping",
        answer: Answer::Done("Ping succeeded"),
        about: "whether the broker answers",
        ..DONE
    },
    Command {
        name: "stop",
        answer: Answer::Done("The broker stopped"),
        about: "stop the broker in good order, and wait for it",
        ..DONE
    },
];

const POLICY_OPTIONS: &[CtlOption] = &[
    CtlOption { name: "priority", kind: OptionKind::Number, default: Some("0") },
    CtlOption { name: "apply_to", kind: OptionKind::Text, default: Some("all") },
];

const VHOST_OPTIONS: &[CtlOption] = &[
    CtlOption { name: "description", kind: OptionKind::Text, default: None },
    CtlOption { name: "tags", kind: OptionKind::Text, default: None },
    CtlOption { name: "default_queue_type", kind: OptionKind::Text, default: None },
];

const VHOST_COLUMNS: &[&str] =
    &["name", "description", "tags", "default_queue_type", "protected_from_deletion", "tracing"];

const TOPIC_COLUMNS: &[&str] = &["user", "vhost", "exchange", "write", "read"];

const POLICY_COLUMNS: &[&str] = &["vhost", "name", "pattern", "apply-to", "definition", "priority"];

const BINDING_COLUMNS: &[&str] =
    &["source_name", "source_kind", "destination_name", "destination_kind", "routing_key", "arguments"];

const CONNECTION_COLUMNS: &[&str] = &[
    "pid",
    "name",
    "user",
    "vhost",
    "state",
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

const CONSUMER_COLUMNS: &[&str] = &[
    "queue_name",
    "channel_pid",
    "connection",
    "channel",
    "consumer_tag",
    "ack_required",
    "prefetch_count",
    "active",
    "exclusive",
    "priority",
    "arguments",
    "consumer",
    "vhost",
];

/// What `status` prints, in order.
pub(crate) const STATUS: &[&str] = &[
    "version",
    "pid",
    "uptime_seconds",
    "listeners",
    "data_dir",
    "alarm",
    "message_memory_bytes",
    "memory_budget_bytes",
    "memory_watermark_bytes",
    "disk_free_bytes",
    "log_bytes",
    "segment_bytes",
    "segment_live_bytes",
    "spill_bytes",
    "vhosts",
    "users",
    "connections",
    "channels",
    "queues",
    "consumers",
    "messages_ready",
    "messages_unacknowledged",
];
