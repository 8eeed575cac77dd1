//! The buffers of large chunks, used again.
//!
//! Under load chunks are made by one thread and dropped by another thousands of times a second, all of about the
//! size of a read. Left to the allocator, what was freed on one thread lies idle while another takes fresh memory: the
//! process grew by up to 40 MB around 7 MB in use. So a dropped chunk leaves its buffer here for the next one. There
//! is one lock, taken once per chunk, and a bound.

use std::sync::{Mutex, PoisonError};

/// Bytes of a buffer that is used again: as much as a publisher hands over at once.
pub const BUFFER_BYTES: usize = 256 << 10;

/// Less than half a buffer is left to the allocator: it would hold memory that nobody uses.
const POOLED_BYTES_MIN: usize = BUFFER_BYTES / 2;

/// Buffers kept while nobody needs them: 4 MiB, more than is dropped at once by what writes chunks to segments.
const SPARE_MAX: usize = 16;

static SPARE: Pool = Pool { spare: Mutex::new(Vec::new()) };

/// A buffer with room for `bytes` at least. What it holds is left from an earlier use.
pub fn take(bytes: usize) -> Vec<u8> {
    SPARE.take(bytes)
}

/// Gives a buffer back to be used again, if it is one of those.
pub(crate) fn give(buffer: Vec<u8>) {
    SPARE.give(buffer);
}

struct Pool {
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Pool {
    fn take(&self, bytes: usize) -> Vec<u8> {
        if !(POOLED_BYTES_MIN..=BUFFER_BYTES).contains(&bytes) {
            return Vec::with_capacity(bytes);
        }
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
    }

    fn give(&self, buffer: Vec<u8>) {
        if buffer.capacity() == BUFFER_BYTES {
            let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
            if spare.len() < SPARE_MAX {
                spare.push(buffer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        Pool { spare: Mutex::new(Vec::new()) }
    }

    #[test]
    fn a_buffer_is_used_again() {
        let pool = pool();
        let mut first = pool.take(200_000);
        first.extend_from_slice(b"abc");
        let place = first.as_ptr();
        pool.give(first);
        let again = pool.take(BUFFER_BYTES);
        assert_eq!((again.as_ptr(), again.capacity()), (place, BUFFER_BYTES));
        let other = pool.take(BUFFER_BYTES);
        assert_ne!(other.as_ptr(), place);
    }

    #[test]
    fn other_sizes_are_left_to_the_allocator() {
        let pool = pool();
        for bytes in [0, POOLED_BYTES_MIN - 1, BUFFER_BYTES + 1] {
            let buffer = pool.take(bytes);
            assert_eq!(buffer.capacity(), bytes);
            pool.give(buffer);
        }
        assert!(pool.spare.lock().unwrap().is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let pool = pool();
        let all: Vec<_> = (0..2 * SPARE_MAX).map(|_| pool.take(BUFFER_BYTES)).collect();
        all.into_iter().for_each(|buffer| pool.give(buffer));
        assert_eq!(pool.spare.lock().unwrap().len(), SPARE_MAX);
    }
}
