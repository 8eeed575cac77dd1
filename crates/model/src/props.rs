//! Content headers: the payload of a content header frame, read in place and rebuilt with one property changed.
//!
//! ```text
//! class u16 | weight u16 = 0 | body size u64 | flags u16 | the properties whose flag is set, in this order
//! bit 15 content-type  14 content-encoding  13 headers (table)  12 delivery-mode u8  11 priority u8  10 correlation-id
//!      9 reply-to  8 expiration  7 message-id  6 timestamp u64  5 type  4 user-id  3 app-id  2 cluster-id
//! ```
//!
//! Big-endian; a property without a type here is a short string (length u8 and bytes). Bits 1 and 0 are ignored, as
//! RabbitMQ does. A message keeps the bytes its publisher sent; nothing here re-encodes what it was not asked to change.

use std::ops::Range;

use crate::field::{FieldError, FieldTable};
use crate::raw_table::RawTable;

/// Bytes before the first property.
pub const FIXED_BYTES: usize = 14;

/// The class of all content: `basic`.
pub const CLASS_BASIC: u16 = 60;

/// A property, with its bit in the flags word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
#[expect(missing_docs, reason = "the specification's names")]
pub enum Property {
    ContentType = 15,
    ContentEncoding = 14,
    Headers = 13,
    DeliveryMode = 12,
    Priority = 11,
    CorrelationId = 10,
    ReplyTo = 9,
    Expiration = 8,
    MessageId = 7,
    Timestamp = 6,
    Type = 5,
    UserId = 4,
    AppId = 3,
    ClusterId = 2,
}

/// Why bytes are not a content header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderError {
    /// Cut within the fixed part or a property.
    #[error("content header is cut short: expected at least {expected} bytes, got {got}")]
    Truncated {
        /// Bytes there should be at least.
        expected: usize,
        /// Bytes there are.
        got: usize,
    },
    /// Bytes follow the last property.
    #[error("expected the content header to end after {expected} bytes, got {got}")]
    Trailing {
        /// Where the last property ends.
        expected: usize,
        /// Bytes there are.
        got: usize,
    },
}

/// A checked view of a content header: every property lies within the bytes. What is inside the headers table is not
/// looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeaderView<'a> {
    payload: &'a [u8],
}

impl<'a> HeaderView<'a> {
    /// Checks `payload`, the payload of a content header frame.
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<Self, HeaderError> {
        let got = payload.len();
        let Some((_, flags)) = payload.first_chunk::<FIXED_BYTES>().map(|fixed| (fixed, flags_of(fixed)))
        else {
            return Err(HeaderError::Truncated { expected: FIXED_BYTES, got });
        };
        let end = match flags & !3 {
            0 => FIXED_BYTES,
            // Only a delivery mode or a priority, or both: what most publishers send.
            0x1000 | 0x0800 => FIXED_BYTES + 1,
            0x1800 => FIXED_BYTES + 2,
            _ => walk(payload, 1)?,
        };
        if end == got {
            Ok(Self { payload })
        } else if end > got {
            Err(HeaderError::Truncated { expected: end, got })
        } else {
            Err(HeaderError::Trailing { expected: end, got })
        }
    }

    /// The bytes it looks at.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The class id; 60 is `basic`.
    #[inline]
    pub fn class(&self) -> u16 {
        u16::from_be_bytes([self.payload[0], self.payload[1]])
    }

    /// Bytes of body that follow the header.
    #[inline]
    pub fn body_size(&self) -> u64 {
        let p = self.payload;
        u64::from_be_bytes([p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11]])
    }

    /// The flags word: which properties there are.
    #[inline]
    pub fn flags(&self) -> u16 {
        u16::from_be_bytes([self.payload[12], self.payload[13]])
    }

    /// The flags word and the properties as bytes: all but the class and the size of the body.
    #[inline]
    pub fn property_bytes(&self) -> &'a [u8] {
        &self.payload[FIXED_BYTES - 2..]
    }

    /// Whether a property is there.
    #[inline]
    pub fn has(&self, property: Property) -> bool {
        self.flags() >> (property as u8) & 1 != 0
    }

    /// 1 transient, 2 persistent; `None` when not given.
    #[inline]
    pub fn delivery_mode(&self) -> Option<u8> {
        match self.flags() {
            flags if flags & 0x1000 == 0 => None,
            flags if flags & 0xe000 == 0 => self.payload.get(FIXED_BYTES).copied(),
            _ => self.octet(Property::DeliveryMode),
        }
    }

    /// Whether the publisher asked for delivery mode 2.
    #[inline]
    pub fn is_persistent(&self) -> bool {
        self.delivery_mode() == Some(2)
    }

    /// The headers table, not looked at further.
    pub fn headers(&self) -> Option<RawTable<'a>> {
        let raw = self.headers_bytes()?;
        RawTable::parse(raw).ok().map(|(table, _)| table)
    }

    /// The headers table's bytes, its length first.
    #[inline]
    pub fn headers_bytes(&self) -> Option<&'a [u8]> {
        self.bytes(Property::Headers)
    }

    /// Whether the headers table, if there is one, can be read to its end.
    #[inline]
    pub fn check_headers(&self) -> Result<(), FieldError> {
        match self.headers_bytes() {
            None => Ok(()),
            Some(raw) => RawTable::parse(raw)?.0.check(),
        }
    }

    /// Where the headers table is, its length first; where it would be, and empty, when there is none.
    #[inline]
    pub fn headers_span(&self) -> Range<usize> {
        self.span(Property::Headers)
    }

    /// 0 to 255, as the publisher sent it.
    #[inline]
    pub fn priority(&self) -> Option<u8> {
        match self.flags() {
            flags if flags & 0x0800 == 0 => None,
            flags if flags & 0xe000 == 0 => {
                let after_delivery_mode = FIXED_BYTES + usize::from(flags & 0x1000 != 0);
                self.payload.get(after_delivery_mode).copied()
            }
            _ => self.octet(Property::Priority),
        }
    }

    /// Seconds since the Unix epoch.
    pub fn timestamp(&self) -> Option<u64> {
        self.bytes(Property::Timestamp)?.try_into().ok().map(u64::from_be_bytes)
    }

    /// MIME type.
    pub fn content_type(&self) -> Option<&'a [u8]> {
        self.short(Property::ContentType)
    }

    /// MIME encoding.
    pub fn content_encoding(&self) -> Option<&'a [u8]> {
        self.short(Property::ContentEncoding)
    }

    /// What a reply is matched by.
    pub fn correlation_id(&self) -> Option<&'a [u8]> {
        self.short(Property::CorrelationId)
    }

    /// Where replies go.
    pub fn reply_to(&self) -> Option<&'a [u8]> {
        self.short(Property::ReplyTo)
    }

    /// The message's time to live: milliseconds in decimal, not checked.
    pub fn expiration(&self) -> Option<&'a [u8]> {
        self.short(Property::Expiration)
    }

    /// The application's message id.
    pub fn message_id(&self) -> Option<&'a [u8]> {
        self.short(Property::MessageId)
    }

    /// The application's message type.
    pub fn message_type(&self) -> Option<&'a [u8]> {
        self.short(Property::Type)
    }

    /// The user the publisher says to be.
    pub fn user_id(&self) -> Option<&'a [u8]> {
        self.short(Property::UserId)
    }

    /// The application's name.
    pub fn app_id(&self) -> Option<&'a [u8]> {
        self.short(Property::AppId)
    }

    /// Deprecated by the specification.
    pub fn cluster_id(&self) -> Option<&'a [u8]> {
        self.short(Property::ClusterId)
    }

    /// A copy of the header with a short-string property set (cut to 255 bytes) or removed. All else is unchanged.
    /// The property must not be one of another type: `Headers`, `DeliveryMode`, `Priority`, `Timestamp`.
    pub fn with_short(&self, property: Property, value: Option<&[u8]>) -> Vec<u8> {
        debug_assert!(is_short(property));
        match value {
            None => self.splice(property, None),
            Some(value) => {
                let value = &value[..value.len().min(255)];
                let mut encoded = Vec::with_capacity(1 + value.len());
                encoded.push(value.len() as u8);
                encoded.extend_from_slice(value);
                self.splice(property, Some(&encoded))
            }
        }
    }

    /// A copy of the header with another `reply-to`, or none. All else is unchanged.
    pub fn with_reply_to(&self, value: Option<&[u8]>) -> Vec<u8> {
        self.with_short(Property::ReplyTo, value)
    }

    /// A copy of the header with this headers table (encoded, its length first), or none. All else is unchanged.
    pub fn with_headers(&self, table: Option<&[u8]>) -> Vec<u8> {
        self.splice(Property::Headers, table)
    }

    /// A copy of the header whose headers table has no entry named `key`; the other entries keep their bytes. `None`
    /// when there is no such entry, so that the header can be used as it is.
    pub fn without_header(&self, key: &[u8]) -> Result<Option<Vec<u8>>, FieldError> {
        let Some(raw) = self.headers_bytes() else { return Ok(None) };
        let (table, _) = RawTable::parse(raw)?;
        let mut kept = vec![0; 4];
        let mut entries = table.iter();
        let mut before = entries.remainder();
        while let Some((name, _)) = entries.next_entry()? {
            let after = entries.remainder();
            if name != key {
                kept.extend_from_slice(&before[..before.len() - after.len()]);
            }
            before = after;
        }
        if kept.len() == raw.len() {
            return Ok(None);
        }
        let length = (kept.len() - 4) as u32;
        kept[..4].copy_from_slice(&length.to_be_bytes());
        Ok(Some(self.splice(Property::Headers, Some(&kept))))
    }

    /// The property's bytes as on the wire, lengths included.
    #[inline]
    fn bytes(&self, property: Property) -> Option<&'a [u8]> {
        if !self.has(property) {
            return None;
        }
        self.payload.get(self.span(property))
    }

    fn octet(&self, property: Property) -> Option<u8> {
        if self.has(property) { self.payload.get(self.start_of(property)).copied() } else { None }
    }

    pub(crate) fn short(&self, property: Property) -> Option<&'a [u8]> {
        self.bytes(property)?.get(1..)
    }

    /// Where the property starts, or would start.
    fn start_of(&self, property: Property) -> usize {
        walk(self.payload, property as u8 + 1).unwrap_or(self.payload.len())
    }

    /// Where the property is, or, when it is not there, the empty range where it would be.
    fn span(&self, property: Property) -> Range<usize> {
        let start = self.start_of(property);
        // The view was checked, so the walk cannot fail.
        let end =
            if self.has(property) { walk(self.payload, property as u8).unwrap_or(start) } else { start };
        start..end
    }

    fn splice(&self, property: Property, value: Option<&[u8]>) -> Vec<u8> {
        let span = self.span(property);
        let bit = 1u16 << (property as u8);
        let flags = if value.is_some() { self.flags() | bit } else { self.flags() & !bit };
        let value = value.unwrap_or_default();
        let mut out = Vec::with_capacity(self.payload.len() - span.len() + value.len());
        out.extend_from_slice(&self.payload[..12]);
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(&self.payload[FIXED_BYTES..span.start]);
        out.extend_from_slice(value);
        out.extend_from_slice(&self.payload[span.end..]);
        out
    }
}

/// Whether a content header has the property `expiration`; false for bytes that are none.
#[inline]
pub fn has_expiration(header: &[u8]) -> bool {
    const AT: usize = FIXED_BYTES - 2;
    // The flags are big-endian.
    header.get(AT).is_some_and(|high| high >> (Property::Expiration as u8 - 8) & 1 != 0)
}

fn is_short(property: Property) -> bool {
    use Property::{DeliveryMode, Headers, Priority, Timestamp};
    !matches!(property, Headers | DeliveryMode | Priority | Timestamp)
}

#[inline]
fn flags_of(fixed: &[u8; FIXED_BYTES]) -> u16 {
    u16::from_be_bytes([fixed[12], fixed[13]])
}

/// Where the properties end whose bits are `lowest` or above.
fn walk(payload: &[u8], lowest: u8) -> Result<usize, HeaderError> {
    let mut at = FIXED_BYTES;
    let truncated = |expected| HeaderError::Truncated { expected, got: payload.len() };
    let mut flags = u32::from(u16::from_be_bytes([payload[12], payload[13]]) & !3) >> lowest << lowest;
    while flags != 0 {
        let bit = 31 - flags.leading_zeros();
        flags &= !(1 << bit);
        at += match bit {
            13 => {
                let length = payload.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
                4 + length.ok_or(truncated(at + 4))? as usize
            }
            11 | 12 => 1,
            6 => 8,
            _ => 1 + usize::from(*payload.get(at).ok_or(truncated(at + 1))?),
        };
        if at > payload.len() {
            return Err(truncated(at));
        }
    }
    Ok(at)
}

/// All properties as owned values: for those who make messages, such as the client role.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Properties {
    /// MIME type
    pub content_type: Option<String>,
    /// MIME encoding
    pub content_encoding: Option<String>,
    /// The headers table
    pub headers: Option<FieldTable>,
    /// 1 transient, 2 persistent
    pub delivery_mode: Option<u8>,
    /// 0 to 255
    pub priority: Option<u8>,
    /// What a reply is matched by
    pub correlation_id: Option<String>,
    /// Where replies go
    pub reply_to: Option<String>,
    /// Milliseconds in decimal
    pub expiration: Option<String>,
    /// The application's message id
    pub message_id: Option<String>,
    /// Seconds since the Unix epoch
    pub timestamp: Option<u64>,
    /// The application's message type
    pub message_type: Option<String>,
    /// The publishing user
    pub user_id: Option<String>,
    /// The application's name
    pub app_id: Option<String>,
    /// Deprecated by the specification
    pub cluster_id: Option<String>,
}

impl Properties {
    /// Appends a content header frame's payload for a body of `body_size` bytes. Strings are cut to 255 bytes.
    pub fn encode(&self, body_size: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&CLASS_BASIC.to_be_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&body_size.to_be_bytes());
        let at = out.len();
        out.extend_from_slice(&[0; 2]);
        let mut flags = 0u16;
        let mut set = |property: Property| flags |= 1 << property as u8;
        let mut short = |out: &mut Vec<u8>, property, value: &Option<String>| {
            if let Some(value) = value {
                set(property);
                let value = &value[..value.floor_char_boundary(255)];
                out.push(value.len() as u8);
                out.extend_from_slice(value.as_bytes());
            }
        };
        short(out, Property::ContentType, &self.content_type);
        short(out, Property::ContentEncoding, &self.content_encoding);
        if let Some(headers) = &self.headers {
            headers.encode(out);
        }
        out.extend(self.delivery_mode);
        out.extend(self.priority);
        short(out, Property::CorrelationId, &self.correlation_id);
        short(out, Property::ReplyTo, &self.reply_to);
        short(out, Property::Expiration, &self.expiration);
        short(out, Property::MessageId, &self.message_id);
        if let Some(timestamp) = self.timestamp {
            out.extend_from_slice(&timestamp.to_be_bytes());
        }
        short(out, Property::Type, &self.message_type);
        short(out, Property::UserId, &self.user_id);
        short(out, Property::AppId, &self.app_id);
        short(out, Property::ClusterId, &self.cluster_id);
        let others = [
            (self.headers.is_some(), Property::Headers),
            (self.delivery_mode.is_some(), Property::DeliveryMode),
            (self.priority.is_some(), Property::Priority),
            (self.timestamp.is_some(), Property::Timestamp),
        ];
        others.into_iter().filter(|(there, _)| *there).for_each(|(_, property)| flags |= 1 << property as u8);
        out[at..at + 2].copy_from_slice(&flags.to_be_bytes());
    }

    /// Reads all properties. Text that is not UTF-8 has its bad bytes replaced; a malformed headers table is an error.
    pub fn from_header(header: HeaderView<'_>) -> Result<Self, FieldError> {
        let text = |bytes: Option<&[u8]>| bytes.map(|b| String::from_utf8_lossy(b).into_owned());
        let headers = header.headers_bytes().map(FieldTable::decode).transpose()?;
        Ok(Self {
            content_type: text(header.content_type()),
            content_encoding: text(header.content_encoding()),
            headers: headers.map(|(table, _)| table),
            delivery_mode: header.delivery_mode(),
            priority: header.priority(),
            correlation_id: text(header.correlation_id()),
            reply_to: text(header.reply_to()),
            expiration: text(header.expiration()),
            message_id: text(header.message_id()),
            timestamp: header.timestamp(),
            message_type: text(header.message_type()),
            user_id: text(header.user_id()),
            app_id: text(header.app_id()),
            cluster_id: text(header.cluster_id()),
        })
    }
}

#[cfg(test)]
#[path = "props_tests.rs"]
mod tests;
