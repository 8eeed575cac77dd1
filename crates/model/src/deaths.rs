//! What became of a message before, in its headers: `x-death`, `x-first-death-*` and `x-last-death-*`.
//!
//! `x-death` is an array of tables, the last death first, one for each queue and reason:
//!
//! ```text
//! count l | reason S | queue S | time T (of the first such death) | exchange S | routing-keys A of S
//! | original-expiration S, if the message had one
//! ```
//!
//! The headers are spliced as bytes: what a publisher put there stays as it is.

use crate::props::{HeaderView, Property};
use crate::raw_table::{RawArray, RawTable, RawValue};

const DEATHS: &[u8] = b"x-death";
const EXTRA_KEYS: &[u8] = b"CC";
/// The reason that makes a cycle harmless: somebody looked at the message.
const REJECTED: &[u8] = b"rejected";

/// The end of a message in a queue.
#[derive(Clone, Copy, Debug)]
pub struct Death<'a> {
    /// The queue.
    pub queue: &'a str,
    /// Why it left.
    pub reason: &'a str,
    /// The exchange it was published to.
    pub exchange: &'a [u8],
    /// The key it was published with.
    pub routing_key: &'a [u8],
    /// When, in seconds since the Unix epoch.
    pub seconds: u64,
}

/// The content header of the dead message: the death is noted in its headers, and its expiration is gone. `has_deaths`
/// says whether `x-death` is the broker's own; else it is replaced. With `new_key` it gets another routing key, and
/// `CC`, which names more, is removed.
pub fn after_death(header: HeaderView<'_>, has_deaths: bool, death: &Death<'_>, new_key: bool) -> Vec<u8> {
    let empty = RawTable::from_entries(&[]);
    let table = header.headers().unwrap_or(empty);
    let earlier = match table.get(DEATHS) {
        Some(RawValue::Array(deaths)) if has_deaths => Some(deaths),
        _ => None,
    };
    let extra_keys = match table.get(EXTRA_KEYS) {
        Some(RawValue::Array(keys)) => Some(keys),
        _ => None,
    };
    let mut out = vec![0; 4];
    copy_others(table, earlier.is_some(), new_key, &mut out);
    name(&mut out, DEATHS);
    array(&mut out, |out| append_deaths(out, earlier, extra_keys, header.expiration(), death));
    if earlier.is_none() {
        summary(&mut out, "x-first-death-", death);
    }
    summary(&mut out, "x-last-death-", death);
    set_length(&mut out, 0);
    let spliced = header.with_headers(Some(&out));
    match HeaderView::parse(&spliced) {
        Ok(view) if view.has(Property::Expiration) => view.with_short(Property::Expiration, None),
        _ => spliced,
    }
}

/// Whether a message whose content header this is, its last death noted, would go round by itself if it entered
/// `queue`: it has died there, and nobody has rejected it since.
pub fn is_cycle(header: HeaderView<'_>, queue: &str) -> bool {
    let Some(RawValue::Array(deaths)) = header.headers().and_then(|table| table.get(DEATHS)) else {
        return false;
    };
    for death in deaths.iter() {
        let RawValue::Table(death) = death else { continue };
        if death.get(b"reason") == Some(RawValue::LongStr(REJECTED)) {
            return false;
        }
        if death.get(b"queue") == Some(RawValue::LongStr(queue.as_bytes())) {
            return true;
        }
    }
    false
}

/// The queue in which a message died last, and the exchange and the key it had come there by; none where the headers do
/// not say.
pub fn origin(header: HeaderView<'_>) -> Option<Origin<'_>> {
    let RawValue::Array(deaths) = header.headers()?.get(DEATHS)? else { return None };
    let RawValue::Table(last) = deaths.iter().next()? else { return None };
    let RawValue::Array(keys) = last.get(b"routing-keys")? else { return None };
    match (last.get(b"queue")?, last.get(b"exchange")?, keys.iter().next()?) {
        (RawValue::LongStr(queue), RawValue::LongStr(exchange), RawValue::LongStr(routing_key)) => {
            Some(Origin { queue, exchange, routing_key })
        }
        _ => None,
    }
}

/// Where a message was before its last death.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin<'a> {
    /// The queue.
    pub queue: &'a [u8],
    /// The exchange it was published to.
    pub exchange: &'a [u8],
    /// With this key.
    pub routing_key: &'a [u8],
}

/// Copies every header but those that are to be written anew.
fn copy_others(table: RawTable<'_>, keep_first: bool, new_key: bool, out: &mut Vec<u8>) {
    let mut entries = table.iter();
    let mut before = entries.remainder();
    // A publisher's headers were checked as they came.
    while let Ok(Some((name, _))) = entries.next_entry() {
        let after = entries.remainder();
        let replaced = name == DEATHS
            || name.starts_with(b"x-last-death-")
            || (name.starts_with(b"x-first-death-") && !keep_first)
            || (name == EXTRA_KEYS && new_key);
        if !replaced {
            out.extend_from_slice(&before[..before.len() - after.len()]);
        }
        before = after;
    }
}

/// Appends the deaths, this one first: as another one of the same queue for the same reason, or as the first such.
fn append_deaths(
    out: &mut Vec<u8>,
    earlier: Option<RawArray<'_>>,
    extra_keys: Option<RawArray<'_>>,
    expiration: Option<&[u8]>,
    death: &Death<'_>,
) {
    let is_same = |table: RawTable<'_>| {
        table.get(b"queue") == Some(RawValue::LongStr(death.queue.as_bytes()))
            && table.get(b"reason") == Some(RawValue::LongStr(death.reason.as_bytes()))
    };
    let same = earlier.iter().flat_map(RawArray::iter).find_map(|value| match value {
        RawValue::Table(table) if is_same(table) => Some(table),
        _ => None,
    });
    match same {
        Some(table) => again(out, table),
        None => first(out, extra_keys, expiration, death),
    }
    let Some(earlier) = earlier else { return };
    let mut values = earlier.iter();
    let mut before = values.remainder();
    while let Ok(Some(value)) = values.next_value() {
        let after = values.remainder();
        if !matches!(value, RawValue::Table(table) if is_same(table)) {
            out.extend_from_slice(&before[..before.len() - after.len()]);
        }
        before = after;
    }
}

fn first(out: &mut Vec<u8>, extra_keys: Option<RawArray<'_>>, expiration: Option<&[u8]>, death: &Death<'_>) {
    table(out, |out| {
        count(out, 1);
        text(out, b"reason", death.reason.as_bytes());
        text(out, b"queue", death.queue.as_bytes());
        name(out, b"time");
        out.push(b'T');
        out.extend_from_slice(&death.seconds.to_be_bytes());
        text(out, b"exchange", death.exchange);
        name(out, b"routing-keys");
        array(out, |out| {
            long_string(out, death.routing_key);
            for key in extra_keys.iter().flat_map(RawArray::iter) {
                if let RawValue::LongStr(key) = key {
                    long_string(out, key);
                }
            }
        });
        if let Some(expiration) = expiration {
            text(out, b"original-expiration", expiration);
        }
    });
}

/// The death as it was, counted once more.
fn again(out: &mut Vec<u8>, death: RawTable<'_>) {
    let deaths = match death.get(b"count") {
        Some(RawValue::I64(deaths)) => deaths,
        _ => 0,
    };
    table(out, |out| {
        count(out, deaths.saturating_add(1));
        let mut entries = death.iter();
        let mut before = entries.remainder();
        while let Ok(Some((name, _))) = entries.next_entry() {
            let after = entries.remainder();
            if name != b"count" {
                out.extend_from_slice(&before[..before.len() - after.len()]);
            }
            before = after;
        }
    });
}

/// The three headers that say a death's reason, queue and exchange without a table.
fn summary(out: &mut Vec<u8>, prefix: &str, death: &Death<'_>) {
    let entries: [(&str, &[u8]); 3] = [
        ("reason", death.reason.as_bytes()),
        ("queue", death.queue.as_bytes()),
        ("exchange", death.exchange),
    ];
    for (field, value) in entries {
        out.push((prefix.len() + field.len()) as u8);
        out.extend_from_slice(prefix.as_bytes());
        out.extend_from_slice(field.as_bytes());
        long_string(out, value);
    }
}

fn count(out: &mut Vec<u8>, count: i64) {
    name(out, b"count");
    out.push(b'l');
    out.extend_from_slice(&count.to_be_bytes());
}

fn text(out: &mut Vec<u8>, field: &[u8], value: &[u8]) {
    name(out, field);
    long_string(out, value);
}

/// All names here are short.
fn name(out: &mut Vec<u8>, name: &[u8]) {
    out.push(name.len() as u8);
    out.extend_from_slice(name);
}

fn long_string(out: &mut Vec<u8>, value: &[u8]) {
    out.push(b'S');
    out.extend_from_slice(&(value.len() as u32).to_be_bytes());
    out.extend_from_slice(value);
}

fn array(out: &mut Vec<u8>, values: impl FnOnce(&mut Vec<u8>)) {
    nested(out, b'A', values);
}

fn table(out: &mut Vec<u8>, entries: impl FnOnce(&mut Vec<u8>)) {
    nested(out, b'F', entries);
}

fn nested(out: &mut Vec<u8>, tag: u8, inner: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    inner(out);
    set_length(out, at);
}

/// Fills in the length of what follows the four bytes at `at`.
fn set_length(out: &mut [u8], at: usize) {
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{FieldTable, FieldValue};
    use crate::props::Properties;

    fn encoded(properties: &Properties) -> Vec<u8> {
        let mut header = Vec::new();
        properties.encode(5, &mut header);
        header
    }

    fn view(header: &[u8]) -> HeaderView<'_> {
        HeaderView::parse(header).unwrap()
    }

    fn death<'a>(queue: &'a str, reason: &'a str, seconds: u64) -> Death<'a> {
        Death { queue, reason, exchange: b"ex", routing_key: b"key", seconds }
    }

    fn headers(header: &[u8]) -> FieldTable {
        Properties::from_header(view(header)).unwrap().headers.unwrap()
    }

    fn deaths(header: &[u8]) -> Vec<(String, String, i64, u64)> {
        let Some(FieldValue::Array(deaths)) = headers(header).get("x-death").cloned() else { panic!() };
        let text = |table: &FieldTable, name| match table.get(name) {
            Some(FieldValue::LongStr(text)) => String::from_utf8(text.clone()).unwrap(),
            other => panic!("{other:?}"),
        };
        let one = |value: FieldValue| match value {
            FieldValue::Table(table) => {
                let Some(&FieldValue::Timestamp(time)) = table.get("time") else { panic!() };
                let count = table.get("count").unwrap().as_int().unwrap();
                (text(&table, "queue"), text(&table, "reason"), count, time)
            }
            other => panic!("{other:?}"),
        };
        deaths.into_iter().map(one).collect()
    }

    #[test]
    fn the_first_death_is_written_as_rabbitmq_writes_it() {
        let cc = FieldValue::Array(vec![FieldValue::string("more")]);
        let sent = FieldTable(vec![("mine".into(), FieldValue::I32(1)), ("CC".into(), cc.clone())]);
        let properties = Properties {
            headers: Some(sent),
            expiration: Some("60".into()),
            delivery_mode: Some(2),
            ..Properties::default()
        };
        let dead = after_death(view(&encoded(&properties)), false, &death("q", "rejected", 77), false);
        let text = FieldValue::string;
        let entry = |name: &str, value| (name.to_owned(), value);
        let expected = FieldTable(vec![
            entry("mine", FieldValue::I32(1)),
            entry("CC", cc),
            entry(
                "x-death",
                FieldValue::Array(vec![FieldValue::Table(FieldTable(vec![
                    entry("count", FieldValue::I64(1)),
                    entry("reason", text("rejected")),
                    entry("queue", text("q")),
                    entry("time", FieldValue::Timestamp(77)),
                    entry("exchange", text("ex")),
                    entry("routing-keys", FieldValue::Array(vec![text("key"), text("more")])),
                    entry("original-expiration", text("60")),
                ]))]),
            ),
            entry("x-first-death-reason", text("rejected")),
            entry("x-first-death-queue", text("q")),
            entry("x-first-death-exchange", text("ex")),
            entry("x-last-death-reason", text("rejected")),
            entry("x-last-death-queue", text("q")),
            entry("x-last-death-exchange", text("ex")),
        ]);
        let expected = Properties { headers: Some(expected), expiration: None, ..properties };
        assert_eq!(Properties::from_header(view(&dead)).unwrap(), expected);
        assert_eq!(view(&dead).body_size(), 5);
    }

    #[test]
    fn later_deaths_are_counted_and_come_first() {
        let fresh = encoded(&Properties::default());
        let one = after_death(view(&fresh), false, &death("a", "expired", 1), false);
        let two = after_death(view(&one), true, &death("b", "maxlen", 2), false);
        let three = after_death(view(&two), true, &death("a", "expired", 3), false);
        let entry =
            |queue: &str, reason: &str, count, time| (queue.to_owned(), reason.to_owned(), count, time);
        assert_eq!(deaths(&three), [entry("a", "expired", 2, 1), entry("b", "maxlen", 1, 2)]);
        let four = after_death(view(&three), true, &death("a", "rejected", 4), false);
        let rejected = entry("a", "rejected", 1, 4);
        assert_eq!(deaths(&four), [rejected, entry("a", "expired", 2, 1), entry("b", "maxlen", 1, 2)]);
        let text = |name: &str| headers(&four).get(name).cloned().unwrap();
        assert_eq!(text("x-first-death-reason"), FieldValue::string("expired"));
        assert_eq!(text("x-last-death-reason"), FieldValue::string("rejected"));
        assert_eq!(origin(view(&four)), Some(Origin { queue: b"a", exchange: b"ex", routing_key: b"key" }));
    }

    #[test]
    fn what_a_publisher_says_of_deaths_means_nothing() {
        let real =
            after_death(view(&encoded(&Properties::default())), false, &death("a", "expired", 1), false);
        let dead = after_death(view(&real), false, &death("a", "expired", 9), false);
        assert_eq!(deaths(&dead), [("a".to_owned(), "expired".to_owned(), 1, 9)]);
        assert_eq!(headers(&dead).0.len(), 7);
    }

    #[test]
    fn a_new_key_replaces_cc() {
        let cc = FieldValue::Array(vec![FieldValue::string("more")]);
        let headers = Some(FieldTable(vec![("CC".into(), cc)]));
        let header = encoded(&Properties { headers, ..Properties::default() });
        let dead = after_death(view(&header), false, &death("q", "maxlen", 1), true);
        assert!(view(&dead).headers().unwrap().get(b"CC").is_none());
    }

    #[test]
    fn cycles_are_those_that_nobody_interrupts() {
        let died = |deaths: &[(&str, &str)]| {
            let mut header = encoded(&Properties::default());
            for (n, (queue, reason)) in deaths.iter().enumerate() {
                header = after_death(view(&header), n > 0, &death(queue, reason, 0), false);
            }
            header
        };
        let expired = died(&[("a", "expired"), ("b", "maxlen")]);
        assert!(
            is_cycle(view(&expired), "a") && is_cycle(view(&expired), "b") && !is_cycle(view(&expired), "c")
        );
        let rejected = died(&[("a", "expired"), ("b", "rejected"), ("c", "expired")]);
        assert!(is_cycle(view(&rejected), "c") && !is_cycle(view(&rejected), "a"));
        assert!(!is_cycle(view(&rejected), "b"), "the rejection itself counts");
        assert!(!is_cycle(view(&encoded(&Properties::default())), "a"));
    }
}
