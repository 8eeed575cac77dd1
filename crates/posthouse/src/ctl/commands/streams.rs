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
];
