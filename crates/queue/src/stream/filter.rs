//! Filter values: what a message says of itself, what a reader wants, and the summary of a block's values.
//!
//! A message's filter value is its `x-stream-filter-value` header, a long string. A summary tells, without reading a
//! block, that a value is *not* in it:
//!
//! ```text
//! flags u8 (1 = some message has no value) | bits, as many bytes as the stream was declared with (16 to 255)
//! ```
//!
//! A value sets `HASHES` bits: with h1 and h2 the lower and the upper half of its 64-bit hash (FNV-1a, then mixed as
//! MurmurHash3 does), bit number (h1 + i * h2) modulo the number of bits, lowest bit of a byte first. Version 1; the
//! version is carried by the block.

use posthouse_model::chunk::Chunk;
use posthouse_model::props::HeaderView;
use posthouse_model::raw_table::RawValue;
use posthouse_model::record::Record;

/// The header that a message's filter value is in.
const FILTER_VALUE: &[u8] = b"x-stream-filter-value";

/// Bits that a value sets.
const HASHES: u64 = 4;

/// A message without a value is in the block.
const FLAG_UNFILTERED: u8 = 1;

/// Which messages a reader wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    /// One of these values.
    pub values: Vec<Box<[u8]>>,
    /// Messages without a value, too.
    pub match_unfiltered: bool,
}

impl Filter {
    /// Whether the reader wants this message.
    pub fn matches(&self, record: &Record<'_>) -> bool {
        match value_of(record) {
            Some(value) => self.values.iter().any(|wanted| **wanted == *value),
            None => self.match_unfiltered,
        }
    }

    /// Whether a block of this summary may have a message that the reader wants.
    pub fn may_match(&self, summary: &[u8]) -> bool {
        let Some((flags, bits)) = summary.split_first().filter(|(_, bits)| !bits.is_empty()) else {
            return true;
        };
        (self.match_unfiltered && flags & FLAG_UNFILTERED != 0)
            || self.values.iter().any(|value| bits_of(value, bits.len()).all(|bit| is_set(bits, bit)))
    }
}

/// The summary of a block's filter values, in `1 + bytes` bytes.
pub fn summarize(chunk: &Chunk, bytes: u8) -> Vec<u8> {
    let mut summary = vec![0; 1 + usize::from(bytes)];
    for record in chunk.records() {
        match value_of(&record) {
            None => summary[0] |= FLAG_UNFILTERED,
            Some(value) => {
                for bit in bits_of(value, usize::from(bytes)) {
                    summary[1 + bit / 8] |= 1 << (bit % 8);
                }
            }
        }
    }
    summary
}

fn value_of<'a>(record: &Record<'a>) -> Option<&'a [u8]> {
    let header = HeaderView::parse(record.header()).ok()?;
    match header.headers()?.get(FILTER_VALUE)? {
        RawValue::LongStr(value) => Some(value),
        _ => None,
    }
}

fn is_set(bits: &[u8], bit: usize) -> bool {
    bits[bit / 8] & 1 << (bit % 8) != 0
}

/// The bits that a value sets among those of `bytes` bytes, at least one.
fn bits_of(value: &[u8], bytes: usize) -> impl Iterator<Item = usize> {
    let hash = hash(value);
    let (h1, h2) = (hash & 0xffff_ffff, hash >> 32);
    let bits = bytes as u64 * 8;
    (0..HASHES).map(move |i| ((h1 + i * h2) % bits) as usize)
}

fn hash(value: &[u8]) -> u64 {
    let mut hash = value.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use posthouse_model::chunk::ChunkBuilder;
    use posthouse_model::field::{FieldTable, FieldValue};

    use super::*;

    fn header(value: Option<&str>) -> Vec<u8> {
        let plain = [&[0, 60, 0, 0][..], &[0; 8], &[0, 0]].concat();
        let Some(value) = value else { return plain };
        let mut table = Vec::new();
        FieldTable(vec![("x-stream-filter-value".into(), FieldValue::string(value))]).encode(&mut table);
        HeaderView::parse(&plain).unwrap().with_headers(Some(&table))
    }

    fn chunk(values: &[Option<&str>]) -> Chunk {
        let mut builder = ChunkBuilder::default();
        for value in values {
            builder.push(0, 0, b"\0\x01q", &header(*value), 1, b"x");
        }
        builder.finish()
    }

    fn filter(values: &[&str], match_unfiltered: bool) -> Filter {
        Filter { values: values.iter().map(|v| v.as_bytes().into()).collect(), match_unfiltered }
    }

    #[test]
    fn messages_match_exactly() {
        let chunk = chunk(&[Some("invoices"), None, Some("invoice")]);
        let matched = |filter: &Filter| chunk.records().map(|r| filter.matches(&r)).collect::<Vec<_>>();
        assert_eq!(matched(&filter(&["invoices"], false)), [true, false, false]);
        assert_eq!(matched(&filter(&["invoice", "x"], true)), [false, true, true]);
    }

    #[test]
    fn a_summary_never_denies_what_is_there_and_mostly_what_is_not() {
        let there: Vec<String> = (0..8).map(|i| format!("customer-{i}")).collect();
        let values: Vec<_> = there.iter().map(|v| Some(v.as_str())).collect();
        for bytes in [16, 200, 255] {
            let summary = summarize(&chunk(&values), bytes);
            assert_eq!(summary.len(), 1 + usize::from(bytes));
            for value in &there {
                assert!(filter(&[value], false).may_match(&summary));
            }
            let wrong = (0..1000).filter(|i| filter(&[&format!("other-{i}")], false).may_match(&summary));
            assert!(wrong.count() < 50);
            assert!(!filter(&["other-0"], true).may_match(&summary), "no message is without a value");
        }
        let summary = summarize(&chunk(&[None]), 16);
        assert!(filter(&["a"], true).may_match(&summary) && !filter(&["a"], false).may_match(&summary));
        assert!(filter(&["a"], false).may_match(&[]), "nothing is known of a block without a summary");
    }

    #[test]
    fn version_1_bits_are_fixed() {
        let summary = summarize(&chunk(&[Some("a"), None]), 16);
        let set: Vec<_> = (0..128).filter(|&bit| is_set(&summary[1..], bit)).collect();
        assert_eq!((summary[0], set), (1, vec![11, 51, 91, 99]));
    }
}
