//! Arguments of declarations that mean nothing to the broker: they are accepted, kept and shown, and logged once per name,
//! so that a misspelt one is found.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use posthouse_model::errors::Resource;
use posthouse_model::field::FieldTable;
use tracing::warn;

/// So many names are logged; a client may make up any number of them.
const NAMES_MAX: usize = 1000;

/// Names that were logged.
#[derive(Debug, Default)]
pub(crate) struct UnknownArguments(Mutex<HashSet<String>>);

impl UnknownArguments {
    /// Logs the names among the arguments that are not known and were not logged before.
    pub(crate) fn warn(&self, of: Resource<'_>, arguments: &FieldTable, is_known: impl Fn(&str) -> bool) {
        for (name, _) in arguments.0.iter().filter(|(name, _)| !is_known(name)) {
            if self.is_new(name) {
                warn!(argument = %name, "{of} is declared with an argument that means nothing here");
            }
        }
    }

    fn is_new(&self, name: &str) -> bool {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.len() < NAMES_MAX && names.insert(name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_new_once_and_there_are_not_too_many() {
        let unknown = UnknownArguments::default();
        assert!(unknown.is_new("x-a") && !unknown.is_new("x-a"));
        let new = (0..2 * NAMES_MAX).filter(|number| unknown.is_new(&number.to_string())).count();
        assert_eq!(new, NAMES_MAX - 1);
    }
}
