//! Virtual hosts, their metadata, limits and tracing.

use super::{Answer, Command, CtlOption, DONE, OptionKind, Rest};

/// In the order of `help`.
pub(super) const COMMANDS: &[Command] = &[
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
        about: "limits, a JSON object of max-connections, max-queues, max-publish-messages-per-second, \
                max-publish-bytes-per-second, max-stored-bytes and max-scheduled-messages; -1 for none",
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
            columns: &["vhost", "limits", "stored_bytes"],
        },
        about: "limits of virtual hosts that have any",
        ..DONE
    },
];

const VHOST_OPTIONS: &[CtlOption] = &[
    CtlOption { name: "description", kind: OptionKind::Text, default: None },
    CtlOption { name: "tags", kind: OptionKind::Text, default: None },
    CtlOption { name: "default_queue_type", kind: OptionKind::Text, default: None },
];

const VHOST_COLUMNS: &[&str] = &[
    "name",
    "description",
    "tags",
    "default_queue_type",
    "protected_from_deletion",
    "tracing",
    "messages_scheduled",
];
