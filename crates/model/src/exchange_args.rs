//! The arguments of exchange declarations, read into types.
//!
//! What RabbitMQ's exchange types validate is validated with the same texts. Other arguments are accepted, kept and
//! shown.

use crate::args::{check_equivalent, show};
use crate::errors::{self, Resource};
use crate::exchange::ExchangeKind;
use crate::field::{FieldTable, FieldValue};
use crate::reply::ReplyError;

/// Where unroutable messages go.
const ALTERNATE_EXCHANGE: &str = "alternate-exchange";
/// The header that `x-consistent-hash` looks at instead of the routing key.
const HASH_HEADER: &str = "hash-header";
/// The property that it looks at instead.
const HASH_PROPERTY: &str = "hash-property";

/// How many messages a recent history exchange keeps.
const HISTORY_LENGTH: &str = "x-recent-history-length";
/// How many it keeps unless it is told.
const DEFAULT_HISTORY_LENGTH: u64 = 20;

/// How many values a deduplication exchange remembers, or a queue.
pub(crate) const CACHE_SIZE: &str = "x-cache-size";
/// For how many milliseconds it does.
pub(crate) const CACHE_TTL: &str = "x-cache-ttl";
/// Whether a restart forgets them.
const CACHE_PERSISTENCE: &str = "x-cache-persistence";
/// The most that one may be told to remember: about a gigabyte of memory.
const CACHE_SIZE_MAX: u64 = 10_000_000;
/// The same of one that remembers across restarts: every checkpoint writes them all, 32 bytes each.
pub(crate) const CACHE_SIZE_ON_DISK_MAX: u64 = 1_000_000;
/// The type that a delayed message exchange routes as.
const DELAYED_TYPE: &str = "x-delayed-type";

/// Whether an argument of an exchange's declaration means something, be it to exchanges of another type only.
pub fn is_known_of_exchanges(name: &str) -> bool {
    const ALL: [&str; 8] = [
        ALTERNATE_EXCHANGE,
        HASH_HEADER,
        HASH_PROPERTY,
        HISTORY_LENGTH,
        CACHE_SIZE,
        CACHE_TTL,
        CACHE_PERSISTENCE,
        DELAYED_TYPE,
    ];
    ALL.contains(&name)
}

/// The arguments of an exchange declaration.
#[derive(Clone, PartialEq, Debug)]
pub struct ExchangeArguments {
    /// How the exchange routes: as its type says, or the one that a delayed message exchange has been given.
    pub routes_as: ExchangeKind,
    /// Whether it is a delayed message exchange.
    is_delayed: bool,
    /// The exchange that gets what this one routes to nothing.
    pub alternate_exchange: Option<String>,
    /// What a consistent hash exchange hashes; the routing key for all other types.
    pub hash_on: HashOn,
    /// How many messages a recent history exchange keeps; 0 for all other types.
    pub history_length: u64,
    /// What a deduplication exchange remembers; nothing for all other types.
    pub seen_window: SeenWindow,
    /// Whether it remembers across restarts, if it is durable.
    pub keeps_seen: bool,
    /// As the client sent them, to be shown and compared.
    pub table: FieldTable,
}

/// What a deduplication exchange remembers, or a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SeenWindow {
    /// How many values: the oldest make room.
    pub size: usize,
    /// For how many milliseconds, where the message does not say; for ever if nobody does.
    pub ttl_ms: Option<u64>,
}

/// The part of a message that a consistent hash exchange hashes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum HashOn {
    /// The routing key, with those of the `CC` and `BCC` headers.
    #[default]
    RoutingKey,
    /// The value of this header.
    Header(String),
    /// The property `message_id`.
    MessageId,
    /// The property `correlation_id`.
    CorrelationId,
    /// The property `timestamp`.
    Timestamp,
}

impl ExchangeArguments {
    /// No arguments, for a type that needs none.
    pub fn none(kind: ExchangeKind) -> Self {
        Self {
            routes_as: kind,
            seen_window: SeenWindow::default(),
            keeps_seen: false,
            is_delayed: false,
            alternate_exchange: None,
            hash_on: HashOn::RoutingKey,
            history_length: 0,
            table: FieldTable::default(),
        }
    }

    /// Reads the arguments of a declaration of `exchange`: 406 when the alternate exchange is not a long string, or
    /// the type of the exchange cannot do what an argument asks for.
    pub fn parse(kind: ExchangeKind, table: FieldTable, exchange: Resource<'_>) -> Result<Self, ReplyError> {
        let alternate_exchange = read_name(&table, ALTERNATE_EXCHANGE, exchange)?;
        let routes_as = match kind {
            ExchangeKind::DelayedMessage => delayed_type(&table, exchange)?,
            kind => kind,
        };
        let hash_on = match routes_as {
            ExchangeKind::ConsistentHash => HashOn::parse(&table, exchange)?,
            _ => HashOn::RoutingKey,
        };
        let history_length = match routes_as {
            ExchangeKind::RecentHistory => history_length(&table)?,
            _ => 0,
        };
        let (seen_window, keeps_seen) = match routes_as {
            ExchangeKind::Deduplication => SeenWindow::of_exchange(&table, exchange)?,
            _ => (SeenWindow::default(), false),
        };
        let is_delayed = kind == ExchangeKind::DelayedMessage;
        Ok(Self {
            routes_as,
            is_delayed,
            alternate_exchange,
            hash_on,
            history_length,
            seen_window,
            keeps_seen,
            table,
        })
    }

    /// Checks a redeclaration with the arguments `received`: 406 when its alternate exchange differs, or the type that it
    /// is to route as.
    pub fn check_equivalent(&self, received: &FieldTable, exchange: Resource<'_>) -> Result<(), ReplyError> {
        // On exchanges of other types it means nothing.
        if self.is_delayed {
            let current = self.table.get(DELAYED_TYPE);
            check_equivalent(DELAYED_TYPE, received.get(DELAYED_TYPE), current, exchange)?;
        }
        let current = self.table.get(ALTERNATE_EXCHANGE);
        check_equivalent(ALTERNATE_EXCHANGE, received.get(ALTERNATE_EXCHANGE), current, exchange)
    }
}

impl SeenWindow {
    /// Reads what an exchange is to remember, and whether that is to be on disk.
    fn of_exchange(table: &FieldTable, exchange: Resource<'_>) -> Result<(Self, bool), ReplyError> {
        let size = table.get(CACHE_SIZE).and_then(positive).ok_or_else(errors::invalid_cache_size)?;
        let ttl = table.get(CACHE_TTL).map(|value| positive(value).ok_or_else(errors::invalid_cache_ttl));
        let on_disk = match table.get(CACHE_PERSISTENCE) {
            None => false,
            Some(FieldValue::LongStr(word)) if word == b"memory" => false,
            Some(FieldValue::LongStr(word)) if word == b"disk" => true,
            Some(_) => return Err(errors::invalid_cache_persistence()),
        };
        let (most, place) = match on_disk {
            true => (CACHE_SIZE_ON_DISK_MAX, " on disk"),
            false => (CACHE_SIZE_MAX, ""),
        };
        if size > most {
            let reason = format!("\"expected at most {most}{place}, got {size}\"");
            return Err(errors::invalid_argument(CACHE_SIZE, exchange, &reason));
        }
        Ok((Self { size: size as usize, ttl_ms: ttl.transpose()? }, on_disk))
    }
}

/// An integer above 0, which may be written as a text.
fn positive(value: &FieldValue) -> Option<u64> {
    let number = match value {
        FieldValue::LongStr(text) => str::from_utf8(text).ok()?.parse().ok()?,
        other => other.as_int()?,
    };
    u64::try_from(number).ok().filter(|&number| number > 0)
}

impl HashOn {
    fn parse(table: &FieldTable, exchange: Resource<'_>) -> Result<Self, ReplyError> {
        let header = read_name(table, HASH_HEADER, exchange)?;
        let property = read_name(table, HASH_PROPERTY, exchange)?;
        match (header, property.as_deref()) {
            (None, None) => Ok(Self::RoutingKey),
            (Some(header), None) => Ok(Self::Header(header)),
            (None, Some("message_id")) => Ok(Self::MessageId),
            (None, Some("correlation_id")) => Ok(Self::CorrelationId),
            (None, Some("timestamp")) => Ok(Self::Timestamp),
            (None, Some(other)) => Err(errors::unsupported_hash_property(other)),
            (Some(_), Some(_)) => Err(errors::hash_header_and_property()),
        }
    }
}

/// The type that a delayed message exchange routes as, with the plugin's texts.
fn delayed_type(table: &FieldTable, exchange: Resource<'_>) -> Result<ExchangeKind, ReplyError> {
    let Some(FieldValue::LongStr(name)) = table.get(DELAYED_TYPE) else {
        return Err(errors::delayed_type_missing());
    };
    match ExchangeKind::parse(&String::from_utf8_lossy(name), exchange)? {
        ExchangeKind::DelayedMessage => Err(errors::delayed_type_is_itself()),
        kind => Ok(kind),
    }
}

fn history_length(table: &FieldTable) -> Result<u64, ReplyError> {
    let Some(value) = table.get(HISTORY_LENGTH) else { return Ok(DEFAULT_HISTORY_LENGTH) };
    let length = value.as_int().and_then(|length| u64::try_from(length).ok()).filter(|&length| length > 0);
    length.ok_or_else(|| match value {
        FieldValue::LongStr(text) => errors::invalid_history_length_text(text),
        _ => errors::invalid_history_length(&show(value)),
    })
}

/// A long string argument.
fn read_name(
    table: &FieldTable,
    argument: &str,
    exchange: Resource<'_>,
) -> Result<Option<String>, ReplyError> {
    match table.get(argument) {
        None => Ok(None),
        Some(FieldValue::LongStr(name)) => Ok(Some(String::from_utf8_lossy(name).into_owned())),
        Some(other) => Err(errors::invalid_argument_type(argument, exchange, other.type_name())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const E: Resource<'static> = Resource { kind: errors::ResourceKind::Exchange, vhost: "/", name: "e" };

    fn table(entries: &[(&str, FieldValue)]) -> FieldTable {
        FieldTable(entries.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect())
    }

    fn text(name: &str) -> FieldValue {
        FieldValue::string(name)
    }

    fn parse(kind: ExchangeKind, entries: &[(&str, FieldValue)]) -> Result<ExchangeArguments, (u16, String)> {
        ExchangeArguments::parse(kind, table(entries), E).map_err(|e| (e.code as u16, e.text))
    }

    #[test]
    fn alternate_exchange() {
        let parse = |value| parse(ExchangeKind::Direct, &[(ALTERNATE_EXCHANGE, value)]);
        assert_eq!(parse(text("a")).unwrap().alternate_exchange, Some("a".to_owned()));
        let error =
            "invalid type 'signedint' for arg 'alternate-exchange' in exchange 'e' in vhost '/'".to_owned();
        assert_eq!(parse(FieldValue::I32(1)).unwrap_err(), (406, error));
    }

    #[test]
    fn redeclarations_compare_the_alternate_exchange() {
        let exchange = parse(ExchangeKind::Direct, &[(ALTERNATE_EXCHANGE, text("a"))]).unwrap();
        assert!(exchange.check_equivalent(&table(&[(ALTERNATE_EXCHANGE, text("a"))]), E).is_ok());
        let error = exchange.check_equivalent(&FieldTable::default(), E).unwrap_err();
        let expected = "inequivalent arg 'alternate-exchange' for exchange 'e' in vhost '/': received none but \
                        current is the value 'a' of type 'longstr'";
        assert_eq!(error.text, expected);
    }

    #[test]
    fn what_is_hashed() {
        let hash_on = |entries: &[_]| parse(ExchangeKind::ConsistentHash, entries).map(|a| a.hash_on);
        assert_eq!(hash_on(&[]), Ok(HashOn::RoutingKey));
        assert_eq!(hash_on(&[(HASH_HEADER, text("h"))]), Ok(HashOn::Header("h".to_owned())));
        assert_eq!(hash_on(&[(HASH_PROPERTY, text("message_id"))]), Ok(HashOn::MessageId));
        assert_eq!(hash_on(&[(HASH_PROPERTY, text("correlation_id"))]), Ok(HashOn::CorrelationId));
        assert_eq!(hash_on(&[(HASH_PROPERTY, text("timestamp"))]), Ok(HashOn::Timestamp));
        let unsupported = (406, "Unsupported property: app_id".to_owned());
        assert_eq!(hash_on(&[(HASH_PROPERTY, text("app_id"))]), Err(unsupported));
        let both = (406, "hash-header and hash-property are mutually exclusive".to_owned());
        let entries = [(HASH_HEADER, text("h")), (HASH_PROPERTY, text("message_id"))];
        assert_eq!(hash_on(&entries), Err(both));
        let wrong_type = "invalid type 'signedint' for arg 'hash-header' in exchange 'e' in vhost '/'";
        assert_eq!(hash_on(&[(HASH_HEADER, FieldValue::I32(1))]), Err((406, wrong_type.to_owned())));
        let other_type = parse(ExchangeKind::Topic, &entries);
        assert_eq!(other_type.map(|arguments| arguments.hash_on), Ok(HashOn::RoutingKey));
    }

    #[test]
    fn delayed_message_exchanges_route_as_they_are_told() {
        let routes_as = |entries: &[_]| parse(ExchangeKind::DelayedMessage, entries).map(|a| a.routes_as);
        assert_eq!(routes_as(&[(DELAYED_TYPE, text("topic"))]), Ok(ExchangeKind::Topic));
        let wrong = (406, "unknown exchange type 'nosuch'".to_owned());
        assert_eq!(routes_as(&[(DELAYED_TYPE, text("nosuch"))]), Err(wrong));
        let missing = (406, errors::delayed_type_missing().text);
        assert_eq!(routes_as(&[]), Err(missing.clone()));
        assert_eq!(routes_as(&[(DELAYED_TYPE, FieldValue::I32(1))]), Err(missing));
        let itself = (406, errors::delayed_type_is_itself().text);
        assert_eq!(routes_as(&[(DELAYED_TYPE, text("x-delayed-message"))]), Err(itself));
        // What the inner type wants is wanted.
        let entries = [(DELAYED_TYPE, text("x-consistent-hash")), (HASH_PROPERTY, text("app_id"))];
        assert!(routes_as(&entries).is_err());
        assert_eq!(parse(ExchangeKind::Fanout, &[]).unwrap().routes_as, ExchangeKind::Fanout);
    }

    #[test]
    fn redeclarations_compare_what_a_delayed_message_exchange_routes_as() {
        let arguments = [(DELAYED_TYPE, text("topic"))];
        let exchange = parse(ExchangeKind::DelayedMessage, &arguments).unwrap();
        assert!(exchange.check_equivalent(&table(&arguments), E).is_ok());
        let error = exchange.check_equivalent(&table(&[(DELAYED_TYPE, text("direct"))]), E).unwrap_err();
        let expected = "inequivalent arg 'x-delayed-type' for exchange 'e' in vhost '/': received 'direct' but current is \
                        'topic'";
        assert_eq!(error.text, expected);
        let other = parse(ExchangeKind::Direct, &arguments).unwrap();
        assert!(other.check_equivalent(&FieldTable::default(), E).is_ok());
    }

    #[test]
    fn history_lengths() {
        let length = |entries: &[_]| parse(ExchangeKind::RecentHistory, entries).map(|a| a.history_length);
        assert_eq!(length(&[]), Ok(20));
        assert_eq!(length(&[(HISTORY_LENGTH, FieldValue::I8(3))]), Ok(3));
        for (value, shown) in [
            (FieldValue::I32(0), "0"),
            (FieldValue::I64(-1), "-1"),
            (text("many"), "<<\"many\">>"),
            (FieldValue::Bool(true), "true"),
        ] {
            let error =
                format!("Invalid argument {shown}, 'x-recent-history-length' must be a positive integer");
            assert_eq!(length(&[(HISTORY_LENGTH, value)]), Err((406, error)));
        }
    }

    #[test]
    fn what_is_remembered() {
        let window = |entries: &[_]| parse(ExchangeKind::Deduplication, entries).map(|a| a.seen_window);
        let size = (CACHE_SIZE, FieldValue::I32(9));
        assert_eq!(window(std::slice::from_ref(&size)), Ok(SeenWindow { size: 9, ttl_ms: None }));
        let all = [size.clone(), (CACHE_TTL, text("500")), (CACHE_PERSISTENCE, text("memory"))];
        assert_eq!(window(&all), Ok(SeenWindow { size: 9, ttl_ms: Some(500) }));
        let no_size = "Missing or invalid argument, 'x-cache-size' must be an integer greater than 0";
        for wrong in [FieldValue::I32(0), FieldValue::I64(-1), text("many"), FieldValue::Bool(true)] {
            assert_eq!(window(&[(CACHE_SIZE, wrong.clone())]), Err((406, no_size.to_owned())));
            let no_ttl = "Invalid argument, 'x-cache-ttl' must be an integer greater than 0".to_owned();
            assert_eq!(window(&[size.clone(), (CACHE_TTL, wrong)]), Err((406, no_ttl)));
        }
        assert_eq!(window(&[]), Err((406, no_size.to_owned())));
        let too_many = "invalid arg 'x-cache-size' for exchange 'e' in vhost '/': \
                        \"expected at most 10000000, got 10000001\"";
        assert_eq!(window(&[(CACHE_SIZE, FieldValue::I32(10_000_001))]), Err((406, too_many.to_owned())));
        let word = "Invalid argument, 'x-cache-persistence' must be either 'disk' or 'memory'";
        assert_eq!(window(&[size.clone(), (CACHE_PERSISTENCE, text("x"))]), Err((406, word.to_owned())));
        let on_disk = |size| {
            let entries = [(CACHE_SIZE, FieldValue::I32(size)), (CACHE_PERSISTENCE, text("disk"))];
            parse(ExchangeKind::Deduplication, &entries).map(|a| (a.seen_window.size, a.keeps_seen))
        };
        assert_eq!(on_disk(1_000_000), Ok((1_000_000, true)));
        let too_many = "invalid arg 'x-cache-size' for exchange 'e' in vhost '/': \
                        \"expected at most 1000000 on disk, got 1000001\"";
        assert_eq!(on_disk(1_000_001), Err((406, too_many.to_owned())));
        assert!(!parse(ExchangeKind::Deduplication, &all).unwrap().keeps_seen);
    }
}
