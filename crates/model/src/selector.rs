//! Message selectors: conditions on a message's headers and properties, as JMS has them.
//!
//! ```text
//! tenant = 'acme' AND (retries > 3 OR region IN ('eu', 'us')) AND note NOT LIKE 'draft!_%' ESCAPE '!'
//! ```
//!
//! There are two ways to write one, [`Selector::parse`] and, as RabbitMQ's JMS client sends them, [`Selector::parse_term`];
//! both are read once and give the same. Names are those of headers; `properties.NAME` is one of the message's own
//! properties, such as `properties.priority`. What is not there is unknown, and so is what cannot be computed or
//! compared; AND, OR and NOT know three values. A message is selected when the whole is true.

mod like;
mod sql;
mod steps;
mod term;
mod value;

use crate::props::{HeaderView, Property};

use like::Pattern;
pub use steps::Steps;
pub use value::Value;

/// Bytes of a selector.
pub const TEXT_MAX: usize = 8 << 10;
/// How deep parentheses, NOT, signs and terms may be nested.
pub const DEPTH_MAX: usize = 64;
/// What a name of a property begins with.
const PROPERTIES: &str = "properties.";

/// See the module's documentation.
#[derive(Clone, PartialEq, Debug)]
pub struct Selector(Expression);

/// Why a text is no selector: what was expected, what was got, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected {expected}, got {got} at byte {at}")]
pub struct InvalidSelector {
    expected: String,
    got: String,
    at: usize,
}

#[derive(Clone, PartialEq, Debug)]
enum Expression {
    Literal(Literal),
    /// A header.
    Header(String),
    /// A property.
    Property(Property),
    /// All of them; at least two.
    And(Vec<Expression>),
    /// Any of them; at least two.
    Or(Vec<Expression>),
    Not(Box<Expression>),
    Negate(Box<Expression>),
    Binary(Operator, Box<Expression>, Box<Expression>),
    Between(Box<[Expression; 3]>),
    In(Box<Expression>, Vec<Literal>),
    Like(Box<Expression>, Pattern),
    IsNull(Box<Expression>),
}

#[derive(Clone, PartialEq, Debug)]
enum Literal {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
}

impl Selector {
    /// Reads a selector as JMS defines it: an SQL-92 condition.
    ///
    /// # Errors
    /// When it is none, is longer than [`TEXT_MAX`], or nests deeper than [`DEPTH_MAX`].
    pub fn parse(text: &str) -> Result<Self, InvalidSelector> {
        check_length(text)?;
        sql::parse(text).map(Self)
    }

    /// Reads a selector as RabbitMQ's JMS client sends it: the text of an Erlang term, such as
    /// `{'=',{'ident',<<"tenant">>},<<"acme">>}.`
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_term(text: &str) -> Result<Self, InvalidSelector> {
        check_length(text)?;
        term::parse(text).map(Self)
    }

    /// Whether a message with this content header is selected. It is not when finding out takes more than
    /// [`Steps::OF_A_SELECTOR`].
    pub fn matches(&self, header: HeaderView<'_>) -> bool {
        self.matches_within(header, &Steps::new(Steps::OF_A_SELECTOR))
    }

    /// The same, for one of several selectors, which have these steps together.
    pub fn matches_within(&self, header: HeaderView<'_>, steps: &Steps) -> bool {
        let own = steps.share(Steps::OF_A_SELECTOR);
        let selected = self.0.evaluate(header, &own) == Value::Bool(true) && !own.are_used_up();
        steps.take_back(own);
        selected
    }
}

fn check_length(text: &str) -> Result<(), InvalidSelector> {
    if text.len() > TEXT_MAX {
        return Err(InvalidSelector::new(
            &format!("{TEXT_MAX} bytes at most"),
            &format!("{} bytes", text.len()),
            TEXT_MAX,
        ));
    }
    Ok(())
}

impl InvalidSelector {
    fn new(expected: &str, got: &str, at: usize) -> Self {
        Self { expected: expected.to_owned(), got: got.to_owned(), at }
    }
}

impl Expression {
    /// What a name stands for.
    fn named(name: &str, at: usize) -> Result<Self, InvalidSelector> {
        let Some(property) = name.strip_prefix(PROPERTIES) else { return Ok(Self::Header(name.to_owned())) };
        let known = || Property::ALL.into_iter().filter(|known| *known != Property::Headers);
        known().find(|known| known.name() == property).map(Self::Property).ok_or_else(|| {
            let names = known().map(Property::name).collect::<Vec<_>>().join(", ");
            InvalidSelector::new(&format!("{PROPERTIES} with one of {names}"), name, at)
        })
    }

    /// Both, or all of them.
    fn and(self, other: Self) -> Self {
        Self::And(joined(self, other, |it| match it {
            Self::And(all) => Ok(all),
            other => Err(other),
        }))
    }

    /// Either, or any of them.
    fn or(self, other: Self) -> Self {
        Self::Or(joined(self, other, |it| match it {
            Self::Or(any) => Ok(any),
            other => Err(other),
        }))
    }

    fn not(self) -> Self {
        Self::Not(Box::new(self))
    }

    fn evaluate<'a>(&'a self, header: HeaderView<'a>, steps: &Steps) -> Value<'a> {
        if !steps.take(1) {
            return Value::Unknown;
        }
        match self {
            Self::Literal(literal) => literal.value(),
            Self::Header(name) => Value::of_header(header, name, steps),
            Self::Property(property) => Value::of_property(header, *property),
            Self::And(all) => join(all, header, steps, false),
            Self::Or(any) => join(any, header, steps, true),
            Self::Not(it) => match it.evaluate(header, steps) {
                Value::Bool(it) => Value::Bool(!it),
                _ => Value::Unknown,
            },
            Self::Negate(it) => it.evaluate(header, steps).negated(),
            Self::Binary(operator, left, right) => {
                value::binary(*operator, left.evaluate(header, steps), right.evaluate(header, steps))
            }
            Self::Between(parts) => {
                let [it, from, to] = [0, 1, 2].map(|part| parts[part].evaluate(header, steps));
                let above = value::binary(Operator::GreaterOrEqual, it, from);
                let below = value::binary(Operator::LessOrEqual, it, to);
                both(above, below)
            }
            Self::In(it, list) => match it.evaluate(header, steps) {
                Value::Unknown => Value::Unknown,
                it if steps.take(list.len()) => {
                    Value::Bool(list.iter().any(|literal| value::equal(it, literal.value())))
                }
                _ => Value::Unknown,
            },
            Self::Like(it, pattern) => match it.evaluate(header, steps) {
                Value::Text(text) => pattern.matches(text, steps).map_or(Value::Unknown, Value::Bool),
                _ => Value::Unknown,
            },
            Self::IsNull(it) => Value::Bool(it.evaluate(header, steps) == Value::Unknown),
        }
    }
}

/// The members of two conditions of a kind as one list, where `members` takes one apart if it is of that kind.
fn joined(
    left: Expression,
    right: Expression,
    members: impl Fn(Expression) -> Result<Vec<Expression>, Expression>,
) -> Vec<Expression> {
    let mut all = members(left).unwrap_or_else(|one| vec![one]);
    match members(right) {
        Ok(more) => all.extend(more),
        Err(one) => all.push(one),
    }
    all
}

/// The conjunction where `decisive` is false, the disjunction where it is true: the first that is so decides, else what is
/// unknown.
fn join<'a>(members: &'a [Expression], header: HeaderView<'a>, steps: &Steps, decisive: bool) -> Value<'a> {
    let mut unknown = false;
    for member in members {
        match member.evaluate(header, steps) {
            Value::Bool(it) if it == decisive => return Value::Bool(decisive),
            Value::Bool(_) => {}
            _ => unknown = true,
        }
    }
    if unknown { Value::Unknown } else { Value::Bool(!decisive) }
}

fn both<'a>(left: Value<'a>, right: Value<'a>) -> Value<'a> {
    match (left, right) {
        (Value::Bool(false), _) | (_, Value::Bool(false)) => Value::Bool(false),
        (Value::Bool(true), Value::Bool(true)) => Value::Bool(true),
        _ => Value::Unknown,
    }
}

impl Literal {
    fn value(&self) -> Value<'_> {
        match self {
            Self::Bool(it) => Value::Bool(*it),
            Self::Int(it) => Value::Int(*it),
            Self::Float(it) => Value::Float(*it),
            Self::Text(it) => Value::Text(it.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests;
