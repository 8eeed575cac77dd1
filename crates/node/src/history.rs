//! The last messages of recent history exchanges, for what is bound to them later.
//!
//! In memory only: a restart forgets them. Bounded per exchange in number, by the exchange's argument, and in bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;
use posthouse_model::chunk::{Chunk, ChunkBuilder};
use posthouse_model::name::Name;
use posthouse_model::record::FLAG_PERSISTENT;

/// Bytes that the history of one exchange may take: the oldest messages go before their number is reached.
pub const MAX_BYTES: usize = 16 << 20;

/// A message as it is published.
#[derive(Clone, Copy, Debug)]
pub struct Publication<'a> {
    /// Exchange and routing key as two short strings.
    pub route: &'a [u8],
    /// Whether its delivery mode is 2.
    pub is_persistent: bool,
    /// The content header to be stored.
    pub header: &'a [u8],
    /// The body.
    pub body: &'a [u8],
}

/// A kept message: a chunk of one record.
pub type Kept = Arc<Chunk>;

/// The histories of a virtual host by exchange.
#[derive(Debug, Default)]
pub(crate) struct Histories(HashMap<Name, History, foldhash::quality::RandomState>);

#[derive(Debug, Default)]
struct History {
    messages: VecDeque<Kept>,
    bytes: usize,
}

impl Histories {
    /// Keeps a message as the latest of each of these exchanges, which keep so many.
    pub(crate) fn keep(&mut self, exchanges: &[(Name, u64)], message: Publication<'_>) {
        let Publication { route, is_persistent, header, body } = message;
        let mut builder = ChunkBuilder::default();
        builder.push(if is_persistent { FLAG_PERSISTENT } else { 0 }, 0, route, header, body.len(), body);
        let kept = Arc::new(builder.finish());
        for (exchange, length) in exchanges {
            self.0.entry(exchange.clone()).or_default().push(kept.clone(), *length);
        }
    }

    /// The messages of an exchange, oldest first.
    pub(crate) fn of(&self, exchange: &str) -> Vec<Kept> {
        self.0.get(exchange).map(|history| history.messages.iter().cloned().collect()).unwrap_or_default()
    }

    /// Forgets the histories of exchanges that are gone.
    pub(crate) fn retain(&mut self, exists: impl Fn(&str) -> bool) {
        self.0.retain(|exchange, _| exists(exchange));
    }
}

impl History {
    fn push(&mut self, message: Kept, length: u64) {
        self.bytes += message.memory_bytes();
        self.messages.push_back(message);
        while self.messages.len() as u64 > length || self.bytes > MAX_BYTES {
            let Some(oldest) = self.messages.pop_front() else { return };
            self.bytes -= oldest.memory_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &[u8]) -> Publication<'_> {
        Publication { route: b"\x01e\x01k", is_persistent: true, header: b"h", body }
    }

    fn bodies(histories: &Histories, exchange: &str) -> Vec<Vec<u8>> {
        let first = |kept: &Kept| kept.records().next().unwrap().body().to_vec();
        histories.of(exchange).iter().map(first).collect()
    }

    #[test]
    fn the_last_are_kept_per_exchange() {
        let mut histories = Histories::default();
        let (a, b) = ((Name::truncated("a"), 2), (Name::truncated("b"), 5));
        histories.keep(&[a.clone(), b.clone()], message(b"1"));
        histories.keep(std::slice::from_ref(&a), message(b"2"));
        histories.keep(&[a, b], message(b"3"));
        assert_eq!(bodies(&histories, "a"), [b"2", b"3"]);
        assert_eq!(bodies(&histories, "b"), [b"1", b"3"]);
        assert!(histories.of("c").is_empty());
        let kept = histories.of("a").pop().unwrap();
        let record = kept.records().next().unwrap();
        assert_eq!((record.route(), record.header()), (&b"\x01e\x01k"[..], &b"h"[..]));
        assert!(record.persistent());
        histories.retain(|exchange| exchange == "b");
        assert!(histories.of("a").is_empty());
        assert_eq!(histories.of("b").len(), 2);
    }

    #[test]
    fn bytes_are_bounded() {
        let of_bytes = |bytes: usize| {
            let mut builder = ChunkBuilder::default();
            builder.push(0, 0, b"", b"", bytes, &vec![0; bytes]);
            Arc::new(builder.finish())
        };
        let mut history = History::default();
        let message = of_bytes(MAX_BYTES / 3);
        for _ in 0..5 {
            history.push(message.clone(), 100);
            assert!(history.bytes <= MAX_BYTES);
        }
        // A vector may hold more than it was asked for.
        assert!((1..=2).contains(&history.messages.len()));
        history.push(of_bytes(MAX_BYTES), 100);
        assert_eq!((history.messages.len(), history.bytes), (0, 0));
    }
}
