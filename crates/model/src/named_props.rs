//! A message's properties by name: for filters, listings and copies, which each make another form of them.

use crate::props::{HeaderView, Property};
use crate::raw_table::RawTable;

/// The value of a property.
#[derive(Clone, Copy, Debug)]
pub enum PropertyValue<'a> {
    /// A short string.
    Text(&'a [u8]),
    /// An octet or a timestamp.
    Number(u64),
    /// The headers; what is inside has not been looked at.
    Table(RawTable<'a>),
}

impl Property {
    /// All of them, in the order in which they follow each other in a content header.
    pub const ALL: [Self; 14] = [
        Self::ContentType,
        Self::ContentEncoding,
        Self::Headers,
        Self::DeliveryMode,
        Self::Priority,
        Self::CorrelationId,
        Self::ReplyTo,
        Self::Expiration,
        Self::MessageId,
        Self::Timestamp,
        Self::Type,
        Self::UserId,
        Self::AppId,
        Self::ClusterId,
    ];

    /// Its name in RabbitMQ's listings and copies.
    pub fn name(self) -> &'static str {
        match self {
            Self::ContentType => "content_type",
            Self::ContentEncoding => "content_encoding",
            Self::Headers => "headers",
            Self::DeliveryMode => "delivery_mode",
            Self::Priority => "priority",
            Self::CorrelationId => "correlation_id",
            Self::ReplyTo => "reply_to",
            Self::Expiration => "expiration",
            Self::MessageId => "message_id",
            Self::Timestamp => "timestamp",
            Self::Type => "type",
            Self::UserId => "user_id",
            Self::AppId => "app_id",
            Self::ClusterId => "cluster_id",
        }
    }
}

impl<'a> HeaderView<'a> {
    /// A property's value; none when it is not set, or the headers have no length.
    pub fn property(&self, property: Property) -> Option<PropertyValue<'a>> {
        match property {
            Property::Headers => self.headers().map(PropertyValue::Table),
            Property::DeliveryMode => self.delivery_mode().map(|mode| PropertyValue::Number(mode.into())),
            Property::Priority => self.priority().map(|priority| PropertyValue::Number(priority.into())),
            Property::Timestamp => self.timestamp().map(PropertyValue::Number),
            text => self.short(text).map(PropertyValue::Text),
        }
    }

    /// The properties that are set, in order.
    pub fn properties(&self) -> impl Iterator<Item = (Property, PropertyValue<'a>)> {
        let view = *self;
        Property::ALL.into_iter().filter_map(move |property| Some((property, view.property(property)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{FieldTable, FieldValue};
    use crate::props::Properties;

    fn shown(properties: &Properties) -> Vec<String> {
        let mut header = Vec::new();
        properties.encode(5, &mut header);
        let show = |(property, value): (Property, PropertyValue<'_>)| match value {
            PropertyValue::Text(text) => format!("{}={}", property.name(), String::from_utf8_lossy(text)),
            PropertyValue::Number(number) => format!("{}={number}", property.name()),
            PropertyValue::Table(table) => {
                format!("{}={:?}", property.name(), FieldTable::from_raw_table(table).unwrap().0)
            }
        };
        HeaderView::parse(&header).unwrap().properties().map(show).collect()
    }

    #[test]
    fn what_is_set_is_walked_in_order() {
        let text = |text: &str| Some(text.to_owned());
        let all = Properties {
            content_type: text("a"),
            content_encoding: text("b"),
            headers: Some(FieldTable(vec![("k".to_owned(), FieldValue::Bool(true))])),
            delivery_mode: Some(2),
            priority: Some(9),
            correlation_id: text("c"),
            reply_to: text("d"),
            expiration: text("e"),
            message_id: text("f"),
            timestamp: Some(1 << 40),
            message_type: text("g"),
            user_id: text("h"),
            app_id: text("i"),
            cluster_id: text("j"),
        };
        let expected = [
            "content_type=a",
            "content_encoding=b",
            "headers=[(\"k\", Bool(true))]",
            "delivery_mode=2",
            "priority=9",
            "correlation_id=c",
            "reply_to=d",
            "expiration=e",
            "message_id=f",
            "timestamp=1099511627776",
            "type=g",
            "user_id=h",
            "app_id=i",
            "cluster_id=j",
        ];
        assert_eq!(shown(&all), expected);
        let some = Properties { priority: Some(0), user_id: text(""), ..Properties::default() };
        assert_eq!(shown(&some), ["priority=0", "user_id="]);
        assert!(shown(&Properties::default()).is_empty());
    }
}
