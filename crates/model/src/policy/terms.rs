//! JSON values as RabbitMQ's texts show them.

use std::fmt;

use serde_json::Value;

use crate::errors::ErlangBinary;

/// A JSON value, printed as the Erlang term that RabbitMQ makes of it.
#[derive(Clone, Copy, Debug)]
pub struct ErlangTerm<'a>(pub &'a Value);

impl fmt::Display for ErlangTerm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::String(text) => write!(f, "{}", ErlangBinary(text.as_bytes())),
            Value::Array(values) => {
                f.write_str("[")?;
                for (i, value) in values.iter().enumerate() {
                    write!(f, "{}{}", if i == 0 { "" } else { "," }, Self(value))?;
                }
                f.write_str("]")
            }
            Value::Object(fields) => {
                f.write_str("#{")?;
                for (i, (key, value)) in fields.iter().enumerate() {
                    let (comma, key) = (if i == 0 { "" } else { "," }, ErlangBinary(key.as_bytes()));
                    write!(f, "{comma}{key} => {}", Self(value))?;
                }
                f.write_str("}")
            }
            other => write!(f, "{other}"),
        }
    }
}
