//! What a queue was set up with and a conversion to another type changes.

use posthouse_model::args::QueueKind;
use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::former_levels::FormerLevels;
use posthouse_model::queue_settings::QueueSettings;

const QUEUE_TYPE: &str = "x-queue-type";

/// See the module's documentation.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct QueueSetup {
    /// Arguments as declared; the type is that of today.
    pub arguments: FieldTable,
    /// The levels that the queue had under other types.
    pub former_levels: FormerLevels,
}

impl QueueSetup {
    /// That of a queue declared with these arguments.
    pub fn declared(arguments: FieldTable) -> Self {
        Self { arguments, former_levels: FormerLevels::default() }
    }

    /// The queue's type.
    pub fn kind(&self) -> QueueKind {
        QueueKind::of_declared(&self.arguments)
    }

    /// What the queue is to do as far as its arguments say.
    pub fn settings(&self) -> QueueSettings {
        let former_levels = self.former_levels.clone();
        QueueSettings { former_levels, ..QueueSettings::of_declared(&self.arguments) }
    }

    /// The arguments with another type.
    pub fn arguments_of(&self, kind: QueueKind) -> FieldTable {
        let mut arguments = self.arguments.clone();
        let value = FieldValue::string(kind.name());
        match arguments.0.iter_mut().find(|(name, _)| name == QUEUE_TYPE) {
            Some((_, current)) => *current = value,
            None => arguments.0.push((QUEUE_TYPE.to_owned(), value)),
        }
        arguments
    }
}
