//! The modulus hash exchange: a hash of the routing key, modulo the number of bindings, says which binding it is.
//!
//! Bindings are kept in the order of their destinations' names and keys, so that a restart changes no choice. A new
//! binding changes nearly all of them; the consistent hash exchange is for queues that come and go.

use posthouse_model::name::Name;

use super::Destination;

/// The bindings of a modulus hash exchange.
#[derive(Debug, Default)]
pub(super) struct ModulusHash(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    name: Name,
    key: Name,
    to: Destination,
}

impl ModulusHash {
    /// Adds a binding.
    pub(super) fn insert(&mut self, to: Destination, name: &Name, key: &Name) {
        // A queue and an exchange may have the same name; identities of exchanges change, kinds do not.
        let place = (name, key, matches!(to, Destination::Queue(_)));
        let before =
            |entry: &Entry| (&entry.name, &entry.key, matches!(entry.to, Destination::Queue(_))) < place;
        let at = self.0.partition_point(before);
        self.0.insert(at, Entry { name: name.clone(), key: key.clone(), to });
    }

    /// Removes a binding.
    pub(super) fn remove(&mut self, to: Destination, key: &Name) {
        self.0.retain(|entry| entry.to != to || entry.key != *key);
    }

    /// The destination for a hash; none when there are no bindings.
    pub(super) fn choose(&self, hash: u64) -> Option<Destination> {
        let count = self.0.len() as u64;
        let at = hash.checked_rem(count)?;
        self.0.get(at as usize).map(|entry| entry.to)
    }
}
