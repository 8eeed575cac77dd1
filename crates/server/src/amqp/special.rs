//! Properties of a published message that the broker acts on: `user-id`, `expiration`, `reply-to`, and the headers `CC`,
//! `BCC`, `x-delay` and `x-deliver-at`.

use posthouse_auth::authorities::Identity;
use posthouse_model::args::parse_expiration;
use posthouse_model::delay;
use posthouse_model::errors;
use posthouse_model::field::FieldValue;
use posthouse_model::props::{HeaderView, Property};
use posthouse_model::raw_table::RawTable;
use posthouse_model::reply::ReplyError;
use posthouse_queue::stream::publishers::REFERENCE;

use super::reply_to;

/// Flags of the properties above.
const CARE: u16 = 1 << Property::Headers as u16
    | 1 << Property::ReplyTo as u16
    | 1 << Property::Expiration as u16
    | 1 << Property::UserId as u16;

/// Bytes of `BCC` keys that are stored with a message; it is dead-lettered without the rest.
const HIDDEN_KEYS_BYTES_MAX: usize = 32 << 10;

/// The flag of the headers.
const HEADERS: u16 = 1 << Property::Headers as u16;

/// What of a message's properties the broker may act on, as far as whether there is anything. Most messages with headers
/// have only the application's, and many publishers send the same ones with every message.
#[derive(Debug, Default)]
pub(crate) struct Care {
    /// Flags and properties, as bytes, of the last message that has headers and needs no care.
    plain: Vec<u8>,
}

/// Longer headers are not remembered.
const PLAIN_BYTES_MAX: usize = 1 << 10;

impl Care {
    /// Whether the headers, if there are any, can be read to their end. Ones that cannot would end the connection of
    /// whoever consumes the message.
    #[inline]
    pub(crate) fn can_read(&self, header: HeaderView<'_>) -> bool {
        header.flags() & HEADERS == 0 || self.is_known(header) || header.check_headers().is_ok()
    }

    /// Whether a message, whose headers can be read, has a property that the broker may act on.
    #[inline]
    pub(crate) fn is_needed(&mut self, header: HeaderView<'_>) -> bool {
        match header.flags() & CARE {
            0 => false,
            HEADERS => !self.is_known(header) && self.is_needed_by(header),
            _ => true,
        }
    }

    #[inline]
    fn is_known(&self, header: HeaderView<'_>) -> bool {
        header.property_bytes() == self.plain
    }

    fn is_needed_by(&mut self, header: HeaderView<'_>) -> bool {
        let is_needed = has_special_header(header);
        if !is_needed && header.property_bytes().len() <= PLAIN_BYTES_MAX {
            self.plain.clear();
            self.plain.extend_from_slice(header.property_bytes());
        }
        is_needed
    }
}

fn has_special_header(header: HeaderView<'_>) -> bool {
    let Some(headers) = header.headers() else { return true };
    let mut entries = headers.iter();
    loop {
        match entries.next_entry() {
            Ok(Some((b"x-delay", value))) if delay::is_none(value) => {}
            Ok(Some((b"CC" | b"BCC" | b"x-delay" | b"x-deliver-at", _))) => return true,
            Ok(Some((name, _))) if name == REFERENCE => return true,
            Ok(Some(_)) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

/// What the broker reads from a message's properties.
#[derive(Debug, Default)]
pub(crate) struct Special {
    /// Routing keys from `CC` and `BCC`.
    pub extra_keys: Vec<String>,
    /// Those of `BCC` as short strings one after the other: stored, and seen by nobody.
    pub hidden_keys: Vec<u8>,
    /// The header to be stored, where it differs from the one that came.
    pub header: Option<Vec<u8>>,
    /// When the message is to be delivered, in milliseconds since the Unix epoch; none for now.
    pub due_ms: Option<u64>,
}

impl Special {
    /// Checks and reads the properties. `reply_queue` is the queue behind `amq.rabbitmq.reply-to` on the channel, and the
    /// message was received at `now_ms`, milliseconds since the Unix epoch.
    pub(crate) fn read(
        header: HeaderView<'_>,
        identity: &Identity,
        reply_queue: Option<&str>,
        now_ms: u64,
    ) -> Result<Self, ReplyError> {
        check_user_id(header, identity)?;
        if let Some(expiration) = header.expiration() {
            parse_expiration(expiration)?;
        }
        let mut special = Self::default();
        if let Some(table) = header.headers() {
            special.read_extra_keys(header, table)?;
            special.due_ms = delay::due_ms(table, now_ms)?;
            if special.due_ms.is_some() {
                let current = special.header.take();
                let view = view_of(&current, header);
                special.header = delay::with_delay_negated(view).or(current);
            }
        }
        if header.reply_to() == Some(reply_to::PSEUDO_QUEUE.as_bytes()) {
            let queue = reply_queue.ok_or_else(errors::no_fast_reply_consumer)?;
            let current = special.header.take();
            let view = view_of(&current, header);
            special.header = Some(view.with_reply_to(Some(queue.as_bytes())));
        }
        Ok(special)
    }

    fn hide(&mut self, key: &[u8]) {
        // A longer one is no routing key, and a record has room for so many.
        if let Ok(length) = u8::try_from(key.len())
            && self.hidden_keys.len() + 1 + key.len() <= HIDDEN_KEYS_BYTES_MAX
        {
            self.hidden_keys.push(length);
            self.hidden_keys.extend_from_slice(key);
        }
    }

    fn read_extra_keys(&mut self, header: HeaderView<'_>, table: RawTable<'_>) -> Result<(), ReplyError> {
        for name in ["CC", "BCC"] {
            let Some(value) = table.get(name.as_bytes()) else { continue };
            let refused = |type_name| errors::invalid_extra_keys_header(name, type_name);
            let value = FieldValue::from_raw_value(value).map_err(|_| refused("table"))?;
            let FieldValue::Array(keys) = value else { return Err(refused(value.type_name())) };
            for key in keys {
                match key {
                    FieldValue::LongStr(bytes) => {
                        if name == "BCC" {
                            self.hide(&bytes);
                        }
                        self.extra_keys.push(String::from_utf8_lossy(&bytes).into_owned())
                    }
                    // RabbitMQ looks at the elements of `CC` only.
                    other if name == "CC" => return Err(refused(other.type_name())),
                    _ => {}
                }
            }
            if name == "BCC" {
                self.header = header.without_header(b"BCC").ok().flatten();
            }
        }
        Ok(())
    }
}

/// What has become of a header by now.
fn view_of<'a>(changed: &'a Option<Vec<u8>>, header: HeaderView<'a>) -> HeaderView<'a> {
    changed.as_ref().map_or(header, |bytes| HeaderView::parse(bytes).unwrap_or(header))
}

fn check_user_id(header: HeaderView<'_>, identity: &Identity) -> Result<(), ReplyError> {
    match header.user_id() {
        Some(claimed) if claimed != identity.user.as_bytes() && !identity.has_tag("impersonator") => {
            Err(errors::user_id_mismatch(&String::from_utf8_lossy(claimed), &identity.user))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use posthouse_model::field::FieldTable;
    use posthouse_model::props::Properties;

    use super::*;

    fn cares(name: &str, value: FieldValue) -> bool {
        let more = ("application".to_owned(), FieldValue::I32(1));
        let headers = Some(FieldTable(vec![more.clone(), (name.to_owned(), value), more]));
        let mut header = Vec::new();
        Properties { headers, ..Properties::default() }.encode(0, &mut header);
        Care::default().is_needed(HeaderView::parse(&header).unwrap())
    }

    #[test]
    fn only_headers_that_the_broker_knows_need_care() {
        for (name, value) in [
            ("CC", FieldValue::Void),
            ("BCC", FieldValue::Array(Vec::new())),
            ("x-delay", FieldValue::I32(1)),
            ("x-delay", FieldValue::string("0")),
            ("x-deliver-at", FieldValue::I64(0)),
            ("x-stream-publisher-reference", FieldValue::string("p")),
        ] {
            assert!(cares(name, value.clone()), "{name} {value:?}");
        }
        for (name, value) in
            [("x-delay", FieldValue::I32(0)), ("x-delay", FieldValue::I64(-9)), ("cc", FieldValue::Void)]
        {
            assert!(!cares(name, value.clone()), "{name} {value:?}");
        }
    }

    #[test]
    fn other_properties_need_care_with_any_headers() {
        let with = |properties: Properties| {
            let mut header = Vec::new();
            properties.encode(0, &mut header);
            Care::default().is_needed(HeaderView::parse(&header).unwrap())
        };
        assert!(!with(Properties { content_type: Some("text/plain".to_owned()), ..Properties::default() }));
        let headers = Some(FieldTable::default());
        let expiration = Some("1".to_owned());
        assert!(with(Properties { headers, expiration, ..Properties::default() }));
    }

    #[test]
    fn what_is_known_is_only_the_same_once_more() {
        let header = |name: &str, value: i32| {
            let headers = Some(FieldTable(vec![(name.to_owned(), FieldValue::I32(value))]));
            let mut header = Vec::new();
            Properties { headers, ..Properties::default() }.encode(7, &mut header);
            header
        };
        let (plain, other) = (header("x-delay", 0), header("x-delay", 1));
        let mut care = Care::default();
        for (bytes, is_needed) in
            [(&plain, false), (&plain, false), (&other, true), (&plain, false), (&other, true)]
        {
            let view = HeaderView::parse(bytes).unwrap();
            assert!(care.can_read(view));
            assert_eq!(care.is_needed(view), is_needed, "{bytes:?}");
        }
        // The same with a type that there is not.
        let mut unreadable = plain.clone();
        let tag = unreadable.len() - 5;
        unreadable[tag] = b'Z';
        assert!(!care.can_read(HeaderView::parse(&unreadable).unwrap()));
    }
}
