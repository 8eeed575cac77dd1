//! What a command is: names, arguments, columns and sentences. The commands are in tables by subject, below this
//! module.

mod broker;
mod connections;
mod definitions;
mod policies;
mod queues;
mod streams;
mod topology;
mod users;
mod vhosts;

use std::fmt::Write;

pub(crate) use broker::STATUS;

/// The tables of commands, in the order of `help`.
const SUBJECTS: &[&[Command]] = &[
    users::COMMANDS,
    vhosts::COMMANDS,
    queues::COMMANDS,
    streams::COMMANDS,
    topology::COMMANDS,
    connections::COMMANDS,
    policies::COMMANDS,
    definitions::COMMANDS,
    broker::COMMANDS,
];

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
    /// The last argument may be missing: a file is read from standard input.
    File,
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
    /// A sentence, after as many steps as it takes.
    Steps(&'static str),
    /// All definitions, for the file that the argument names.
    Document,
    /// What became of definitions that were read from a file.
    Imported,
    /// The broker's state.
    Status,
}

impl Command {
    /// Whether its last argument is a password, which may come from standard input.
    pub(crate) fn takes_password(&self) -> bool {
        self.rest == Rest::Password
    }

    /// Whether its last argument may be missing.
    pub(crate) fn last_is_optional(&self) -> bool {
        matches!(self.rest, Rest::Password | Rest::File)
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
            let optional = self.last_is_optional() && index + 1 == self.positional.len();
            let name = name.to_uppercase();
            let _ = if optional { write!(text, " [{name}]") } else { write!(text, " {name}") };
        }
        match self.rest {
            Rest::List(name) => text += &format!(" [{}...]", name.trim_end_matches('s').to_uppercase()),
            Rest::Columns => text += " [COLUMN...]",
            Rest::None | Rest::Password | Rest::File => {}
        }
        text
    }
}

/// Every command, in the order of `help`.
pub(crate) fn all() -> impl Iterator<Item = &'static Command> {
    SUBJECTS.iter().copied().flatten()
}

/// The command of that name.
pub(crate) fn find(name: &str) -> Option<&'static Command> {
    all().find(|command| command.name == name)
}

/// Whether this is an option of some command that takes a value.
pub(crate) fn takes_value(flag: &str) -> bool {
    all().flat_map(|command| command.options).any(|option| option.flag() == flag)
}

/// All commands and options.
pub(crate) fn help() -> String {
    let mut text = String::from("posthouse ctl [OPTIONS] COMMAND [ARGUMENTS]\n\nCommands:\n");
    for command in all() {
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

/// What most commands have in common.
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
