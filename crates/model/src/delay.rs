//! When a message is to be delivered: the headers `x-delay` and `x-deliver-at`.
//!
//! `x-delay` is RabbitMQ's plugin's: milliseconds as a number of any type, or in decimal. It has no effect when it is 0,
//! negative, or of a type that is no number; the delivered message has it negated, so that it does not wait again
//! wherever it is published with it. `x-deliver-at` is an absolute time, milliseconds since the Unix epoch, or a timestamp
//! in seconds; with both, it counts.

use crate::errors;
use crate::field::{FieldTable, FieldValue};
use crate::props::HeaderView;
use crate::raw_table::{RawTable, RawValue};
use crate::reply::ReplyError;

/// A message may wait so long at most, in milliseconds: ten years.
pub const DELAY_MS_MAX: u64 = 10 * 365_250 * 86_400;

const DELAY: &str = "x-delay";
const DELIVER_AT: &str = "x-deliver-at";

/// When a message with these headers that is published now is due, in milliseconds since the Unix epoch: later than
/// now, or `None` when it does not wait.
///
/// # Errors
/// 406 when it would wait for longer than [`DELAY_MS_MAX`], when `x-delay` is text and not in decimal, and when
/// `x-deliver-at` is no number.
pub fn due_ms(headers: RawTable<'_>, now_ms: u64) -> Result<Option<u64>, ReplyError> {
    let (mut delay, mut deliver_at) = (None, None);
    for (name, value) in headers.iter() {
        if name == DELAY.as_bytes() && delay.is_none() {
            delay = Some(value);
        } else if name == DELIVER_AT.as_bytes() && deliver_at.is_none() {
            deliver_at = Some(value);
        }
    }
    let delay_ms = match (deliver_at, delay) {
        (Some(value), _) => at(value)?.saturating_sub(i128::from(now_ms)),
        (None, Some(value)) => delay_of(value)?.unwrap_or(0),
        (None, None) => return Ok(None),
    };
    if delay_ms <= 0 {
        return Ok(None);
    }
    match u64::try_from(delay_ms) {
        Ok(delay_ms) if delay_ms <= DELAY_MS_MAX => Ok(Some(now_ms + delay_ms)),
        _ => {
            let header = if deliver_at.is_some() { DELIVER_AT } else { DELAY };
            Err(errors::delay_too_long(header, delay_ms, DELAY_MS_MAX))
        }
    }
}

/// Whether a value of `x-delay` is a number that delays nothing.
#[inline]
pub fn is_none(value: RawValue<'_>) -> bool {
    number(value).is_some_and(|delay_ms| delay_ms <= 0)
}

/// A copy of the content header with `x-delay` negated; `None` when it has none that delays.
pub fn with_delay_negated(header: HeaderView<'_>) -> Option<Vec<u8>> {
    let delay = delay_of(header.headers()?.get(DELAY.as_bytes())?).ok()??;
    if delay > 0 { with_delay(header, -delay) } else { None }
}

/// A copy of the content header of a message that waits because of its `x-delay`, as it was published: not negated. `None`
/// when it waits for another reason; one that also has `x-deliver-at` may have been published with either sign.
pub fn as_published(header: HeaderView<'_>) -> Option<Vec<u8>> {
    let headers = header.headers()?;
    let delay = delay_of(headers.get(DELAY.as_bytes())?).ok()??;
    let waits_for_it = delay < 0 && headers.get(DELIVER_AT.as_bytes()).is_none();
    if waits_for_it { with_delay(header, -delay) } else { None }
}

fn with_delay(header: HeaderView<'_>, delay: i128) -> Option<Vec<u8>> {
    let mut table = FieldTable::from_raw_table(header.headers()?).ok()?;
    let delay = i64::try_from(delay).ok()?;
    let value = i32::try_from(delay).map_or(FieldValue::I64(delay), FieldValue::I32);
    for (name, old) in &mut table.0 {
        if name == DELAY {
            *old = value.clone();
        }
    }
    let mut encoded = Vec::new();
    table.encode(&mut encoded);
    Some(header.with_headers(Some(&encoded)))
}

/// The milliseconds of `x-delay`; `None` when it is no number.
fn delay_of(value: RawValue<'_>) -> Result<Option<i128>, ReplyError> {
    match value {
        RawValue::LongStr(text) => {
            parse(text).map(Some).ok_or_else(|| errors::invalid_delay(DELAY, &String::from_utf8_lossy(text)))
        }
        value => Ok(number(value)),
    }
}

/// The time of `x-deliver-at`.
fn at(value: RawValue<'_>) -> Result<i128, ReplyError> {
    let at = match value {
        RawValue::Timestamp(seconds) => Some(i128::from(seconds) * 1000),
        RawValue::LongStr(text) => parse(text),
        value => number(value),
    };
    at.ok_or_else(|| match value {
        RawValue::LongStr(text) => errors::invalid_delay(DELIVER_AT, &String::from_utf8_lossy(text)),
        value => {
            let name = FieldValue::from_raw_value(value).map_or("table", |value| value.type_name());
            errors::invalid_delay(DELIVER_AT, name)
        }
    })
}

fn parse(text: &[u8]) -> Option<i128> {
    str::from_utf8(text).ok()?.parse::<i64>().ok().map(i128::from)
}

/// A number, without what comes after its point.
fn number(value: RawValue<'_>) -> Option<i128> {
    Some(match value {
        RawValue::I8(n) => n.into(),
        RawValue::U8(n) => n.into(),
        RawValue::I16(n) => n.into(),
        RawValue::U16(n) => n.into(),
        RawValue::I32(n) => n.into(),
        RawValue::U32(n) => n.into(),
        RawValue::I64(n) => n.into(),
        RawValue::F32(n) => f64::from(n) as i64 as i128,
        RawValue::F64(n) => n as i64 as i128,
        RawValue::Decimal { scale, value } => {
            // As the wire has it: signed.
            let divisor = 10i128.checked_pow(scale.into()).unwrap_or(i128::MAX);
            i128::from(value as i32) / divisor
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::props::Properties;

    const NOW: u64 = 1_800_000_000_000;

    fn due(entries: &[(&str, FieldValue)]) -> Result<Option<u64>, (u16, String)> {
        let mut bytes = Vec::new();
        table(entries).encode(&mut bytes);
        due_ms(RawTable::parse(&bytes).unwrap().0, NOW).map_err(|e| (e.code as u16, e.text))
    }

    fn table(entries: &[(&str, FieldValue)]) -> FieldTable {
        FieldTable(entries.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect())
    }

    fn text(value: &str) -> FieldValue {
        FieldValue::string(value)
    }

    #[test]
    fn numbers_of_any_type_delay() {
        for value in [
            FieldValue::I8(50),
            FieldValue::U8(50),
            FieldValue::I16(50),
            FieldValue::U16(50),
            FieldValue::I32(50),
            FieldValue::U32(50),
            FieldValue::I64(50),
            FieldValue::F32(50.9),
            FieldValue::F64(50.9),
            FieldValue::Decimal { scale: 1, value: 509 },
            text("50"),
        ] {
            assert_eq!(due(&[("a", text("b")), (DELAY, value.clone())]), Ok(Some(NOW + 50)), "{value:?}");
        }
    }

    #[test]
    fn others_do_not() {
        for value in [
            FieldValue::I32(0),
            FieldValue::I32(-5),
            text("-5"),
            FieldValue::F64(0.9),
            FieldValue::F64(f64::NAN),
            FieldValue::Bool(true),
            FieldValue::Void,
            FieldValue::Timestamp(99),
            FieldValue::Array(vec![FieldValue::I32(50)]),
        ] {
            assert_eq!(due(&[(DELAY, value.clone())]), Ok(None), "{value:?}");
        }
        assert_eq!(due(&[("delay", FieldValue::I32(50))]), Ok(None));
    }

    #[test]
    fn numbers_that_delay_nothing_are_told() {
        assert!(is_none(RawValue::I32(0)) && is_none(RawValue::I64(-1)) && is_none(RawValue::F32(0.5)));
        assert!(!is_none(RawValue::I32(1)) && !is_none(RawValue::LongStr(b"0")) && !is_none(RawValue::Void));
    }

    #[test]
    fn an_absolute_time_counts_before_a_delay() {
        let at = |value| due(&[(DELAY, FieldValue::I32(50)), (DELIVER_AT, value)]);
        assert_eq!(at(FieldValue::I64(NOW as i64 + 7)), Ok(Some(NOW + 7)));
        assert_eq!(at(text(&(NOW + 7).to_string())), Ok(Some(NOW + 7)));
        assert_eq!(at(FieldValue::Timestamp(NOW / 1000 + 3)), Ok(Some(NOW + 3_000)));
        assert_eq!(at(FieldValue::I64(NOW as i64)), Ok(None));
        assert_eq!(at(FieldValue::I32(5)), Ok(None));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let most = DELAY_MS_MAX as i64;
        assert_eq!(due(&[(DELAY, FieldValue::I64(most))]), Ok(Some(NOW + DELAY_MS_MAX)));
        let error = "invalid message: header 'x-delay' asks for a delay of 315576000001 ms, expected at most \
                     315576000000 (ten years)";
        assert_eq!(due(&[(DELAY, FieldValue::I64(most + 1))]), Err((406, error.to_owned())));
        let too_late = due(&[(DELIVER_AT, FieldValue::Timestamp(u64::MAX))]).unwrap_err();
        assert!(too_late.1.contains("header 'x-deliver-at' asks for a delay of"), "{}", too_late.1);
        let error = "invalid message: expected header 'x-delay' to be a number of milliseconds, got '5s'";
        assert_eq!(due(&[(DELAY, text("5s"))]), Err((406, error.to_owned())));
        let error =
            "invalid message: expected header 'x-deliver-at' to be a number of milliseconds, got 'bool'";
        assert_eq!(due(&[(DELIVER_AT, FieldValue::Bool(true))]), Err((406, error.to_owned())));
    }

    #[test]
    fn the_delivered_message_has_the_delay_negated() {
        let negated = |value: FieldValue| {
            let headers = table(&[("a", text("b")), (DELAY, value), ("z", FieldValue::U16(9))]);
            let properties = Properties { headers: Some(headers), ..Properties::default() };
            let mut header = Vec::new();
            properties.encode(3, &mut header);
            let changed = with_delay_negated(HeaderView::parse(&header).unwrap())?;
            let view = HeaderView::parse(&changed).unwrap();
            assert_eq!(view.body_size(), 3);
            FieldTable::from_raw_table(view.headers().unwrap()).ok()
        };
        let expected = |value| Some(table(&[("a", text("b")), (DELAY, value), ("z", FieldValue::U16(9))]));
        assert_eq!(negated(FieldValue::I32(5_000)), expected(FieldValue::I32(-5_000)));
        assert_eq!(negated(text("5000")), expected(FieldValue::I32(-5_000)));
        assert_eq!(negated(FieldValue::I64(1 << 33)), expected(FieldValue::I64(-(1 << 33))));
        assert_eq!(negated(FieldValue::Bool(true)), None);
        // With x-deliver-at, such a message may wait all the same, and must not when it is published again.
        assert_eq!(negated(FieldValue::I32(-5)), None);
    }

    #[test]
    fn a_message_that_waits_is_shown_as_it_was_published() {
        let shown = |entries: &[(&str, FieldValue)]| {
            let properties = Properties { headers: Some(table(entries)), ..Properties::default() };
            let mut header = Vec::new();
            properties.encode(3, &mut header);
            let published = as_published(HeaderView::parse(&header).unwrap())?;
            FieldTable::from_raw_table(HeaderView::parse(&published).unwrap().headers().unwrap()).ok()
        };
        let delay = |ms| (DELAY, FieldValue::I32(ms));
        assert_eq!(shown(&[delay(-5), ("a", text("b"))]), Some(table(&[delay(5), ("a", text("b"))])));
        assert_eq!(shown(&[delay(-5), (DELIVER_AT, FieldValue::I64(7))]), None);
        assert_eq!(shown(&[("a", text("b"))]), None);
    }
}
