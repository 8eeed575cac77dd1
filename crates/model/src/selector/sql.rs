//! Reads selectors as JMS defines them.
//!
//! ```text
//! condition  = conjunct { OR conjunct }
//! conjunct   = negation { AND negation }
//! negation   = NOT negation | predicate
//! predicate  = sum [ ( = | <> | < | <= | > | >= ) sum
//!                  | [NOT] BETWEEN sum AND sum
//!                  | [NOT] IN ( literal {, literal} )
//!                  | [NOT] LIKE string [ESCAPE string]
//!                  | IS [NOT] NULL ]
//! sum        = product { ( + | - ) product }
//! product    = factor { ( * | / ) factor }
//! factor     = ( + | - ) factor | literal | name | ( condition )
//! literal    = 'text with '' in it' | 12 | 1.5e3 | 0x1f | TRUE | FALSE
//! name       = a letter, _ or $, then also digits and dots
//! ```
//!
//! Words such as AND may be in either case.

use super::{DEPTH_MAX, Expression, InvalidSelector, Literal, Operator, Pattern};

/// Words that are no names.
const KEYWORDS: [&str; 11] =
    ["AND", "BETWEEN", "ESCAPE", "FALSE", "IN", "IS", "LIKE", "NOT", "NULL", "OR", "TRUE"];

#[derive(Clone, PartialEq, Debug)]
enum Token {
    /// In capitals.
    Keyword(&'static str),
    Name(String),
    Literal(Literal),
    Symbol(&'static str),
    End,
}

/// Longer ones first.
const SYMBOLS: [&str; 13] = ["<>", "<=", ">=", "=", "<", ">", "+", "-", "*", "/", "(", ")", ","];

/// Reads a whole selector.
pub(super) fn parse(text: &str) -> Result<Expression, InvalidSelector> {
    let mut parser = Parser { text, at: 0, token: Token::End, token_at: 0, depth: 0 };
    parser.advance()?;
    let condition = parser.condition()?;
    match parser.token {
        Token::End => Ok(condition),
        _ => Err(parser.wrong("an operator or the end")),
    }
}

struct Parser<'a> {
    text: &'a str,
    /// What follows [`Self::token`].
    at: usize,
    token: Token,
    token_at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn condition(&mut self) -> Result<Expression, InvalidSelector> {
        let mut left = self.conjunct()?;
        while self.take_keyword("OR")? {
            left = left.or(self.conjunct()?);
        }
        Ok(left)
    }

    fn conjunct(&mut self) -> Result<Expression, InvalidSelector> {
        let mut left = self.negation()?;
        while self.take_keyword("AND")? {
            left = left.and(self.negation()?);
        }
        Ok(left)
    }

    fn negation(&mut self) -> Result<Expression, InvalidSelector> {
        if self.take_keyword("NOT")? {
            return self.deeper(|parser| Ok(parser.negation()?.not()));
        }
        self.predicate()
    }

    fn predicate(&mut self) -> Result<Expression, InvalidSelector> {
        let left = self.sum()?;
        let comparisons = [
            ("=", Operator::Equal),
            ("<>", Operator::NotEqual),
            ("<", Operator::Less),
            ("<=", Operator::LessOrEqual),
            (">", Operator::Greater),
            (">=", Operator::GreaterOrEqual),
        ];
        if let Some(operator) = self.take_one_of(&comparisons)? {
            return Ok(Expression::Binary(operator, Box::new(left), Box::new(self.sum()?)));
        }
        if self.take_keyword("IS")? {
            let negated = self.take_keyword("NOT")?;
            self.expect_keyword("NULL")?;
            let is_null = Expression::IsNull(Box::new(left));
            return Ok(if negated { is_null.not() } else { is_null });
        }
        let negated = self.take_keyword("NOT")?;
        let test = if self.take_keyword("BETWEEN")? {
            let from = self.sum()?;
            self.expect_keyword("AND")?;
            Expression::Between(Box::new([left, from, self.sum()?]))
        } else if self.take_keyword("IN")? {
            Expression::In(Box::new(left), self.list()?)
        } else if self.take_keyword("LIKE")? {
            Expression::Like(Box::new(left), self.pattern()?)
        } else if negated {
            return Err(self.wrong("BETWEEN, IN or LIKE"));
        } else {
            return Ok(left);
        };
        Ok(if negated { test.not() } else { test })
    }

    fn list(&mut self) -> Result<Vec<Literal>, InvalidSelector> {
        self.expect_symbol("(")?;
        let mut list = Vec::new();
        loop {
            let negative = self.take_symbol("-")?;
            let literal = match (&self.token, negative) {
                (Token::Literal(Literal::Int(it)), true) => Literal::Int(-it),
                (Token::Literal(Literal::Float(it)), true) => Literal::Float(-it),
                (Token::Literal(literal), false) => literal.clone(),
                _ => return Err(self.wrong("a text or a number")),
            };
            self.advance()?;
            list.push(literal);
            if !self.take_symbol(",")? {
                self.expect_symbol(")")?;
                return Ok(list);
            }
        }
    }

    fn pattern(&mut self) -> Result<Pattern, InvalidSelector> {
        let (at, pattern) = (self.token_at, self.string()?);
        let mut escape = None;
        if self.take_keyword("ESCAPE")? {
            let at = self.token_at;
            let text = self.string()?;
            let mut characters = text.chars();
            escape = characters.next().filter(|_| characters.next().is_none());
            if escape.is_none() {
                return Err(InvalidSelector::new("one escape character", &format!("{text:?}"), at));
            }
        }
        Pattern::new(&pattern, escape)
            .map_err(|expected| InvalidSelector::new(expected, &format!("{pattern:?}"), at))
    }

    fn string(&mut self) -> Result<String, InvalidSelector> {
        let Token::Literal(Literal::Text(text)) = &self.token else {
            return Err(self.wrong("a text in quotes"));
        };
        let text = text.clone();
        self.advance()?;
        Ok(text)
    }

    fn sum(&mut self) -> Result<Expression, InvalidSelector> {
        let left = self.product()?;
        self.chain(left, &[("+", Operator::Add), ("-", Operator::Subtract)], Self::product)
    }

    fn product(&mut self) -> Result<Expression, InvalidSelector> {
        let left = self.factor()?;
        self.chain(left, &[("*", Operator::Multiply), ("/", Operator::Divide)], Self::factor)
    }

    /// Goes on with more operands. Each makes the expression one deeper.
    fn chain(
        &mut self,
        mut left: Expression,
        operators: &[(&str, Operator)],
        next: fn(&mut Self) -> Result<Expression, InvalidSelector>,
    ) -> Result<Expression, InvalidSelector> {
        let depth = self.depth;
        while let Some(operator) = self.take_one_of(operators)? {
            self.go_deeper()?;
            left = Expression::Binary(operator, Box::new(left), Box::new(next(self)?));
        }
        self.depth = depth;
        Ok(left)
    }

    fn factor(&mut self) -> Result<Expression, InvalidSelector> {
        if self.take_symbol("+")? {
            return self.deeper(Self::factor);
        }
        if self.take_symbol("-")? {
            return self.deeper(|parser| Ok(Expression::Negate(Box::new(parser.factor()?))));
        }
        if self.take_symbol("(")? {
            let inner = self.deeper(Self::condition)?;
            self.expect_symbol(")")?;
            return Ok(inner);
        }
        let factor = match &self.token {
            Token::Literal(literal) => Expression::Literal(literal.clone()),
            Token::Keyword("TRUE") => Expression::Literal(Literal::Bool(true)),
            Token::Keyword("FALSE") => Expression::Literal(Literal::Bool(false)),
            Token::Name(name) => Expression::named(name, self.token_at)?,
            _ => return Err(self.wrong("a name, a literal or (")),
        };
        self.advance()?;
        Ok(factor)
    }

    fn deeper<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, InvalidSelector>,
    ) -> Result<T, InvalidSelector> {
        self.go_deeper()?;
        let result = read(self)?;
        self.depth -= 1;
        Ok(result)
    }

    fn go_deeper(&mut self) -> Result<(), InvalidSelector> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(InvalidSelector::new(&format!("{DEPTH_MAX} levels at most"), "more", self.token_at));
        }
        Ok(())
    }

    fn take_one_of(&mut self, operators: &[(&str, Operator)]) -> Result<Option<Operator>, InvalidSelector> {
        let Token::Symbol(symbol) = self.token else { return Ok(None) };
        let Some(&(_, operator)) = operators.iter().find(|(known, _)| *known == symbol) else {
            return Ok(None);
        };
        self.advance()?;
        Ok(Some(operator))
    }

    fn take_symbol(&mut self, symbol: &str) -> Result<bool, InvalidSelector> {
        let is_it = matches!(self.token, Token::Symbol(known) if known == symbol);
        if is_it {
            self.advance()?;
        }
        Ok(is_it)
    }

    fn take_keyword(&mut self, keyword: &str) -> Result<bool, InvalidSelector> {
        let is_it = matches!(self.token, Token::Keyword(known) if known == keyword);
        if is_it {
            self.advance()?;
        }
        Ok(is_it)
    }

    fn expect_symbol(&mut self, symbol: &str) -> Result<(), InvalidSelector> {
        if self.take_symbol(symbol)? { Ok(()) } else { Err(self.wrong(symbol)) }
    }

    fn expect_keyword(&mut self, keyword: &str) -> Result<(), InvalidSelector> {
        if self.take_keyword(keyword)? { Ok(()) } else { Err(self.wrong(keyword)) }
    }

    fn wrong(&self, expected: &str) -> InvalidSelector {
        let got = match self.token {
            Token::End => "the end".to_owned(),
            _ => format!("{:?}", &self.text[self.token_at..self.at]),
        };
        InvalidSelector::new(expected, &got, self.token_at)
    }

    /// Reads the next token.
    fn advance(&mut self) -> Result<(), InvalidSelector> {
        let spaces = self.text[self.at..].len() - self.text[self.at..].trim_start().len();
        self.at += spaces;
        self.token_at = self.at;
        let rest = &self.text[self.at..];
        let Some(first) = rest.chars().next() else {
            self.token = Token::End;
            return Ok(());
        };
        let (token, length) = if first == '\'' {
            self.text_literal(rest)?
        } else if first.is_ascii_digit()
            || (first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit()))
        {
            self.number(rest)?
        } else if is_name_start(first) {
            let length = rest.find(|c| !is_name_part(c)).unwrap_or(rest.len());
            let word = &rest[..length];
            let keyword = KEYWORDS.into_iter().find(|known| known.eq_ignore_ascii_case(word));
            (keyword.map_or_else(|| Token::Name(word.to_owned()), Token::Keyword), length)
        } else {
            let symbol = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol));
            let symbol = symbol.ok_or_else(|| {
                InvalidSelector::new("a name, a literal or an operator", &format!("{first:?}"), self.at)
            })?;
            (Token::Symbol(symbol), symbol.len())
        };
        self.token = token;
        self.at += length;
        Ok(())
    }

    fn text_literal(&self, rest: &str) -> Result<(Token, usize), InvalidSelector> {
        let (mut text, mut at) = (String::new(), 1);
        loop {
            let Some(end) = rest[at..].find('\'') else {
                return Err(InvalidSelector::new("a quote at the end of a text", "the end", self.text.len()));
            };
            text.push_str(&rest[at..at + end]);
            at += end + 1;
            if !rest[at..].starts_with('\'') {
                return Ok((Token::Literal(Literal::Text(text)), at));
            }
            text.push('\'');
            at += 1;
        }
    }

    fn number(&self, rest: &str) -> Result<(Token, usize), InvalidSelector> {
        let mut length = 0;
        for (at, character) in rest.char_indices() {
            let signed =
                matches!(character, '+' | '-') && rest[..at].ends_with(['e', 'E']) && !rest.starts_with("0x");
            if !(character.is_ascii_alphanumeric() || matches!(character, '.' | '_') || signed) {
                break;
            }
            length = at + character.len_utf8();
        }
        let word = &rest[..length];
        let literal = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
            Some(digits) => i64::from_str_radix(digits, 16).ok().map(Literal::Int),
            None => {
                let whole = word.strip_suffix(['l', 'L']).unwrap_or(word).parse().ok().map(Literal::Int);
                // Never one of the words that Rust takes for numbers: it begins with a digit or a dot.
                whole.or_else(|| {
                    let digits = word.strip_suffix(['d', 'D', 'f', 'F']).unwrap_or(word);
                    digits.parse().ok().filter(|it: &f64| it.is_finite()).map(Literal::Float)
                })
            }
        };
        let literal =
            literal.ok_or_else(|| InvalidSelector::new("a number", &format!("{word:?}"), self.at))?;
        Ok((Token::Literal(literal), length))
    }
}

fn is_name_start(character: char) -> bool {
    character.is_alphabetic() || matches!(character, '_' | '$')
}

fn is_name_part(character: char) -> bool {
    is_name_start(character) || character.is_numeric() || character == '.'
}
