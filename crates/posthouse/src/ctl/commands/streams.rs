//! Streams and what they remember.

use super::{Answer, Command, CtlOption, DONE, OptionKind};

/// In the order of `help`.
pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "list_stream_tracking",
        positional: &["name"],
        vhost: true,
        flags: &["all", "offset", "writer"],
        answer: Answer::Rows {
            title: "Listing tracking information in vhost {vhost} ...",
            shown: &["type", "name", "tracking_value"],
            columns: &["type", "name", "tracking_value"],
        },
        about: "stored offsets of a stream's consumers and last numbers of its publishers, or either",
        ..DONE
    },
    Command {
        name: "reset_offset",
        vhost: true,
        options: &[
            CtlOption { name: "stream", kind: OptionKind::Text, default: None },
            CtlOption { name: "reference", kind: OptionKind::Text, default: None },
        ],
        answer: Answer::Done("Reset offset of '{reference}' in stream '{stream}' in vhost '{vhost}'"),
        about: "forget the offset stored for a consumer name",
        ..DONE
    },
    Command {
        name: "add_super_stream",
        positional: &["name"],
        vhost: true,
        options: SUPER_STREAM_OPTIONS,
        answer: Answer::Done("Super stream '{name}' was created in vhost '{vhost}'"),
        about: "make an exchange and streams bound to it with the keys 0, 1, ... (3 unless --partitions says \
                otherwise) or with --binding-keys A,B,...",
        ..DONE
    },
    Command {
        name: "delete_super_stream",
        positional: &["name"],
        vhost: true,
        answer: Answer::Done("Super stream '{name}' was deleted in vhost '{vhost}'"),
        about: "delete a super stream's exchange and streams",
        ..DONE
    },
];

const SUPER_STREAM_OPTIONS: &[CtlOption] = &[
    CtlOption { name: "partitions", kind: OptionKind::Number, default: None },
    CtlOption { name: "binding_keys", kind: OptionKind::Text, default: None },
    CtlOption { name: "max_length_bytes", kind: OptionKind::Text, default: None },
    CtlOption { name: "max_age", kind: OptionKind::Text, default: None },
    CtlOption { name: "stream_max_segment_size_bytes", kind: OptionKind::Text, default: None },
    CtlOption { name: "leader_locator", kind: OptionKind::Text, default: None },
    CtlOption { name: "initial_cluster_size", kind: OptionKind::Number, default: None },
];
