//! When each part of a chunk must be looked at, because messages in it may have expired.
//!
//! Messages with times of their own expire one by one, and a chunk may have thousands of them. Looking at all of it each
//! time would cost as much as the square of that; so only those parts are looked at in which something is due.

use super::times::NEVER_MS;

/// Messages of a part.
const PART: u32 = 64;

/// See the module's documentation. At first every part must be looked at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Looks(Vec<u64>);

impl Looks {
    /// Those of a chunk that covers `span` numbers, as far as they were known for it.
    pub(super) fn of(self, span: u32) -> Self {
        let parts = span.div_ceil(PART) as usize;
        if self.0.len() == parts { self } else { Self(vec![0; parts]) }
    }

    /// Bytes of memory it takes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.0.capacity() * size_of::<u64>()
    }

    /// Looks at the parts in which something may be due: calls `look` with the first and the last delta of each, and keeps
    /// what it says of when to look again. When the first of all parts must be looked at next.
    pub(super) fn look(&mut self, span: u32, now_ms: u64, mut look: impl FnMut(u32, u32) -> u64) -> u64 {
        let mut next_ms = NEVER_MS;
        for (part, due_ms) in (0..).zip(&mut self.0) {
            if *due_ms <= now_ms {
                let first = part * PART;
                *due_ms = look(first, (first + PART - 1).min(span - 1));
            }
            next_ms = next_ms.min(*due_ms);
        }
        next_ms
    }

    /// Something among `from..=to` may be due at that time.
    pub(super) fn note(&mut self, from: u32, to: u32, at_ms: u64) {
        let parts = self.0.get_mut((from / PART) as usize..).unwrap_or_default();
        for due_ms in parts.iter_mut().take((to / PART - from / PART) as usize + 1) {
            *due_ms = at_ms.min(*due_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parts_in_which_something_is_due_are_looked_at() {
        let span = 2 * PART + 10;
        let mut looks = Looks::default().of(span);
        let mut seen = Vec::new();
        let next_ms = looks.look(span, 5, |from, to| {
            seen.push((from, to));
            100 + u64::from(from)
        });
        let last = (2 * PART, 2 * PART + 9);
        assert_eq!((next_ms, seen), (100, vec![(0, PART - 1), (PART, 2 * PART - 1), last]));
        let mut looks = looks.of(span);
        assert_eq!(looks.look(span, 99, |_, _| panic!("nothing is due")), 100);
        let mut seen = Vec::new();
        let next_ms = looks.look(span, 100, |from, to| {
            seen.push((from, to));
            NEVER_MS
        });
        assert_eq!((next_ms, seen), (100 + u64::from(PART), vec![(0, PART - 1)]));
        looks.note(PART - 1, PART, 50);
        let mut seen = Vec::new();
        assert_eq!(
            looks.look(span, 50, |from, _| {
                seen.push(from);
                NEVER_MS
            }),
            100 + u64::from(2 * PART)
        );
        assert_eq!(seen, [0, PART]);
        assert_eq!(Looks::default().of(PART).memory_bytes(), 8);
    }
}
