//! What the generator puts into a message body, so that the receiving side can verify it.
//!
//! ```text
//!  0           2          8               16                size
//! +-----------+----------+---------------+-----------------+
//! | producer  | sequence | sent          | filler          |   big-endian; version 1
//! | u16       | u48      | u64, ns       | depends on the  |   sent: since the generator started
//! +-----------+----------+---------------+ offset only     |
//! ```
//! A body of 8 to 15 bytes has no time, a shorter one only filler. Sequences count from 0 per producer and routing key.

/// Bytes needed for producer and sequence.
pub(super) const WORD_BYTES: usize = 8;
/// Bytes needed for the time too.
pub(super) const STAMP_BYTES: usize = 16;
const SEQUENCE_BITS: u32 = 48;

/// The leading bytes that differ between messages of a size.
pub(super) const fn varying(size: usize) -> usize {
    match size {
        0..WORD_BYTES => 0,
        WORD_BYTES..STAMP_BYTES => WORD_BYTES,
        _ => STAMP_BYTES,
    }
}

/// Producer and sequence as one word.
pub(super) fn word(producer: u16, sequence: u64) -> u64 {
    u64::from(producer) << SEQUENCE_BITS | sequence & ((1 << SEQUENCE_BITS) - 1)
}

/// The two parts of a word.
#[inline]
pub(super) fn split(word: u64) -> (u16, u64) {
    ((word >> SEQUENCE_BITS) as u16, word & ((1 << SEQUENCE_BITS) - 1))
}

/// Writes the varying part into a body; `body` may be cut after it.
#[inline]
pub(super) fn stamp(body: &mut [u8], word: u64, nanos: u64) {
    if let Some(head) = body.first_chunk_mut::<STAMP_BYTES>() {
        head[..WORD_BYTES].copy_from_slice(&word.to_be_bytes());
        head[WORD_BYTES..].copy_from_slice(&nanos.to_be_bytes());
    } else if let Some(head) = body.first_chunk_mut::<WORD_BYTES>() {
        *head = word.to_be_bytes();
    }
}

/// The word and the time of a body that starts so, as far as it has them.
#[inline]
pub(super) fn read(body: &[u8]) -> (Option<u64>, Option<u64>) {
    let word = |at: usize| body.get(at..at + 8)?.first_chunk().copied().map(u64::from_be_bytes);
    (word(0), word(WORD_BYTES))
}

/// The filler at an offset.
pub(super) fn filler(offset: usize) -> u8 {
    b' ' + (offset % 89) as u8
}

/// A body whose varying part is zero.
pub(super) fn blank(size: usize) -> Vec<u8> {
    let head = varying(size);
    (0..size).map(|offset| if offset < head { 0 } else { filler(offset) }).collect()
}

/// Whether `part`, which starts at `offset` of a body of `size`, has the right filler.
pub(super) fn is_filler(part: &[u8], offset: usize, size: usize) -> bool {
    let head = varying(size);
    part.iter().enumerate().all(|(i, byte)| offset + i < head || *byte == filler(offset + i))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stamped_is_read() {
        for size in [0, 7, 8, 15, 16, 300] {
            let mut body = blank(size);
            stamp(&mut body, word(513, 77), 42);
            let (word, nanos) = read(&body);
            assert_eq!(word.map(split), (size >= WORD_BYTES).then_some((513, 77)), "{size}");
            assert_eq!(nanos, (size >= STAMP_BYTES).then_some(42), "{size}");
            assert!(is_filler(&body, 0, size));
            if size > STAMP_BYTES {
                body[size - 1] ^= 1;
                assert!(!is_filler(&body, 0, size) && !is_filler(&body[20..], 20, size));
            }
        }
    }
}
