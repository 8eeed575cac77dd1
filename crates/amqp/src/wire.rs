//! Reading and writing the fields of a method, in the order and packing of AMQP 0-9-1.
//!
//! Integers are big-endian. A short string is a length u8 and UTF-8, a long string a length u32 and bytes. Consecutive
//! bits share octets, the first in the lowest bit; any other field starts a new octet.

use posthouse_model::field::{FieldError, FieldTable};

/// Why a field could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WireError {
    /// The bytes end within the field.
    Truncated,
    /// A short string is not UTF-8.
    BadUtf8,
    /// A table is malformed.
    Table(FieldError),
}

/// A cursor over a method's fields.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// The octet whose bits are being read, and the mask of the next one; 0 when none is.
    bits: u8,
    mask: u8,
}

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, bits: 0, mask: 0 }
    }

    #[inline]
    pub(crate) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        self.mask = 0;
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(WireError::Truncated)?;
        self.rest = tail;
        Ok(*head)
    }

    #[inline]
    fn slice(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (head, tail) = self.rest.split_at_checked(length).ok_or(WireError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    #[inline]
    fn bit(&mut self) -> Result<bool, WireError> {
        if self.mask == 0 {
            [self.bits] = self.take()?;
            self.mask = 1;
        }
        let set = self.bits & self.mask != 0;
        self.mask <<= 1;
        Ok(set)
    }
}

/// Appends a method's fields.
pub(crate) struct Writer<'o> {
    out: &'o mut Vec<u8>,
    /// The mask of the next bit within the last octet; 0 when that holds no bits.
    mask: u8,
}

impl<'o> Writer<'o> {
    #[inline]
    pub(crate) fn new(out: &'o mut Vec<u8>) -> Self {
        Self { out, mask: 0 }
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.mask = 0;
        self.out.extend_from_slice(bytes);
    }

    #[inline]
    fn bit(&mut self, set: bool) {
        if self.mask == 0 {
            self.out.push(0);
            self.mask = 1;
        }
        if set && let Some(last) = self.out.last_mut() {
            *last |= self.mask;
        }
        self.mask <<= 1;
    }
}

/// A type of method field.
pub(crate) trait Wire<'a>: Sized {
    fn read(from: &mut Reader<'a>) -> Result<Self, WireError>;
    fn write(&self, to: &mut Writer<'_>);
}

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl<'a> Wire<'a> for $integer {
            #[inline]
            fn read(from: &mut Reader<'a>) -> Result<Self, WireError> {
                Ok(Self::from_be_bytes(from.take()?))
            }

            #[inline]
            fn write(&self, to: &mut Writer<'_>) {
                to.put(&self.to_be_bytes());
            }
        }
    )*};
}

integers!(u8, u16, u32, u64);

impl<'a> Wire<'a> for bool {
    #[inline]
    fn read(from: &mut Reader<'a>) -> Result<Self, WireError> {
        from.bit()
    }

    #[inline]
    fn write(&self, to: &mut Writer<'_>) {
        to.bit(*self);
    }
}

/// A short string.
impl<'a> Wire<'a> for &'a str {
    #[inline]
    fn read(from: &mut Reader<'a>) -> Result<Self, WireError> {
        let [length] = from.take()?;
        str::from_utf8(from.slice(usize::from(length))?).map_err(|_| WireError::BadUtf8)
    }

    #[inline]
    fn write(&self, to: &mut Writer<'_>) {
        let text = cut(self);
        to.put(&[text.len() as u8]);
        to.put(text.as_bytes());
    }
}

/// A long string.
impl<'a> Wire<'a> for &'a [u8] {
    fn read(from: &mut Reader<'a>) -> Result<Self, WireError> {
        let length = u32::from_be_bytes(from.take()?);
        from.slice(length as usize)
    }

    fn write(&self, to: &mut Writer<'_>) {
        to.put(&(self.len() as u32).to_be_bytes());
        to.put(self);
    }
}

impl<'a> Wire<'a> for FieldTable {
    fn read(from: &mut Reader<'a>) -> Result<Self, WireError> {
        from.mask = 0;
        let (table, used) = Self::decode(from.rest).map_err(WireError::Table)?;
        from.rest = &from.rest[used..];
        Ok(table)
    }

    fn write(&self, to: &mut Writer<'_>) {
        to.mask = 0;
        self.encode(to.out);
    }
}

/// The longest start of `text` that a short string can hold.
pub(crate) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(255)]
}
