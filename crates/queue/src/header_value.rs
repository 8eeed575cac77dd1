//! Values of headers, told apart by hashes of 128 bits.

use std::hash::BuildHasher;

use foldhash::quality::FixedState;
use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::props::HeaderView;
use posthouse_model::raw_table::RawValue;
use posthouse_model::record::Record;

/// The value of a message's header of that name; none when it has none.
pub(crate) fn find<'a>(record: &Record<'a>, name: &[u8]) -> Option<RawValue<'a>> {
    // What is stored was checked when it came.
    HeaderView::parse(record.header()).ok()?.headers()?.get(name)
}

/// What is kept of a value, also on disk: it must stay the same. Integers of all widths are compared by value, and with nothing else.
pub(crate) fn hash(value: RawValue<'_>) -> Option<u128> {
    match value {
        RawValue::LongStr(bytes) | RawValue::Bytes(bytes) => Some(hash_bytes(0, bytes)),
        other => {
            let value = FieldValue::from_raw_value(other).ok()?;
            if let Some(number) = value.as_int() {
                return Some(hash_bytes(1, &number.to_be_bytes()));
            }
            let mut bytes = Vec::new();
            FieldTable(vec![(String::new(), value)]).encode(&mut bytes);
            Some(hash_bytes(2, &bytes))
        }
    }
}

fn hash_bytes(kind: u8, bytes: &[u8]) -> u128 {
    let half = |seed| u128::from(FixedState::with_seed(seed).hash_one((kind, bytes)));
    half(1) << 64 | half(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another version of the hash would not know what was kept by this one.
    #[test]
    fn is_the_same_for_ever() {
        assert_eq!(hash(RawValue::LongStr(b"order-1")), Some(202992811879248539274422083035087093974));
        assert_eq!(hash(RawValue::I8(1)), Some(340147617632445379847885139074593828201));
        assert_eq!(hash(RawValue::I64(1)), hash(RawValue::I8(1)));
        assert_eq!(hash(RawValue::Bool(true)), Some(128835328052415917634911067481942016499));
    }
}
