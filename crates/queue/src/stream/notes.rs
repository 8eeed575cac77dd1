//! What a stream, or another queue, remembers beside its messages, as bytes: it is kept with them and comes back after a
//! restart.
//!
//! ```text
//! key:   kind u8 | name
//! value: kind 1, a stored offset: the number of the next message to read u64
//!        kind 2, a publisher:     its last publishing id u64 | the number of that message u64
//!        kind 3, a publisher to a queue that is no stream: the same | its publishing id before u64, if it had one; its message
//!                was in a record of its own, and is there if there is one with that number. Not written any more
//!        kind 4, the same, in one record with its messages: its highest publishing id u64 |
//!                (the first and the last id u64 of a gap, all of which have not entered) x n
//!
//! key:   kind u8 | the first stamp u64
//! value: kind 5, values that were seen: (stamp u64 | hash u128 | remembered until u64, ms since the Unix epoch) x n
//!        kind 6, the same in a checkpoint, which has all values up to its last stamp that are still remembered
//! ```
//!
//! Little-endian, version 1; another form gets another kind. An empty value takes back what was remembered.

use posthouse_model::ids::Seq;

const KIND_OFFSET: u8 = 1;
const KIND_PUBLISHER: u8 = 2;
const KIND_PRODUCER: u8 = 3;
const KIND_ENTERED: u8 = 4;
const KIND_NEW_VALUES: u8 = 5;
const KIND_KEPT_VALUES: u8 = 6;

/// Bytes of a value.
const VALUE_BYTES: usize = 32;

/// Something to be remembered: of what, and what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    /// Of what.
    pub key: Vec<u8>,
    /// What; empty for nothing any more.
    pub value: Vec<u8>,
}

/// A value that was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct KeptValue {
    /// Greater than that of any that was seen before.
    pub(crate) stamp: u64,
    /// Its hash.
    pub(crate) value: u128,
    /// How long it is remembered, in milliseconds since the Unix epoch; [`u64::MAX`] for ever.
    pub(crate) until_ms: u64,
}

/// Numbers that have not entered, below some that have: the first and the last of each run.
pub(crate) type Gaps = Vec<(u64, u64)>;

/// What a note says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Remembered<'a> {
    /// Where the readers of this name go on.
    Offset(&'a [u8], Seq),
    /// The last publishing id of the publisher of this name, and the number of that message.
    Publisher(&'a [u8], u64, Seq),
}

impl Note {
    /// Where the readers of this name go on.
    pub(super) fn offset(name: &[u8], next: Option<Seq>) -> Self {
        let value = next.map(|next| next.to_le_bytes().to_vec()).unwrap_or_default();
        Self { key: [&[KIND_OFFSET], name].concat(), value }
    }

    /// The last message of the publisher of this name.
    pub(super) fn publisher(name: &[u8], id: u64, seq: Seq) -> Self {
        Self {
            key: [&[KIND_PUBLISHER], name].concat(),
            value: [id.to_le_bytes(), seq.to_le_bytes()].concat(),
        }
    }
}

impl Note {
    /// As older brokers wrote it: the last message of the publisher of this name to a queue that is no stream, and the highest id
    /// before it.
    pub(crate) fn producer(name: &[u8], id: u64, seq: Seq, before: Option<u64>) -> Self {
        let mut value = [id.to_le_bytes(), seq.to_le_bytes()].concat();
        value.extend(before.into_iter().flat_map(u64::to_le_bytes));
        Self { key: [&[KIND_PRODUCER], name].concat(), value }
    }

    /// Which numbers of a publisher have entered a queue: those up to the highest one that are in no gap.
    pub(crate) fn entered(name: &[u8], highest: u64, gaps: &[(u64, u64)]) -> Self {
        let mut value = highest.to_le_bytes().to_vec();
        for id in gaps.iter().flat_map(|&(first, last)| [first, last]) {
            value.extend_from_slice(&id.to_le_bytes());
        }
        Self { key: [&[KIND_ENTERED], name].concat(), value }
    }

    /// Reads such a note back: name, highest number and gaps; `None` when it has another form.
    pub(crate) fn read_entered<'a>(key: &'a [u8], value: &[u8]) -> Option<(&'a [u8], u64, Gaps)> {
        let (&KIND_ENTERED, name) = key.split_first()? else { return None };
        let (numbers, rest) = value.as_chunks::<8>();
        let (highest, gaps) = numbers.split_first().filter(|_| rest.is_empty())?;
        let (gaps, rest) = gaps.as_chunks::<2>();
        let read = |gap: &[[u8; 8]; 2]| (u64::from_le_bytes(gap[0]), u64::from_le_bytes(gap[1]));
        let gaps: Vec<_> = gaps.iter().map(read).collect();
        rest.is_empty().then(|| (name, u64::from_le_bytes(*highest), gaps))
    }

    /// Reads a note of kind 3 back: name, id, message, and the id before; `None` when it has another form.
    pub(crate) fn read_producer<'a>(
        key: &'a [u8],
        value: &[u8],
    ) -> Option<(&'a [u8], u64, Seq, Option<u64>)> {
        let (kind, name) = key.split_first()?;
        let number = |at: usize| Some(u64::from_le_bytes(*value.get(at..)?.first_chunk()?));
        let before = match (*kind, value.len()) {
            (KIND_PRODUCER, 16) => None,
            (KIND_PRODUCER, 24) => number(16),
            _ => return None,
        };
        Some((name, number(0)?, number(8)?, before))
    }
}

impl Note {
    /// Values that were seen with messages that the log gets now; there is at least one.
    pub(crate) fn new_values(values: &[KeptValue]) -> Self {
        Self::values(KIND_NEW_VALUES, values)
    }

    /// Values that a checkpoint keeps; there is at least one.
    pub(crate) fn kept_values(values: &[KeptValue]) -> Self {
        Self::values(KIND_KEPT_VALUES, values)
    }

    fn values(kind: u8, values: &[KeptValue]) -> Self {
        let first = values.first().map_or(0, |value| value.stamp);
        let mut value = Vec::with_capacity(values.len() * VALUE_BYTES);
        for KeptValue { stamp, value: hash, until_ms } in values {
            value.extend_from_slice(&stamp.to_le_bytes());
            value.extend_from_slice(&hash.to_le_bytes());
            value.extend_from_slice(&until_ms.to_le_bytes());
        }
        Self { key: [&[kind][..], &first.to_le_bytes()].concat(), value }
    }

    /// Whether a key is that of such a note.
    pub fn is_of_values(key: &[u8]) -> bool {
        matches!(key.first(), Some(&(KIND_NEW_VALUES | KIND_KEPT_VALUES)))
    }

    /// Reads such a note back: whether the values were new to the log, and the values; `None` when it has another form.
    pub(crate) fn read_values<'a>(
        key: &[u8],
        value: &'a [u8],
    ) -> Option<(bool, impl Iterator<Item = KeptValue> + use<'a>)> {
        let is_new = match key.split_first()? {
            (&KIND_NEW_VALUES, [_, _, _, _, _, _, _, _]) => true,
            (&KIND_KEPT_VALUES, [_, _, _, _, _, _, _, _]) => false,
            _ => return None,
        };
        let (values, rest) = value.as_chunks::<VALUE_BYTES>();
        let read = |bytes: &[u8; VALUE_BYTES]| {
            let (stamp, rest) = bytes.split_first_chunk()?;
            let (value, rest) = rest.split_first_chunk()?;
            Some(KeptValue {
                stamp: u64::from_le_bytes(*stamp),
                value: u128::from_le_bytes(*value),
                until_ms: u64::from_le_bytes(*rest.first_chunk()?),
            })
        };
        rest.is_empty().then(|| (is_new, values.iter().filter_map(read)))
    }
}

/// Reads a note back; `None` when it has another form.
pub(super) fn read<'a>(key: &'a [u8], value: &[u8]) -> Option<Remembered<'a>> {
    let (kind, name) = key.split_first()?;
    let number = |at: usize| Some(u64::from_le_bytes(*value.get(at..)?.first_chunk()?));
    match (*kind, value.len()) {
        (KIND_OFFSET, 8) => Some(Remembered::Offset(name, number(0)?)),
        (KIND_PUBLISHER, 16) => Some(Remembered::Publisher(name, number(0)?, number(8)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_bytes_are_fixed() {
        let offset = Note::offset(b"app", Some(0x0102));
        assert_eq!((&offset.key[..], &offset.value[..]), (&b"\x01app"[..], &b"\x02\x01\0\0\0\0\0\0"[..]));
        let publisher = Note::publisher(b"p", 3, 4);
        assert_eq!(publisher.key, b"\x02p");
        assert_eq!(publisher.value, b"\x03\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0");
        let producer = Note::producer(b"p", 3, 4, Some(1));
        assert_eq!(producer.key, b"\x03p");
        assert_eq!(producer.value, b"\x03\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0");
        assert_eq!(Note::read_producer(&producer.key, &producer.value), Some((&b"p"[..], 3, 4, Some(1))));
        let first = Note::producer(b"p", 3, 4, None);
        assert_eq!(Note::read_producer(&first.key, &first.value), Some((&b"p"[..], 3, 4, None)));
        assert_eq!(Note::read_producer(b"\x02p", &first.value), None);
        assert_eq!(Note::read_producer(b"\x03p", &[0; 17]), None);
        assert!(Note::offset(b"app", None).value.is_empty());
    }

    #[test]
    fn the_bytes_of_what_has_entered_are_fixed() {
        let plain = Note::entered(b"p", 0x0102, &[]);
        assert_eq!((&plain.key[..], &plain.value[..]), (&b"\x04p"[..], &b"\x02\x01\0\0\0\0\0\0"[..]));
        let gaps = Note::entered(b"p", 9, &[(3, 4), (6, 6)]);
        assert_eq!(gaps.value.len(), 40);
        assert_eq!(&gaps.value[8..24], b"\x03\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0");
        for (note, highest, gaps) in [(plain, 0x0102, vec![]), (gaps, 9, vec![(3, 4), (6, 6)])] {
            assert_eq!(Note::read_entered(&note.key, &note.value), Some((&b"p"[..], highest, gaps)));
        }
        for (key, bytes) in [(&b"\x03p"[..], 8), (b"\x04p", 0), (b"\x04p", 9), (b"\x04p", 16), (b"", 8)] {
            assert_eq!(Note::read_entered(key, &vec![0; bytes]), None);
        }
    }

    #[test]
    fn the_bytes_of_values_are_fixed() {
        let value = KeptValue { stamp: 0x0102, value: 0x0304 << 64, until_ms: 5 };
        let new = Note::new_values(&[value, KeptValue { stamp: 7, ..value }]);
        assert_eq!(new.key, b"\x05\x02\x01\0\0\0\0\0\0");
        let bytes = b"\x02\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x04\x03\0\0\0\0\0\0\x05\0\0\0\0\0\0\0";
        assert_eq!((&new.value[..32], new.value.len()), (&bytes[..], 64));
        let kept = Note::kept_values(&[value]);
        assert_eq!((kept.key[0], &kept.value[..]), (6, &bytes[..]));
        for (note, is_new, count) in [(new, true, 2), (kept, false, 1)] {
            let (new, values) = Note::read_values(&note.key, &note.value).unwrap();
            let values: Vec<_> = values.collect();
            assert_eq!((new, values[0], values.len()), (is_new, value, count));
        }
        for (key, bytes) in
            [(&b"\x05\0\0\0\0\0\0\0\0"[..], 33), (b"\x05\0", 32), (b"\x07\0\0\0\0\0\0\0\0", 32)]
        {
            assert!(Note::read_values(key, &vec![0; bytes]).is_none());
        }
    }

    #[test]
    fn notes_read_back_and_other_forms_do_not() {
        for (note, expected) in [
            (Note::offset(b"app", Some(7)), Remembered::Offset(b"app", 7)),
            (Note::publisher(b"", 8, 9), Remembered::Publisher(b"", 8, 9)),
        ] {
            assert_eq!(read(&note.key, &note.value), Some(expected));
        }
        for (key, value) in
            [(&b""[..], &[0; 8][..]), (b"\x01a", &[0; 7]), (b"\x02a", &[0; 8]), (b"\x03a", &[0; 8])]
        {
            assert_eq!(read(key, value), None);
        }
    }
}
