//! Definitions and runtime parameters.

use super::{Answer, Command, CtlOption, DONE, OptionKind, Rest};

/// In the order of `help`.
pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "export_definitions",
        positional: &["file"],
        options: FORMAT,
        answer: Answer::Document,
        about: "write users, virtual hosts, policies, queues and so on to a file, or with - to standard output, in \
                RabbitMQ's JSON; password hashes are in it",
        ..DONE
    },
    Command {
        name: "import_definitions",
        positional: &["file"],
        rest: Rest::File,
        options: FORMAT,
        answer: Answer::Imported,
        about: "make what such a file says, of this broker or of RabbitMQ; without FILE or with - it is read from \
                standard input",
        ..DONE
    },
    Command {
        name: "set_parameter",
        positional: &["component", "name", "value"],
        vhost: true,
        answer: Answer::Done(
            "Setting runtime parameter \"{name}\" for component \"{component}\" to \"{value}\" in vhost \
             \"{vhost}\" ...",
        ),
        about: "set a parameter, JSON, of the component vhost-limits or operator_policy",
        ..DONE
    },
    Command {
        name: "clear_parameter",
        positional: &["component", "name"],
        vhost: true,
        answer: Answer::Done(
            "Clearing runtime parameter \"{name}\" for component \"{component}\" on vhost \"{vhost}\" ...",
        ),
        about: "clear a parameter, also one of another component that came with definitions",
        ..DONE
    },
    Command {
        name: "list_parameters",
        vhost: true,
        rest: Rest::Columns,
        answer: Answer::Rows {
            title: "Listing runtime parameters for vhost \"{vhost}\" ...",
            shown: &["component", "name", "value"],
            columns: &["component", "name", "value"],
        },
        about: "parameters of a virtual host, without policies",
        ..DONE
    },
    Command {
        name: "set_global_parameter",
        positional: &["name", "value"],
        answer: Answer::Done("Setting global runtime parameter \"{name}\" to \"{value}\" ..."),
        about: "set a parameter, JSON, of the broker as a whole",
        ..DONE
    },
    Command {
        name: "clear_global_parameter",
        positional: &["name"],
        answer: Answer::Done("Clearing global runtime parameter \"{name}\" ..."),
        about: "clear a parameter of the broker as a whole",
        ..DONE
    },
    Command {
        name: "list_global_parameters",
        rest: Rest::Columns,
        answer: Answer::Rows {
            title: "Listing global runtime parameters ...",
            shown: &["name", "value"],
            columns: &["name", "value"],
        },
        about: "parameters of the broker as a whole",
        ..DONE
    },
];

const FORMAT: &[CtlOption] = &[CtlOption { name: "format", kind: OptionKind::Text, default: Some("json") }];
