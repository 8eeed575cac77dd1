//! What selectors compute with.

use std::cmp::Ordering;

use super::{Operator, Steps};
use crate::named_props::PropertyValue;
use crate::props::{HeaderView, Property};
use crate::raw_table::RawValue;

/// A value, borrowed from a message or a selector.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Value<'a> {
    /// It is not there, or cannot be computed.
    Unknown,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// A text.
    Text(&'a [u8]),
    /// Something that is there and equals nothing: a table, an array, a decimal number.
    Other,
}

impl<'a> Value<'a> {
    /// A message's header.
    pub(super) fn of_header(header: HeaderView<'a>, name: &str, steps: &Steps) -> Self {
        let mut headers = header.headers().into_iter().flat_map(|headers| headers.iter());
        let found = headers.find_map(|(known, value)| {
            // What takes too long is not looked for any further.
            (!steps.take(1) || known == name.as_bytes()).then_some(value)
        });
        let Some(found) = found.filter(|_| !steps.are_used_up()) else { return Self::Unknown };
        match found {
            RawValue::Bool(it) => Self::Bool(it),
            RawValue::I8(it) => Self::Int(it.into()),
            RawValue::U8(it) => Self::Int(it.into()),
            RawValue::I16(it) => Self::Int(it.into()),
            RawValue::U16(it) => Self::Int(it.into()),
            RawValue::I32(it) => Self::Int(it.into()),
            RawValue::U32(it) => Self::Int(it.into()),
            RawValue::I64(it) => Self::Int(it),
            RawValue::F32(it) => Self::Float(it.into()),
            RawValue::F64(it) => Self::Float(it),
            RawValue::Timestamp(it) => Self::of_number(it),
            RawValue::LongStr(it) | RawValue::Bytes(it) => Self::Text(it),
            RawValue::Void => Self::Unknown,
            RawValue::Decimal { .. } | RawValue::Array(_) | RawValue::Table(_) => Self::Other,
        }
    }

    /// A message's property.
    pub(super) fn of_property(header: HeaderView<'a>, property: Property) -> Self {
        match header.property(property) {
            None => Self::Unknown,
            Some(PropertyValue::Text(it)) => Self::Text(it),
            Some(PropertyValue::Number(it)) => Self::of_number(it),
            Some(PropertyValue::Table(_)) => Self::Other,
        }
    }

    fn of_number(it: u64) -> Self {
        i64::try_from(it).map_or(Self::Float(it as f64), Self::Int)
    }

    /// The number with the other sign.
    pub(super) fn negated(self) -> Self {
        match self {
            Self::Int(it) => it.checked_neg().map_or(Self::Float(-(it as f64)), Self::Int),
            Self::Float(it) => Self::Float(-it),
            _ => Self::Unknown,
        }
    }

    fn as_f64(self) -> Option<f64> {
        match self {
            Self::Int(it) => Some(it as f64),
            Self::Float(it) => Some(it),
            _ => None,
        }
    }
}

/// Whether two values are the same: numbers by value, and things of different kinds never.
pub(super) fn equal(left: Value<'_>, right: Value<'_>) -> bool {
    match (left, right) {
        (Value::Unknown | Value::Other, _) | (_, Value::Unknown | Value::Other) => false,
        (Value::Int(left), Value::Int(right)) => left == right,
        (left, right) => match (left.as_f64(), right.as_f64()) {
            (Some(left), Some(right)) => left == right,
            _ => left == right,
        },
    }
}

/// Computes or compares. Unknown is what one side is unknown of, and what these cannot be used for.
pub(super) fn binary<'a>(operator: Operator, left: Value<'a>, right: Value<'a>) -> Value<'a> {
    if left == Value::Unknown || right == Value::Unknown {
        return Value::Unknown;
    }
    let ordered =
        |is: fn(Ordering) -> bool| compare(left, right).map_or(Value::Unknown, |it| Value::Bool(is(it)));
    match operator {
        Operator::Equal => Value::Bool(equal(left, right)),
        Operator::NotEqual => Value::Bool(!equal(left, right)),
        Operator::Less => ordered(Ordering::is_lt),
        Operator::LessOrEqual => ordered(Ordering::is_le),
        Operator::Greater => ordered(Ordering::is_gt),
        Operator::GreaterOrEqual => ordered(Ordering::is_ge),
        Operator::Add => compute(left, right, i64::checked_add, |a, b| a + b),
        Operator::Subtract => compute(left, right, i64::checked_sub, |a, b| a - b),
        Operator::Multiply => compute(left, right, i64::checked_mul, |a, b| a * b),
        // Whole numbers, too: 7 / 2 is 3.5.
        Operator::Divide => compute(left, right, |_, _| None, |a, b| a / b),
    }
}

/// The order of two numbers or two texts.
fn compare(left: Value<'_>, right: Value<'_>) -> Option<Ordering> {
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => Some(left.cmp(&right)),
        (Value::Text(left), Value::Text(right)) => Some(left.cmp(right)),
        (left, right) => left.as_f64()?.partial_cmp(&right.as_f64()?),
    }
}

/// A whole number where both are and the result is one, else a number.
fn compute<'a>(
    left: Value<'a>,
    right: Value<'a>,
    whole: fn(i64, i64) -> Option<i64>,
    number: fn(f64, f64) -> f64,
) -> Value<'a> {
    if let (Value::Int(left), Value::Int(right)) = (left, right)
        && let Some(result) = whole(left, right)
    {
        return Value::Int(result);
    }
    match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => Value::Float(number(left, right)),
        _ => Value::Unknown,
    }
}
