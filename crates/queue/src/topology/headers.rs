//! The headers exchange: binding arguments against message headers.

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use posthouse_model::args::show;
use posthouse_model::errors;
use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::name::Name;
use posthouse_model::raw_table::{RawTable, RawValue};
use posthouse_model::reply::ReplyError;
use smallvec::SmallVec;

use super::Destination;
use super::bindings::argument_bytes;
use super::dense_map::DenseMap;

/// The binding argument that says how the others are meant.
const X_MATCH: &str = "x-match";

/// What a binding asks of a message's headers.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct HeadersPattern {
    all: bool,
    /// Names and values that must be there; `Void` asks for the name only.
    wanted: Vec<(String, FieldValue)>,
}

/// The bindings of a headers exchange. Every message is compared with every one of them.
#[derive(Debug, Default)]
pub(super) struct HeadersTable {
    bindings: HashMap<Destination, Patterns, RandomState>,
}

/// One destination's bindings, by key and arguments.
type Patterns = DenseMap<(Name, Box<[u8]>), HeadersPattern>;

/// A message's headers, sorted by name for lookups.
pub(super) struct SortedHeaders<'a>(SmallVec<[(&'a [u8], RawValue<'a>); 16]>);

impl HeadersPattern {
    /// Reads binding arguments: 406 when `x-match` is none of `all` (the default), `any`, `all-with-x` and
    /// `any-with-x`.
    pub(super) fn parse(arguments: &FieldTable) -> Result<Self, ReplyError> {
        let (all, with_x) = match arguments.get(X_MATCH) {
            None => (true, false),
            Some(FieldValue::LongStr(word)) => match word.as_slice() {
                b"all" => (true, false),
                b"any" => (false, false),
                b"all-with-x" => (true, true),
                b"any-with-x" => (false, true),
                other => return Err(errors::invalid_x_match(other)),
            },
            Some(other) => return Err(errors::invalid_x_match_type(other.type_name(), &show(other))),
        };
        let wanted =
            arguments.0.iter().filter(|(name, _)| name != X_MATCH && (with_x || !name.starts_with("x-")));
        Ok(Self { all, wanted: wanted.cloned().collect() })
    }

    fn matches(&self, headers: &SortedHeaders<'_>) -> bool {
        let found = |(name, wanted): &(String, FieldValue)| {
            headers.get(name.as_bytes()).is_some_and(|value| equal(wanted, value))
        };
        if self.all { self.wanted.iter().all(found) } else { self.wanted.iter().any(found) }
    }
}

impl HeadersTable {
    /// Adds a binding. Its arguments were validated.
    pub(super) fn insert(&mut self, destination: Destination, key: &Name, arguments: &FieldTable) {
        if let Ok(pattern) = HeadersPattern::parse(arguments) {
            let key = (key.clone(), argument_bytes(arguments));
            self.bindings.entry(destination).or_default().insert(key, pattern);
        }
    }

    /// Removes a binding.
    pub(super) fn remove(&mut self, destination: Destination, key: &Name, arguments: &FieldTable) {
        let Some(patterns) = self.bindings.get_mut(&destination) else { return };
        patterns.remove(&(key.clone(), argument_bytes(arguments)));
        if patterns.is_empty() {
            self.bindings.remove(&destination);
        }
    }

    /// The destinations of matching bindings, each once, in no particular order.
    pub(super) fn matching(&self, headers: Option<RawTable<'_>>) -> impl Iterator<Item = Destination> {
        let headers = SortedHeaders::read(headers);
        self.bindings
            .iter()
            .filter(move |(_, patterns)| patterns.values().any(|pattern| pattern.matches(&headers)))
            .map(|(destination, _)| *destination)
    }
}

impl<'a> SortedHeaders<'a> {
    /// Reads the entries up to the first malformed one.
    fn read(headers: Option<RawTable<'a>>) -> Self {
        let mut sorted: SmallVec<_> = headers.iter().flat_map(RawTable::iter).collect();
        sorted.sort_by_key(|(name, _): &(&[u8], RawValue<'_>)| *name);
        Self(sorted)
    }

    fn get(&self, name: &[u8]) -> Option<RawValue<'a>> {
        let at = self.0.partition_point(|(known, _)| *known < name);
        self.0.get(at).filter(|(known, _)| *known == name).map(|(_, value)| *value)
    }
}

/// Whether a header has the wanted value. Types must agree, except that integers are compared by value whatever
/// their width, and so are floats and the two types of byte strings.
fn equal(wanted: &FieldValue, value: RawValue<'_>) -> bool {
    match (wanted, value) {
        (FieldValue::Void, _) => true,
        (FieldValue::LongStr(a) | FieldValue::Bytes(a), RawValue::LongStr(b) | RawValue::Bytes(b)) => a == b,
        (FieldValue::Bool(a), RawValue::Bool(b)) => *a == b,
        (FieldValue::Timestamp(a), RawValue::Timestamp(b)) => *a == b,
        (FieldValue::Array(_) | FieldValue::Table(_), RawValue::Array(_) | RawValue::Table(_)) => {
            FieldValue::from_raw_value(value).is_ok_and(|value| value == *wanted)
        }
        (FieldValue::Decimal { scale: s, value: v }, RawValue::Decimal { scale, value }) => {
            (*s, *v) == (scale, value)
        }
        (wanted, value) => match (wanted.as_int(), raw_int(value)) {
            (None, None) => float(wanted).is_some_and(|a| raw_float(value) == Some(a)),
            (a, b) => a == b,
        },
    }
}

fn float(value: &FieldValue) -> Option<f64> {
    match *value {
        FieldValue::F32(v) => Some(v.into()),
        FieldValue::F64(v) => Some(v),
        _ => None,
    }
}

fn raw_float(value: RawValue<'_>) -> Option<f64> {
    match value {
        RawValue::F32(v) => Some(v.into()),
        RawValue::F64(v) => Some(v),
        _ => None,
    }
}

/// An integer of any width.
pub(super) fn raw_int(value: RawValue<'_>) -> Option<i64> {
    match value {
        RawValue::I8(v) => Some(v.into()),
        RawValue::U8(v) => Some(v.into()),
        RawValue::I16(v) => Some(v.into()),
        RawValue::U16(v) => Some(v.into()),
        RawValue::I32(v) => Some(v.into()),
        RawValue::U32(v) => Some(v.into()),
        RawValue::I64(v) => Some(v),
        _ => None,
    }
}
