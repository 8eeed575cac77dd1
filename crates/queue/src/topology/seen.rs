//! What deduplication exchanges tell messages apart by, and whom they ask whether they have seen one before.

use posthouse_model::exchange_args::SeenWindow;
use posthouse_model::name::Name;
use posthouse_model::props::HeaderView;
use posthouse_model::raw_table::RawValue;

use crate::header_value;

/// The header by which messages are told apart.
const HEADER: &[u8] = b"x-deduplication-header";

/// The header that says how long the message's value is remembered, in milliseconds.
const TTL_HEADER: &[u8] = b"x-cache-ttl";

/// What a message is told from others by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Its value, hashed.
    pub value: u128,
    /// How long it asks to be remembered, in milliseconds.
    pub ttl_ms: Option<u64>,
}

/// Says of messages that are routed whether they are duplicates.
pub trait Duplicates {
    /// Whether `exchange` has seen a message's value, within its window. It has from now on.
    fn is_duplicate(&mut self, exchange: &Name, window: SeenWindow, message: Seen) -> bool;
}

/// For messages that are not compared with others: none is a duplicate, and nothing is remembered of them.
#[derive(Clone, Copy, Debug)]
pub struct NotCompared;

impl Duplicates for NotCompared {
    fn is_duplicate(&mut self, _: &Name, _: SeenWindow, _: Seen) -> bool {
        false
    }
}

impl Seen {
    /// Reads a message's headers; none when there is nothing to tell it from others by.
    pub(crate) fn of(header: HeaderView<'_>) -> Option<Self> {
        let headers = header.headers()?;
        let value = headers.get(HEADER).and_then(header_value::hash)?;
        let ttl_ms = match headers.get(TTL_HEADER) {
            Some(RawValue::I8(ms)) => u64::try_from(ms).ok(),
            Some(RawValue::U8(ms)) => Some(ms.into()),
            Some(RawValue::I16(ms)) => u64::try_from(ms).ok(),
            Some(RawValue::U16(ms)) => Some(ms.into()),
            Some(RawValue::I32(ms)) => u64::try_from(ms).ok(),
            Some(RawValue::U32(ms)) => Some(ms.into()),
            Some(RawValue::I64(ms)) => u64::try_from(ms).ok(),
            _ => None,
        };
        Some(Self { value, ttl_ms: ttl_ms.filter(|&ms| ms > 0) })
    }
}
