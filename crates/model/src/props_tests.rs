//! Tests of the content header view.

use proptest::prelude::*;

use super::*;
use crate::field::FieldValue;
use crate::field::tests::any_table;

type Text = Option<String>;

fn any_text() -> impl Strategy<Value = Text> {
    prop::option::of("[a-z]{0,20}")
}

fn any_properties() -> impl Strategy<Value = Properties> {
    let first =
        (any_text(), any_text(), prop::option::of(any_table()), any::<Option<u8>>(), any::<Option<u8>>());
    let second = (any_text(), any_text(), any_text(), any_text(), any::<Option<u64>>());
    let third = (any_text(), any_text(), any_text(), any_text());
    (first, second, third).prop_map(|(a, b, c)| Properties {
        content_type: a.0,
        content_encoding: a.1,
        headers: a.2,
        delivery_mode: a.3,
        priority: a.4,
        correlation_id: b.0,
        reply_to: b.1,
        expiration: b.2,
        message_id: b.3,
        timestamp: b.4,
        message_type: c.0,
        user_id: c.1,
        app_id: c.2,
        cluster_id: c.3,
    })
}

fn encoded(properties: &Properties) -> Vec<u8> {
    let mut bytes = Vec::new();
    properties.encode(77, &mut bytes);
    bytes
}

proptest! {
    #[test]
    fn reads_what_was_encoded(properties in any_properties()) {
        let bytes = encoded(&properties);
        let view = HeaderView::parse(&bytes).unwrap();
        prop_assert_eq!((view.class(), view.body_size()), (60, 77));
        prop_assert_eq!(Properties::from_header(view).unwrap(), properties);
    }

    #[test]
    fn changes_one_property_only(properties in any_properties(), reply_to in any_text()) {
        let bytes = encoded(&properties);
        let view = HeaderView::parse(&bytes).unwrap();
        let changed = view.with_reply_to(reply_to.as_deref().map(str::as_bytes));
        prop_assert_eq!(changed, encoded(&Properties { reply_to, ..properties }));
    }

    #[test]
    fn removes_one_header_only(properties in any_properties(), mut headers in any_table()) {
        headers.0.retain(|(key, _)| key != "BCC");
        let without = encoded(&Properties { headers: Some(headers.clone()), ..properties.clone() });
        headers.0.insert(headers.0.len() / 2, ("BCC".into(), FieldValue::Void));
        let with = encoded(&Properties { headers: Some(headers), ..properties });
        let view = HeaderView::parse(&with).unwrap();
        prop_assert_eq!(view.without_header(b"BCC"), Ok(Some(without.clone())));
        let view = HeaderView::parse(&without).unwrap();
        prop_assert_eq!(view.without_header(b"BCC"), Ok(None));
    }

    #[test]
    fn sets_and_removes_the_headers_table(properties in any_properties(), table in any_table()) {
        let bytes = encoded(&properties);
        let view = HeaderView::parse(&bytes).unwrap();
        let mut raw = Vec::new();
        table.encode(&mut raw);
        let set = encoded(&Properties { headers: Some(table), ..properties.clone() });
        prop_assert_eq!(view.with_headers(Some(&raw)), set);
        prop_assert_eq!(super::has_expiration(&encoded(&properties)), properties.expiration.is_some());
        prop_assert_eq!(view.with_headers(None), encoded(&Properties { headers: None, ..properties }));
    }

    #[test]
    fn refuses_every_cut_and_every_tail(properties in any_properties(), at in any::<prop::sample::Index>()) {
        let mut bytes = encoded(&properties);
        prop_assert!(HeaderView::parse(&bytes[..at.index(bytes.len())]).is_err());
        bytes.push(0);
        prop_assert!(HeaderView::parse(&bytes).is_err());
    }

    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(view) = HeaderView::parse(&bytes) {
            let _ = (Properties::from_header(view), view.without_header(b"BCC"), view.with_reply_to(Some(b"x")));
        }
    }
}

#[test]
fn wire_bytes_are_fixed() {
    let properties =
        Properties { delivery_mode: Some(2), reply_to: Some("q".into()), ..Properties::default() };
    let bytes = encoded(&properties);
    assert_eq!(bytes, b"\0\x3c\0\0\0\0\0\0\0\0\0\x4d\x12\0\x02\x01q");
    let view = HeaderView::parse(&bytes).unwrap();
    assert!(view.is_persistent());
    assert_eq!((view.reply_to(), view.has(Property::Headers)), (Some(&b"q"[..]), false));
}
