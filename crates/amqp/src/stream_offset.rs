//! Content headers of messages that come from a stream: the publisher's bytes, with the message's number as one more
//! entry of the headers table.
//!
//! ```text
//! headers table = length u32 | "x-stream-offset" as a short string, 'l', number i64 | the publisher's entries
//! ```

use posthouse_model::props::{FIXED_BYTES, HeaderView, Property};

use crate::content;
use crate::frame::{self, END, FrameKind};

const NAME: &[u8] = b"x-stream-offset";

/// The entry's name and type.
const ENTRY_HEAD: &[u8] = b"\x0fx-stream-offsetl";

/// Bytes that a header grows by at most.
pub const MORE_BYTES: usize = 4 + ENTRY_HEAD.len() + 8;

/// Appends the header frame of the message of that number; the body follows by [`content::write_body`].
#[inline]
pub fn write_header(out: &mut Vec<u8>, channel: u16, header: &[u8], number: u64) {
    match HeaderView::parse(header) {
        Ok(view) if view.headers().is_some_and(|table| table.get(NAME).is_some()) => {
            write_without_former(out, channel, view, number);
        }
        Ok(view) => write(out, channel, view, number),
        // Nothing is stored that was not parsed before.
        Err(_) => content::write_header(out, channel, header),
    }
}

/// The message was read from a stream before it was published, so it has an entry already.
#[cold]
fn write_without_former(out: &mut Vec<u8>, channel: u16, header: HeaderView<'_>, number: u64) {
    let without = header.without_header(NAME).ok().flatten();
    match without.as_deref().map(HeaderView::parse) {
        Some(Ok(view)) => write(out, channel, view, number),
        // The table cannot be read to its end: it is passed on as it is.
        _ => content::write_header(out, channel, header.payload()),
    }
}

#[inline]
fn write(out: &mut Vec<u8>, channel: u16, header: HeaderView<'_>, number: u64) {
    let (payload, table) = (header.payload(), header.headers_span());
    let entries = payload.get(table.start + 4..table.end).unwrap_or_default();
    let table_bytes = ENTRY_HEAD.len() + 8 + entries.len();
    let size = payload.len() - table.len() + 4 + table_bytes;
    out.extend_from_slice(&frame::head(FrameKind::Header, channel, size));
    out.extend_from_slice(&payload[..FIXED_BYTES - 2]);
    out.extend_from_slice(&(header.flags() | 1 << Property::Headers as u16).to_be_bytes());
    out.extend_from_slice(&payload[FIXED_BYTES..table.start]);
    out.extend_from_slice(&(table_bytes as u32).to_be_bytes());
    out.extend_from_slice(ENTRY_HEAD);
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(entries);
    out.extend_from_slice(&payload[table.end..]);
    out.push(END);
}

#[cfg(test)]
mod tests {
    use posthouse_model::field::{FieldTable, FieldValue};

    use super::*;
    use crate::frame::next_frame;

    /// The header frame's payload for a message with these properties' bytes.
    fn written(flags: u16, properties: &[u8], number: u64) -> Vec<u8> {
        let header = [&[0, 60, 0, 0][..], &5u64.to_be_bytes(), &flags.to_be_bytes(), properties].concat();
        let mut out = Vec::new();
        write_header(&mut out, 3, &header, number);
        assert!(out.len() <= header.len() + frame::OVERHEAD_BYTES + MORE_BYTES);
        let (frame, used) = next_frame(&out, 1000).unwrap().unwrap();
        assert_eq!((frame.kind, frame.channel, used), (FrameKind::Header, 3, out.len()));
        frame.payload.to_vec()
    }

    fn table(entries: &[(&str, i64)]) -> Vec<u8> {
        let entry = |(name, value): &(&str, i64)| ((*name).to_owned(), FieldValue::I64(*value));
        let mut bytes = Vec::new();
        FieldTable(entries.iter().map(entry).collect()).encode(&mut bytes);
        bytes
    }

    #[test]
    fn the_number_is_added_whatever_else_there_is() {
        let offset = ("x-stream-offset", 77);
        for (flags, before, entries, after) in [
            (0, &b""[..], None, &b""[..]),
            (0x1000, b"", None, b"\x02"),
            (0xd000, b"\x03a/b\x04gzip", None, b"\x02"),
            (0xf000, b"\x03a/b\x04gzip", Some(vec![]), b"\x02"),
            (0xb000, b"\x03a/b", Some(vec![("k", 1), ("l", 2)]), b"\x02"),
            (0x2000, b"", Some(vec![("k", 1), ("x-stream-offset", 5), ("l", 2)]), b""),
        ] {
            let given = entries.as_deref().map(table).unwrap_or_default();
            let payload = written(flags, &[before, &given, after].concat(), 77);
            let mut expected = vec![offset];
            expected.extend(entries.into_iter().flatten().filter(|entry| entry.0 != offset.0));
            let properties = [before, &table(&expected), after].concat();
            assert_eq!(payload[12..14], (flags | 0x2000).to_be_bytes());
            assert_eq!(
                (payload[4..12].to_vec(), payload[14..].to_vec()),
                (vec![0, 0, 0, 0, 0, 0, 0, 5], properties)
            );
        }
    }
}
