//! AMQP field tables: the arguments of declarations and the `headers` property.
//!
//! Order and exact types are kept, so that what a client sent can be compared, shown and sent back as it was.
//! Everything on the wire is big-endian (format: AMQP 0-9-1 with RabbitMQ's type tags):
//!
//! ```text
//! table = length u32 | entry*           entry = key length u8 | key | value
//! array = length u32 | value*           value = tag u8 | data of the tag's type
//! tags:   t bool   b i8  B u8   s i16  u u16   I i32  i u32   l i64 (L is read as l)   f f32   d f64
//!         D decimal (scale u8, value u32)   T u64 seconds   S, x length u32 + bytes   A array   F table   V nothing
//! ```
//!
//! This module reads whole tables into owned values; [`crate::raw_table`] walks the bytes without allocating.

use crate::raw_table::{RawArray, RawTable, RawValue};

/// How many tables and arrays may be nested, the outermost table counted. A deeper one is refused, so that no
/// input can exhaust the stack.
pub const MAX_DEPTH: usize = 64;

/// Why bytes are not a field table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FieldError {
    /// A length points past the end.
    #[error("field table is cut short: expected {expected} more bytes, got {got}")]
    Truncated {
        /// Bytes that should follow.
        expected: usize,
        /// Bytes that do.
        got: usize,
    },
    /// No type has this tag.
    #[error("expected the tag of a field type, got octet {0}")]
    UnknownTag(u8),
    /// A key is not text.
    #[error("expected a field name in UTF-8")]
    KeyNotUtf8,
    /// More than [`MAX_DEPTH`] levels.
    #[error("expected at most {MAX_DEPTH} levels of tables and arrays")]
    TooDeep,
}

/// A field table in wire order.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct FieldTable(pub Vec<(String, FieldValue)>);

/// One value of a field table, with the wire type it came as.
#[derive(Clone, PartialEq, Debug)]
pub enum FieldValue {
    /// `t`
    Bool(bool),
    /// `b`
    I8(i8),
    /// `B`
    U8(u8),
    /// `s`
    I16(i16),
    /// `u`
    U16(u16),
    /// `I`
    I32(i32),
    /// `i`
    U32(u32),
    /// `l`, and `L` on input
    I64(i64),
    /// `f`
    F32(f32),
    /// `d`
    F64(f64),
    /// `D`: the value is `value / 10^scale`
    Decimal {
        /// Digits after the point.
        scale: u8,
        /// All digits.
        value: u32,
    },
    /// `S`: bytes, mostly UTF-8
    LongStr(Vec<u8>),
    /// `x`
    Bytes(Vec<u8>),
    /// `T`: seconds since the Unix epoch
    Timestamp(u64),
    /// `A`
    Array(Vec<FieldValue>),
    /// `F`
    Table(FieldTable),
    /// `V`
    Void,
}

impl FieldTable {
    /// The first value of that name.
    pub fn get(&self, key: &str) -> Option<&FieldValue> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads the table at the start of `bytes` (its length first) and says how many bytes it took.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), FieldError> {
        let (raw, used) = RawTable::parse(bytes)?;
        Ok((Self::from_raw(raw, 1)?, used))
    }

    /// Reads a table that was found lazily.
    pub fn from_raw_table(raw: RawTable<'_>) -> Result<Self, FieldError> {
        Self::from_raw(raw, 1)
    }

    /// Appends the table, its length first. A key of more than 255 bytes, which no short string can hold, is cut.
    pub fn encode(&self, out: &mut Vec<u8>) {
        with_length(out, |out| {
            for (key, value) in &self.0 {
                let key = &key[..key.floor_char_boundary(255)];
                out.push(key.len() as u8);
                out.extend_from_slice(key.as_bytes());
                value.encode(out);
            }
        });
    }

    fn from_raw(raw: RawTable<'_>, depth: usize) -> Result<Self, FieldError> {
        let mut entries = Vec::new();
        let mut iter = raw.iter();
        while let Some((key, value)) = iter.next_entry()? {
            let key = str::from_utf8(key).map_err(|_| FieldError::KeyNotUtf8)?;
            entries.push((key.to_owned(), FieldValue::from_raw(value, depth)?));
        }
        Ok(Self(entries))
    }
}

impl FieldValue {
    /// RabbitMQ's name of the type, as its error texts have it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::I8(_) => "byte",
            Self::U8(_) => "unsignedbyte",
            Self::I16(_) => "short",
            Self::U16(_) => "unsignedshort",
            Self::I32(_) => "signedint",
            Self::U32(_) => "unsignedint",
            Self::I64(_) => "long",
            Self::F32(_) => "float",
            Self::F64(_) => "double",
            Self::Decimal { .. } => "decimal",
            Self::LongStr(_) => "longstr",
            Self::Bytes(_) => "binary",
            Self::Timestamp(_) => "timestamp",
            Self::Array(_) => "array",
            Self::Table(_) => "table",
            Self::Void => "void",
        }
    }

    /// The value of any of the integer types; timestamps and decimals are none.
    pub fn as_int(&self) -> Option<i64> {
        match *self {
            Self::I8(v) => Some(v.into()),
            Self::U8(v) => Some(v.into()),
            Self::I16(v) => Some(v.into()),
            Self::U16(v) => Some(v.into()),
            Self::I32(v) => Some(v.into()),
            Self::U32(v) => Some(v.into()),
            Self::I64(v) => Some(v),
            _ => None,
        }
    }

    /// The text of a long string in UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::LongStr(bytes) => str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// A long string.
    pub fn string(text: &str) -> Self {
        Self::LongStr(text.as_bytes().to_vec())
    }

    /// Reads a value that was found lazily. It may hold at most `MAX_DEPTH - 1` levels.
    pub fn from_raw_value(raw: RawValue<'_>) -> Result<Self, FieldError> {
        Self::from_raw(raw, 1)
    }

    /// Appends the tag and the value.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bool(v) => out.extend_from_slice(&[b't', u8::from(*v)]),
            Self::I8(v) => tagged(out, b'b', v.to_be_bytes()),
            Self::U8(v) => tagged(out, b'B', v.to_be_bytes()),
            Self::I16(v) => tagged(out, b's', v.to_be_bytes()),
            Self::U16(v) => tagged(out, b'u', v.to_be_bytes()),
            Self::I32(v) => tagged(out, b'I', v.to_be_bytes()),
            Self::U32(v) => tagged(out, b'i', v.to_be_bytes()),
            Self::I64(v) => tagged(out, b'l', v.to_be_bytes()),
            Self::F32(v) => tagged(out, b'f', v.to_be_bytes()),
            Self::F64(v) => tagged(out, b'd', v.to_be_bytes()),
            Self::Decimal { scale, value } => {
                out.extend_from_slice(&[b'D', *scale]);
                out.extend_from_slice(&value.to_be_bytes());
            }
            Self::LongStr(v) => tagged_bytes(out, b'S', v),
            Self::Bytes(v) => tagged_bytes(out, b'x', v),
            Self::Timestamp(v) => tagged(out, b'T', v.to_be_bytes()),
            Self::Array(values) => {
                out.push(b'A');
                with_length(out, |out| values.iter().for_each(|v| v.encode(out)));
            }
            Self::Table(table) => {
                out.push(b'F');
                table.encode(out);
            }
            Self::Void => out.push(b'V'),
        }
    }

    fn from_raw(raw: RawValue<'_>, depth: usize) -> Result<Self, FieldError> {
        let inner = || if depth < MAX_DEPTH { Ok(depth + 1) } else { Err(FieldError::TooDeep) };
        Ok(match raw {
            RawValue::Bool(v) => Self::Bool(v),
            RawValue::I8(v) => Self::I8(v),
            RawValue::U8(v) => Self::U8(v),
            RawValue::I16(v) => Self::I16(v),
            RawValue::U16(v) => Self::U16(v),
            RawValue::I32(v) => Self::I32(v),
            RawValue::U32(v) => Self::U32(v),
            RawValue::I64(v) => Self::I64(v),
            RawValue::F32(v) => Self::F32(v),
            RawValue::F64(v) => Self::F64(v),
            RawValue::Decimal { scale, value } => Self::Decimal { scale, value },
            RawValue::LongStr(v) => Self::LongStr(v.to_vec()),
            RawValue::Bytes(v) => Self::Bytes(v.to_vec()),
            RawValue::Timestamp(v) => Self::Timestamp(v),
            RawValue::Array(v) => Self::Array(array_from_raw(v, inner()?)?),
            RawValue::Table(v) => Self::Table(FieldTable::from_raw(v, inner()?)?),
            RawValue::Void => Self::Void,
        })
    }
}

fn array_from_raw(raw: RawArray<'_>, depth: usize) -> Result<Vec<FieldValue>, FieldError> {
    let mut values = Vec::new();
    let mut iter = raw.iter();
    while let Some(value) = iter.next_value()? {
        values.push(FieldValue::from_raw(value, depth)?);
    }
    Ok(values)
}

fn tagged<const N: usize>(out: &mut Vec<u8>, tag: u8, bytes: [u8; N]) {
    out.push(tag);
    out.extend_from_slice(&bytes);
}

fn tagged_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    tagged(out, tag, (bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Lets `write` append something and puts its length as u32 before it.
fn with_length(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_value() -> impl Strategy<Value = FieldValue> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(FieldValue::Bool),
            any::<i8>().prop_map(FieldValue::I8),
            any::<u8>().prop_map(FieldValue::U8),
            any::<i16>().prop_map(FieldValue::I16),
            any::<u16>().prop_map(FieldValue::U16),
            any::<i32>().prop_map(FieldValue::I32),
            any::<u32>().prop_map(FieldValue::U32),
            any::<i64>().prop_map(FieldValue::I64),
            (-1e9f32..1e9).prop_map(FieldValue::F32),
            (-1e9f64..1e9).prop_map(FieldValue::F64),
            any::<(u8, u32)>().prop_map(|(scale, value)| FieldValue::Decimal { scale, value }),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(FieldValue::LongStr),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(FieldValue::Bytes),
            any::<u64>().prop_map(FieldValue::Timestamp),
            Just(FieldValue::Void),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(FieldValue::Array),
                prop::collection::vec((".{0,9}", inner), 0..4)
                    .prop_map(|entries| FieldValue::Table(FieldTable(entries))),
            ]
        })
    }

    pub(crate) fn any_table() -> impl Strategy<Value = FieldTable> {
        prop::collection::vec((".{0,12}", any_value()), 0..6).prop_map(FieldTable)
    }

    fn nested(depth: usize) -> FieldTable {
        (1..depth)
            .fold(FieldTable::default(), |table, _| FieldTable(vec![("k".into(), FieldValue::Table(table))]))
    }

    proptest! {
        #[test]
        fn decodes_what_was_encoded(table in any_table(), tail in prop::collection::vec(any::<u8>(), 0..5)) {
            let mut bytes = Vec::new();
            table.encode(&mut bytes);
            let length = bytes.len();
            bytes.extend_from_slice(&tail);
            prop_assert_eq!(FieldTable::decode(&bytes), Ok((table, length)));
        }

        #[test]
        fn any_cut_is_refused(table in any_table(), at in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            table.encode(&mut bytes);
            prop_assert!(FieldTable::decode(&bytes[..at.index(bytes.len())]).is_err());
        }

        #[test]
        fn checking_in_place_agrees_with_decoding(table in any_table(), at in any::<prop::sample::Index>(), octet in any::<u8>()) {
            let mut bytes = Vec::new();
            table.encode(&mut bytes);
            let at = at.index(bytes.len());
            bytes[at] = octet;
            let checked = RawTable::parse(&bytes).and_then(|(raw, _)| raw.check());
            match FieldTable::decode(&bytes) {
                Err(FieldError::KeyNotUtf8) => {}
                decoded => prop_assert_eq!(checked, decoded.map(|_| ())),
            }
        }

        #[test]
        fn never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = FieldTable::decode(&bytes);
            if bytes.len() >= 4 {
                let length = bytes.len() as u32 - 4;
                bytes[..4].copy_from_slice(&length.to_be_bytes());
                let _ = FieldTable::decode(&bytes);
            }
        }
    }

    #[test]
    fn tags_are_those_of_rabbitmq() {
        let table = FieldTable(vec![("a".into(), FieldValue::I64(1)), ("b".into(), FieldValue::string("x"))]);
        let mut bytes = Vec::new();
        table.encode(&mut bytes);
        assert_eq!(bytes, b"\0\0\0\x13\x01al\0\0\0\0\0\0\0\x01\x01bS\0\0\0\x01x");
        bytes[6] = b'L';
        assert_eq!(FieldTable::decode(&bytes), Ok((table, 23)));
        bytes[6] = b'q';
        assert_eq!(FieldTable::decode(&bytes), Err(FieldError::UnknownTag(b'q')));
    }

    #[test]
    fn depth_is_bounded() {
        let mut bytes = Vec::new();
        nested(MAX_DEPTH).encode(&mut bytes);
        assert!(FieldTable::decode(&bytes).is_ok());
        bytes.clear();
        nested(MAX_DEPTH + 1).encode(&mut bytes);
        assert_eq!(FieldTable::decode(&bytes), Err(FieldError::TooDeep));
        assert_eq!(RawTable::parse(&bytes).unwrap().0.check(), Err(FieldError::TooDeep));
    }

    #[test]
    fn a_key_that_does_not_fit_is_cut_at_a_character() {
        let table = FieldTable(vec![("\u{e9}".repeat(200), FieldValue::Void)]);
        let mut bytes = Vec::new();
        table.encode(&mut bytes);
        let (back, _) = FieldTable::decode(&bytes).unwrap();
        assert_eq!(back.0[0].0, "\u{e9}".repeat(127));
    }
}
