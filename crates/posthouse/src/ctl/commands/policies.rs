//! Policies and operator policies.

use super::{Answer, Command, CtlOption, DONE, OptionKind, Rest};

/// In the order of `help`.
pub(super) const COMMANDS: &[Command] = &[
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
];

const POLICY_OPTIONS: &[CtlOption] = &[
    CtlOption { name: "priority", kind: OptionKind::Number, default: Some("0") },
    CtlOption { name: "apply_to", kind: OptionKind::Text, default: Some("all") },
];

const POLICY_COLUMNS: &[&str] = &["vhost", "name", "pattern", "apply-to", "definition", "priority"];
