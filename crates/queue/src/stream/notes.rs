//! What a stream remembers beside its messages, as bytes: it is kept with them and comes back after a restart.
//!
//! ```text
//! key:   kind u8 | name
//! value: kind 1, a stored offset: the number of the next message to read u64
//!        kind 2, a publisher:     its last publishing id u64 | the number of that message u64
//! ```
//!
//! Little-endian, version 1; another form gets another kind. An empty value takes back what was remembered.

use posthouse_model::ids::Seq;

const KIND_OFFSET: u8 = 1;
const KIND_PUBLISHER: u8 = 2;

/// Something to be remembered: of what, and what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    /// Of what.
    pub key: Vec<u8>,
    /// What; empty for nothing any more.
    pub value: Vec<u8>,
}

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
        assert!(Note::offset(b"app", None).value.is_empty());
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
