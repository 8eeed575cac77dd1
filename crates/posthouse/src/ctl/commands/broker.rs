//! The broker as a whole.

use super::{Answer, Command, DONE};

/// In the order of `help`.
pub(super) const COMMANDS: &[Command] = &[
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
    "messages_delayed",
];
