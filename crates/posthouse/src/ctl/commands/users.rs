//! Users, what they may do, and their limits.

use super::{Answer, Command, DONE, Rest};

/// In the order of `help`.
pub(super) const COMMANDS: &[Command] = &[
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
        name: "set_user_limits",
        positional: &["user", "limits"],
        answer: Answer::Done("Setting user limits to \"{limits}\" for user \"{user}\" ..."),
        about: "limits, a JSON object of max-connections, max-channels, max-publish-messages-per-second, \
                max-publish-bytes-per-second and max-stored-bytes; -1 for none",
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
            columns: &["user", "limits", "stored_bytes"],
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
];

const TOPIC_COLUMNS: &[&str] = &["user", "vhost", "exchange", "write", "read"];

const PERMISSIONS: &[&str] = &["user", "vhost", "configure", "write", "read"];
