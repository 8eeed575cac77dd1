//! Content headers with entries that the broker adds to the publisher's headers table.

use crate::field::{FieldTable, FieldValue};
use crate::props::HeaderView;
use crate::raw_table::RawTable;

/// A copy of a content header whose headers table begins with these entries, 64-bit integers, in place of any that had
/// their names. All else keeps its bytes. `None` for what is no content header or has a table that cannot be read.
pub fn with_integers(header: &[u8], entries: &[(&str, u32)]) -> Option<Vec<u8>> {
    let view = HeaderView::parse(header).ok()?;
    let added = entries.iter().map(|&(name, value)| (name.to_owned(), FieldValue::I64(value.into())));
    let mut table = Vec::new();
    FieldTable(added.collect()).encode(&mut table);
    if let Some(raw) = view.headers_bytes() {
        let (publishers, _) = RawTable::parse(raw).ok()?;
        let mut rest = publishers.iter();
        let mut before = rest.remainder();
        while let Some((name, _)) = rest.next_entry().ok()? {
            let after = rest.remainder();
            if !entries.iter().any(|(added, _)| added.as_bytes() == name) {
                table.extend_from_slice(&before[..before.len() - after.len()]);
            }
            before = after;
        }
        let length = u32::try_from(table.len() - 4).ok()?;
        table[..4].copy_from_slice(&length.to_be_bytes());
    }
    Some(view.with_headers(Some(&table)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::props::Properties;

    fn header(properties: &Properties) -> Vec<u8> {
        let mut bytes = Vec::new();
        properties.encode(5, &mut bytes);
        bytes
    }

    fn table(entries: &[(&str, FieldValue)]) -> FieldTable {
        FieldTable(entries.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    }

    #[test]
    fn entries_come_first_and_replace_those_of_their_names() {
        let mine =
            |table| Properties { message_id: Some("m".into()), headers: table, ..Properties::default() };
        let added = [("x-a", 3), ("x-b", u32::MAX)];
        let expected = [("x-a", FieldValue::I64(3)), ("x-b", FieldValue::I64(u32::MAX.into()))];
        let bare = with_integers(&header(&mine(None)), &added).unwrap();
        assert_eq!(bare, header(&mine(Some(table(&expected)))));
        let others =
            [("k", FieldValue::string("v")), ("x-b", FieldValue::Bool(true)), ("l", FieldValue::Void)];
        let merged = with_integers(&header(&mine(Some(table(&others)))), &added).unwrap();
        let expected = [&expected[..], &[others[0].clone(), others[2].clone()]].concat();
        assert_eq!(merged, header(&mine(Some(table(&expected)))));
    }

    #[test]
    fn what_cannot_be_read_is_left_alone() {
        assert_eq!(with_integers(b"no header", &[("x-a", 1)]), None);
        let mut broken = header(&Properties {
            headers: Some(table(&[("k", FieldValue::I32(1))])),
            ..Properties::default()
        });
        let at = broken.len() - 5;
        broken[at] = b'?';
        assert_eq!(with_integers(&broken, &[("x-a", 1)]), None);
    }
}
