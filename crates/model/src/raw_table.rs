//! Field tables read in place: walks the bytes, allocates nothing, looks at no more than it is asked for.
//!
//! Used where a table is looked at once per message: `CC`/`BCC` and the headers exchange. The wire format is drawn in
//! [`crate::field`].

use crate::field::{FieldError, MAX_DEPTH};

/// A field table's entries as bytes. Its outer length was checked; what is inside is checked as it is walked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawTable<'a> {
    entries: &'a [u8],
}

/// An array's values as bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawArray<'a> {
    values: &'a [u8],
}

/// One value, borrowing from the table's bytes. The variants are those of [`crate::field::FieldValue`].
#[derive(Clone, Copy, PartialEq, Debug)]
#[expect(missing_docs, reason = "documented at FieldValue")]
pub enum RawValue<'a> {
    Bool(bool),
    I8(i8),
    U8(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    F32(f32),
    F64(f64),
    Decimal { scale: u8, value: u32 },
    LongStr(&'a [u8]),
    Bytes(&'a [u8]),
    Timestamp(u64),
    Array(RawArray<'a>),
    Table(RawTable<'a>),
    Void,
}

impl<'a> RawTable<'a> {
    /// Takes the table at the start of `bytes` (its length first) and says how many bytes it has.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, usize), FieldError> {
        let mut rest = bytes;
        let entries = take_long(&mut rest)?;
        Ok((Self { entries }, entries.len() + 4))
    }

    /// A table of these entries, without a length before them, as an `AMQPLAIN` response has it.
    pub fn from_entries(entries: &'a [u8]) -> Self {
        Self { entries }
    }

    /// Walks the entries.
    pub fn iter(&self) -> RawEntries<'a> {
        RawEntries { rest: self.entries }
    }

    /// The first value of that name; `None` also when the bytes before it are malformed.
    pub fn get(&self, key: &[u8]) -> Option<RawValue<'a>> {
        self.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// Whether every entry can be read, those of inner tables included. Names may be any bytes.
    pub fn check(&self) -> Result<(), FieldError> {
        check_table(*self, 1)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl<'a> RawArray<'a> {
    /// Walks the values.
    pub fn iter(&self) -> RawValues<'a> {
        RawValues { rest: self.values }
    }
}

/// Iterator over a table's entries in wire order. It ends at the first malformed one; [`RawEntries::next_entry`] tells
/// that from the end.
#[derive(Clone, Debug)]
pub struct RawEntries<'a> {
    rest: &'a [u8],
}

impl<'a> RawEntries<'a> {
    /// The next name and value, or what is wrong with them.
    #[inline]
    pub fn next_entry(&mut self) -> Result<Option<(&'a [u8], RawValue<'a>)>, FieldError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let [length] = take::<1>(&mut self.rest)?;
        let key = take_slice(&mut self.rest, usize::from(length))?;
        Ok(Some((key, take_value(&mut self.rest)?)))
    }

    /// The bytes that were not walked yet.
    pub fn remainder(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for RawEntries<'a> {
    type Item = (&'a [u8], RawValue<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.next_entry().unwrap_or_else(|_| {
            self.rest = &[];
            None
        })
    }
}

/// Iterator over an array's values. It ends at the first malformed one; [`RawValues::next_value`] tells that from the
/// end.
#[derive(Clone, Debug)]
pub struct RawValues<'a> {
    rest: &'a [u8],
}

impl<'a> RawValues<'a> {
    /// The next value, or what is wrong with it.
    #[inline]
    pub fn next_value(&mut self) -> Result<Option<RawValue<'a>>, FieldError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        take_value(&mut self.rest).map(Some)
    }
}

impl<'a> RawValues<'a> {
    /// The bytes that were not walked yet.
    pub fn remainder(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for RawValues<'a> {
    type Item = RawValue<'a>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.next_value().unwrap_or_else(|_| {
            self.rest = &[];
            None
        })
    }
}

fn check_table(table: RawTable<'_>, depth: usize) -> Result<(), FieldError> {
    let mut entries = table.iter();
    while let Some((_, value)) = entries.next_entry()? {
        check_value(value, depth)?;
    }
    Ok(())
}

#[inline]
fn check_value(value: RawValue<'_>, depth: usize) -> Result<(), FieldError> {
    match value {
        RawValue::Array(_) | RawValue::Table(_) if depth == MAX_DEPTH => Err(FieldError::TooDeep),
        RawValue::Table(inner) => check_table(inner, depth + 1),
        RawValue::Array(inner) => {
            let mut values = inner.iter();
            while let Some(value) = values.next_value()? {
                check_value(value, depth + 1)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn take_value<'a>(rest: &mut &'a [u8]) -> Result<RawValue<'a>, FieldError> {
    let [tag] = take::<1>(rest)?;
    Ok(match tag {
        b'S' => RawValue::LongStr(take_long(rest)?),
        b'I' => RawValue::I32(i32::from_be_bytes(take(rest)?)),
        b'i' => RawValue::U32(u32::from_be_bytes(take(rest)?)),
        b'l' | b'L' => RawValue::I64(i64::from_be_bytes(take(rest)?)),
        b's' => RawValue::I16(i16::from_be_bytes(take(rest)?)),
        b'u' => RawValue::U16(u16::from_be_bytes(take(rest)?)),
        b'b' => RawValue::I8(i8::from_be_bytes(take(rest)?)),
        b'B' => RawValue::U8(u8::from_be_bytes(take(rest)?)),
        b't' => RawValue::Bool(take::<1>(rest)? != [0]),
        b'd' => RawValue::F64(f64::from_be_bytes(take(rest)?)),
        b'f' => RawValue::F32(f32::from_be_bytes(take(rest)?)),
        b'T' => RawValue::Timestamp(u64::from_be_bytes(take(rest)?)),
        b'D' => {
            let [scale] = take::<1>(rest)?;
            RawValue::Decimal { scale, value: u32::from_be_bytes(take(rest)?) }
        }
        b'F' => RawValue::Table(RawTable { entries: take_long(rest)? }),
        b'A' => RawValue::Array(RawArray { values: take_long(rest)? }),
        b'x' => RawValue::Bytes(take_long(rest)?),
        b'V' => RawValue::Void,
        other => return Err(FieldError::UnknownTag(other)),
    })
}

#[inline]
fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], FieldError> {
    let truncated = FieldError::Truncated { expected: N, got: rest.len() };
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(truncated)?;
    *rest = tail;
    Ok(*head)
}

#[inline]
fn take_slice<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], FieldError> {
    let truncated = FieldError::Truncated { expected: length, got: rest.len() };
    let (head, tail) = rest.split_at_checked(length).ok_or(truncated)?;
    *rest = tail;
    Ok(head)
}

#[inline]
fn take_long<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], FieldError> {
    let length = u32::from_be_bytes(take(rest)?) as usize;
    take_slice(rest, length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{FieldTable, FieldValue};

    fn sample() -> Vec<u8> {
        let cc = FieldValue::Array(vec![FieldValue::string("a"), FieldValue::string("b")]);
        let mut bytes = Vec::new();
        FieldTable(vec![("n".into(), FieldValue::I32(-5)), ("CC".into(), cc)]).encode(&mut bytes);
        bytes
    }

    #[test]
    fn finds_values_in_place() {
        let bytes = sample();
        let (table, used) = RawTable::parse(&bytes).unwrap();
        assert_eq!(used, bytes.len());
        assert_eq!(table.get(b"n"), Some(RawValue::I32(-5)));
        let Some(RawValue::Array(keys)) = table.get(b"CC") else { panic!("no CC") };
        assert!(keys.iter().eq([RawValue::LongStr(b"a"), RawValue::LongStr(b"b")]));
        assert_eq!(table.get(b"missing"), None);
    }

    #[test]
    fn ends_at_malformed_bytes() {
        let mut bytes = sample();
        bytes[6] = b'?';
        let (table, _) = RawTable::parse(&bytes).unwrap();
        assert_eq!(table.iter().count(), 0);
        assert_eq!(table.iter().next_entry(), Err(FieldError::UnknownTag(b'?')));
    }
}
