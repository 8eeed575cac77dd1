//! Reads selectors as RabbitMQ's JMS client sends them: as the text of an Erlang term.
//!
//! ```text
//! selector = term [.]
//! term     = {'and',term,term} | {'or',term,term} | {'not',term}
//!          | {'=',term,term}, and so with <> < <= > >= + - * /  | {'-',term} | {'+',term}
//!          | {'between',term,term,term} | {'between',term,{'range',term,term}} | {'not_between',...}
//!          | {'in',term,[binary,...]} | {'not_in',...}
//!          | {'like',term,binary,binary or 'no_escape'} | {'not_like',...}
//!          | {'is_null',term} | {'not_null',term} | {'ident',binary}
//!          | true | false | integer | float | binary
//! binary   = <<"text with \" and \\ in it">> | <<>>
//! ```
//!
//! Atoms may be without quotes where Erlang allows it.

use super::{DEPTH_MAX, Expression, InvalidSelector, Literal, Operator, Pattern};

/// Reads a whole selector.
pub(super) fn parse(text: &str) -> Result<Expression, InvalidSelector> {
    let mut reader = Reader { text, at: 0 };
    let term = reader.term(0)?;
    if !reader.take(".") && !reader.is_at_end() {
        return Err(reader.wrong("a full stop or the end"));
    }
    if !reader.is_at_end() {
        return Err(reader.wrong("the end"));
    }
    term.expression()
}

/// An Erlang term, and where it begins.
#[derive(Debug)]
struct Term {
    kind: Kind,
    at: usize,
}

#[derive(Debug)]
enum Kind {
    Atom(String),
    Int(i64),
    Float(f64),
    Binary(String),
    Tuple(Vec<Term>),
    List(Vec<Term>),
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&mut self) -> &str {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        &self.text[self.at..]
    }

    fn is_at_end(&mut self) -> bool {
        self.rest().is_empty()
    }

    fn take(&mut self, symbol: &str) -> bool {
        let is_it = self.rest().starts_with(symbol);
        if is_it {
            self.at += symbol.len();
        }
        is_it
    }

    fn wrong(&mut self, expected: &str) -> InvalidSelector {
        let got = match self.rest().chars().next() {
            None => "the end".to_owned(),
            Some(character) => format!("{character:?}"),
        };
        InvalidSelector::new(expected, &got, self.at)
    }

    fn term(&mut self, depth: usize) -> Result<Term, InvalidSelector> {
        if depth > DEPTH_MAX {
            return Err(InvalidSelector::new(&format!("{DEPTH_MAX} levels at most"), "more", self.at));
        }
        let first = self.rest().chars().next();
        let at = self.at;
        let kind = match first {
            Some('{') => Kind::Tuple(self.members("{", "}", depth)?),
            Some('[') => Kind::List(self.members("[", "]", depth)?),
            Some('<') => Kind::Binary(self.binary()?),
            Some('\'') => {
                self.at += 1;
                Kind::Atom(self.quoted('\'')?)
            }
            Some(character) if character.is_ascii_lowercase() => {
                let rest = self.rest();
                let length =
                    rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
                let atom = rest[..length].to_owned();
                self.at += length;
                Kind::Atom(atom)
            }
            Some(character) if character.is_ascii_digit() || character == '-' => self.number()?,
            _ => return Err(self.wrong("an Erlang term")),
        };
        Ok(Term { kind, at })
    }

    fn members(&mut self, open: &str, close: &str, depth: usize) -> Result<Vec<Term>, InvalidSelector> {
        self.take(open);
        let mut members = Vec::new();
        if self.take(close) {
            return Ok(members);
        }
        loop {
            members.push(self.term(depth + 1)?);
            if self.take(close) {
                return Ok(members);
            }
            if !self.take(",") {
                return Err(self.wrong(&format!(", or {close}")));
            }
        }
    }

    fn binary(&mut self) -> Result<String, InvalidSelector> {
        if !self.take("<<") {
            return Err(self.wrong("<<"));
        }
        let mut text = String::new();
        if self.take("\"") {
            text = self.quoted('"')?;
            // Written by who has characters beyond Latin-1.
            self.take("/utf8");
        }
        if self.take(">>") { Ok(text) } else { Err(self.wrong(">>")) }
    }

    /// What follows an opening quote, up to the closing one.
    fn quoted(&mut self, quote: char) -> Result<String, InvalidSelector> {
        let (mut text, mut characters) = (String::new(), self.text[self.at..].char_indices());
        while let Some((at, character)) = characters.next() {
            match character {
                it if it == quote => {
                    self.at += at + 1;
                    return Ok(text);
                }
                '\\' => match characters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, 'r')) => text.push('\r'),
                    Some((_, 's')) => text.push(' '),
                    Some((_, it)) if !it.is_ascii_alphanumeric() => text.push(it),
                    _ => {
                        return Err(InvalidSelector::new("a known escape", "another after \\", self.at + at));
                    }
                },
                it => text.push(it),
            }
        }
        Err(InvalidSelector::new(&format!("a closing {quote}"), "the end", self.text.len()))
    }

    fn number(&mut self) -> Result<Kind, InvalidSelector> {
        let at = self.at;
        let rest = self.rest();
        let mut length = 0;
        for (at, character) in rest.char_indices() {
            // A full stop that no digit follows is the selector's.
            let is_point = character == '.' && rest[at + 1..].starts_with(|c: char| c.is_ascii_digit());
            let is_sign = matches!(character, '+' | '-') && (at == 0 || rest[..at].ends_with(['e', 'E']));
            if !(character.is_ascii_alphanumeric() || is_point || is_sign) {
                break;
            }
            length = at + 1;
        }
        let word = rest[..length].to_owned();
        self.at += length;
        let whole = word.parse().map(Kind::Int).ok();
        let kind = whole.or_else(|| word.parse().ok().filter(|it: &f64| it.is_finite()).map(Kind::Float));
        kind.ok_or_else(|| InvalidSelector::new("a number", &format!("{word:?}"), at))
    }
}

impl Term {
    fn expression(self) -> Result<Expression, InvalidSelector> {
        let at = self.at;
        let unknown = |got: &str| InvalidSelector::new("a condition", got, at);
        let literal = match self.kind {
            Kind::Tuple(members) => return operation(members, at),
            Kind::Atom(atom) if atom == "true" => Literal::Bool(true),
            Kind::Atom(atom) if atom == "false" => Literal::Bool(false),
            Kind::Int(it) => Literal::Int(it),
            Kind::Float(it) => Literal::Float(it),
            Kind::Binary(it) => Literal::Text(it),
            Kind::Atom(atom) => return Err(unknown(&format!("'{atom}'"))),
            Kind::List(_) => return Err(unknown("a list")),
        };
        Ok(Expression::Literal(literal))
    }

    fn boxed(self) -> Result<Box<Expression>, InvalidSelector> {
        self.expression().map(Box::new)
    }

    fn text(self) -> Result<String, InvalidSelector> {
        match self.kind {
            Kind::Binary(text) => Ok(text),
            _ => Err(InvalidSelector::new("a binary", "another term", self.at)),
        }
    }

    fn literals(self) -> Result<Vec<Literal>, InvalidSelector> {
        let at = self.at;
        let Kind::List(members) = self.kind else {
            return Err(InvalidSelector::new("a list", "another term", at));
        };
        let literals = members.into_iter().map(|member| match member.expression()? {
            Expression::Literal(literal) => Ok(literal),
            _ => Err(InvalidSelector::new("literals in a list", "another term", at)),
        });
        literals.collect()
    }

    /// The escape character of a pattern, if it has one.
    fn escape(self) -> Result<Option<char>, InvalidSelector> {
        let at = self.at;
        match self.kind {
            Kind::Atom(atom) if atom == "no_escape" => Ok(None),
            Kind::Binary(text) if text.chars().count() == 1 => Ok(text.chars().next()),
            _ => Err(InvalidSelector::new("'no_escape' or one character", "another term", at)),
        }
    }
}

/// What a tuple says: an atom and its operands.
fn operation(members: Vec<Term>, at: usize) -> Result<Expression, InvalidSelector> {
    let mut members = members.into_iter();
    let name = match members.next().map(|first| first.kind) {
        Some(Kind::Atom(name)) => name,
        _ => return Err(InvalidSelector::new("a tuple that begins with an atom", "another tuple", at)),
    };
    let operands: Vec<Term> = members.collect();
    let count = operands.len();
    let wrong =
        || InvalidSelector::new("an operator with its operands", &format!("'{name}' with {count}"), at);
    let negated = |test: Expression, is_negated| if is_negated { test.not() } else { test };
    if let Some(operator) = binary_operator(&name)
        && count == 2
    {
        let [left, right] = exactly(operands).ok_or_else(wrong)?;
        return Ok(Expression::Binary(operator, left.boxed()?, right.boxed()?));
    }
    match (name.as_str(), count) {
        ("and", 2) => {
            let [left, right] = exactly(operands).ok_or_else(wrong)?;
            Ok(left.expression()?.and(right.expression()?))
        }
        ("or", 2) => {
            let [left, right] = exactly(operands).ok_or_else(wrong)?;
            Ok(left.expression()?.or(right.expression()?))
        }
        ("not" | "is_null" | "not_null" | "-" | "+" | "ident", 1) => {
            let [operand] = exactly(operands).ok_or_else(wrong)?;
            Ok(match name.as_str() {
                "ident" => Expression::named(&operand.text()?, at)?,
                "not" => operand.expression()?.not(),
                "-" => Expression::Negate(operand.boxed()?),
                "+" => operand.expression()?,
                null => negated(Expression::IsNull(operand.boxed()?), null == "not_null"),
            })
        }
        ("in" | "not_in", 2) => {
            let [left, list] = exactly(operands).ok_or_else(wrong)?;
            Ok(negated(Expression::In(left.boxed()?, list.literals()?), name == "not_in"))
        }
        ("like" | "not_like", 3) => {
            let [left, pattern, escape] = exactly(operands).ok_or_else(wrong)?;
            let (text_at, text) = (pattern.at, pattern.text()?);
            let pattern = Pattern::new(&text, escape.escape()?)
                .map_err(|expected| InvalidSelector::new(expected, &format!("{text:?}"), text_at))?;
            Ok(negated(Expression::Like(left.boxed()?, pattern), name == "not_like"))
        }
        ("between" | "not_between", 2 | 3) => {
            let [left, from, to] = exactly(with_range(operands)).ok_or_else(wrong)?;
            let parts = [left.expression()?, from.expression()?, to.expression()?];
            Ok(negated(Expression::Between(Box::new(parts)), name == "not_between"))
        }
        _ => Err(wrong()),
    }
}

fn exactly<const N: usize>(operands: Vec<Term>) -> Option<[Term; N]> {
    operands.try_into().ok()
}

/// Operands of which the last may be `{'range',From,To}`.
fn with_range(mut operands: Vec<Term>) -> Vec<Term> {
    if let Some(Term { kind: Kind::Tuple(range), .. }) = operands.last_mut()
        && range.len() == 3
        && matches!(&range[0].kind, Kind::Atom(atom) if atom == "range")
    {
        let bounds = range.split_off(1);
        operands.pop();
        operands.extend(bounds);
    }
    operands
}

fn binary_operator(name: &str) -> Option<Operator> {
    Some(match name {
        "=" => Operator::Equal,
        "<>" => Operator::NotEqual,
        "<" => Operator::Less,
        "<=" => Operator::LessOrEqual,
        ">" => Operator::Greater,
        ">=" => Operator::GreaterOrEqual,
        "+" => Operator::Add,
        "-" => Operator::Subtract,
        "*" => Operator::Multiply,
        "/" => Operator::Divide,
        _ => return None,
    })
}
