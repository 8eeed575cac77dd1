//! Choosing messages by what is written on them: for browsing, purging and moving some of a queue's messages.
//!
//! ```text
//! filter   NAME=VALUE     the field is there and its text is VALUE
//!          NAME           the field is there
//!          sql:SELECTOR   the selector selects the message, as in a binding to a JMS topic exchange
//! NAME     exchange | routing_key | headers.KEY | a property such as message_id, type, priority, delivery_mode
//! ```
//!
//! Numbers are compared by their decimal text, booleans as `true` and `false`. Several filters must all hold.

use posthouse_model::field::FieldValue;
use posthouse_model::named_props::PropertyValue;
use posthouse_model::props::{HeaderView, Property};
use posthouse_model::record::Record;
use posthouse_model::selector::Selector;

/// What the text of a selector begins with.
const SELECTOR: &str = "sql:";

/// One condition.
#[derive(Clone, PartialEq, Debug)]
pub struct MessageFilter(Condition);

#[derive(Clone, PartialEq, Debug)]
enum Condition {
    Field(Field, Option<String>),
    Selector(Selector),
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Field {
    Exchange,
    RoutingKey,
    Property(Property),
    Header(String),
}

impl MessageFilter {
    /// Reads `NAME=VALUE`, `NAME` or `sql:SELECTOR`. The error says what was expected and what was got.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(selector) = text.strip_prefix(SELECTOR) {
            let selector =
                Selector::parse(selector).map_err(|problem| format!("filter: {SELECTOR} {problem}"))?;
            return Ok(Self(Condition::Selector(selector)));
        }
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        let field = match name {
            "exchange" => Field::Exchange,
            "routing_key" => Field::RoutingKey,
            _ => match (name.strip_prefix("headers."), named().find(|known| known.name() == name)) {
                (Some(key), _) if !key.is_empty() => Field::Header(key.to_owned()),
                (_, Some(property)) => Field::Property(property),
                _ => {
                    let known = named().map(Property::name).collect::<Vec<_>>().join(", ");
                    return Err(format!(
                        "filter: expected exchange, routing_key, headers.KEY, {SELECTOR} or one of {known}, got {name:?}"
                    ));
                }
            },
        };
        Ok(Self(Condition::Field(field, value)))
    }

    /// Whether a message is one of those meant. One whose header cannot be read is not.
    pub fn matches(&self, record: &Record<'_>) -> bool {
        let (field, wanted) = match &self.0 {
            Condition::Field(field, wanted) => (field, wanted),
            Condition::Selector(selector) => {
                return HeaderView::parse(record.header()).is_ok_and(|header| selector.matches(header));
            }
        };
        let (exchange, key) = record.exchange_and_key();
        let found = match field {
            Field::Exchange => Some(text(exchange)),
            Field::RoutingKey => Some(text(key)),
            Field::Property(name) => HeaderView::parse(record.header()).ok().and_then(|h| property(h, *name)),
            Field::Header(name) => HeaderView::parse(record.header()).ok().and_then(|h| header(h, name)),
        };
        match (found, wanted) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(found), Some(wanted)) => found == *wanted,
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Properties that can be named: all that have one value.
fn named() -> impl Iterator<Item = Property> {
    Property::ALL.into_iter().filter(|property| *property != Property::Headers)
}

fn property(header: HeaderView<'_>, property: Property) -> Option<String> {
    match header.property(property)? {
        PropertyValue::Text(bytes) => Some(text(bytes)),
        PropertyValue::Number(number) => Some(number.to_string()),
        PropertyValue::Table(_) => None,
    }
}

fn header(header: HeaderView<'_>, key: &str) -> Option<String> {
    let value = FieldValue::from_raw_value(header.headers()?.get(key.as_bytes())?).ok()?;
    Some(match &value {
        FieldValue::LongStr(bytes) => text(bytes),
        FieldValue::Bool(yes) => yes.to_string(),
        FieldValue::F32(number) => number.to_string(),
        FieldValue::F64(number) => number.to_string(),
        FieldValue::Timestamp(seconds) => seconds.to_string(),
        other => other.as_int().map(|number| number.to_string()).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use posthouse_model::chunk::ChunkBuilder;
    use posthouse_model::field::FieldTable;
    use posthouse_model::props::Properties;

    use super::*;

    fn matches(filter: &str) -> bool {
        let headers = FieldTable(vec![
            ("tenant".to_owned(), FieldValue::string("a=b")),
            ("retries".to_owned(), FieldValue::I32(3)),
            ("urgent".to_owned(), FieldValue::Bool(true)),
        ]);
        let properties = Properties {
            headers: Some(headers),
            priority: Some(7),
            message_id: Some("m1".to_owned()),
            ..Properties::default()
        };
        let mut header = Vec::new();
        properties.encode(0, &mut header);
        let mut builder = ChunkBuilder::default();
        builder.push(0, 0, b"\x04logs\x05a.b.c", &header, 0, b"");
        let chunk = builder.finish();
        MessageFilter::parse(filter).unwrap().matches(&chunk.record_at(0).unwrap())
    }

    #[test]
    fn fields_are_found_and_compared_as_text() {
        for yes in [
            "exchange=logs",
            "routing_key=a.b.c",
            "headers.tenant=a=b",
            "headers.retries=3",
            "headers.urgent=true",
            "headers.urgent",
            "priority=7",
            "message_id=m1",
            "sql:tenant LIKE 'a=_' AND retries > 2 AND properties.priority = 7",
        ] {
            assert!(matches(yes), "{yes}");
        }
        for no in [
            "exchange=log",
            "headers.retries=03",
            "headers.nosuch",
            "message_id=m",
            "app_id",
            "type=",
            "sql:retries > 3",
        ] {
            assert!(!matches(no), "{no}");
        }
    }

    #[test]
    fn unknown_fields_are_refused() {
        let error = MessageFilter::parse("sql:retries >").unwrap_err();
        assert_eq!(error, "filter: sql: expected a name, a literal or (, got the end at byte 9");
        for bad in ["nosuch=1", "headers.=1", "", "=x"] {
            let text = MessageFilter::parse(bad).unwrap_err();
            assert!(
                text.starts_with("filter: expected exchange, routing_key, headers.KEY, sql: or one of"),
                "{text}"
            );
        }
    }
}
