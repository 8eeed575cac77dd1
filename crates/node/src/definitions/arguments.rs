//! Arguments of queues, exchanges and bindings between JSON and field tables. JSON has fewer types: numbers come back as
//! 64-bit integers or doubles, texts as long strings, as they do in RabbitMQ.

use posthouse_model::field::{FieldTable, FieldValue, MAX_DEPTH};
use serde_json::{Map, Value};

/// The longest name of an argument, in bytes: that of a short string.
const KEY_MAX: usize = 255;

/// Reads arguments.
///
/// # Errors
/// When a name is too long, a number too large, or tables and arrays are nested too deep.
pub(super) fn to_table(fields: Map<String, Value>) -> Result<FieldTable, String> {
    table(fields, 1)
}

fn table(fields: Map<String, Value>, depth: usize) -> Result<FieldTable, String> {
    if depth > MAX_DEPTH {
        return Err(format!("expected at most {MAX_DEPTH} levels of arguments"));
    }
    let mut entries = Vec::with_capacity(fields.len());
    for (key, value) in fields {
        if key.len() > KEY_MAX {
            return Err(format!("expected names of arguments of at most {KEY_MAX} bytes, got {}", key.len()));
        }
        let value = field(value, depth).map_err(|problem| format!("argument '{key}': {problem}"))?;
        entries.push((key, value));
    }
    Ok(FieldTable(entries))
}

fn field(value: Value, depth: usize) -> Result<FieldValue, String> {
    Ok(match value {
        Value::Null => FieldValue::Void,
        Value::Bool(flag) => FieldValue::Bool(flag),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => FieldValue::I64(whole),
            (None, Some(real)) if number.is_f64() => FieldValue::F64(real),
            _ => return Err(format!("expected a signed integer of 64 bits, got {number}")),
        },
        Value::String(text) => FieldValue::LongStr(text.into_bytes()),
        Value::Array(values) => {
            if depth >= MAX_DEPTH {
                return Err(format!("expected at most {MAX_DEPTH} levels of arguments"));
            }
            let values = values.into_iter().map(|value| field(value, depth + 1));
            FieldValue::Array(values.collect::<Result<_, _>>()?)
        }
        Value::Object(fields) => FieldValue::Table(table(fields, depth + 1)?),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::listings::table_value;

    fn read(value: Value) -> Result<FieldTable, String> {
        let Value::Object(fields) = value else { panic!("expected an object, got {value}") };
        to_table(fields)
    }

    #[test]
    fn json_comes_back_as_it_was() {
        let value =
            json!({"n": -5, "f": 1.5, "b": true, "s": "x", "a": [1, ["y"]], "t": {"k": {}}, "v": null});
        let table = read(value.clone()).unwrap();
        assert_eq!(table.get("n"), Some(&FieldValue::I64(-5)));
        assert_eq!(table.get("f"), Some(&FieldValue::F64(1.5)));
        assert_eq!(table.get("s"), Some(&FieldValue::string("x")));
        assert_eq!(table_value(&table), value);
    }

    #[test]
    fn what_no_table_holds_is_refused() {
        let error = read(json!({"k".repeat(256): 1})).unwrap_err();
        assert_eq!(error, "expected names of arguments of at most 255 bytes, got 256");
        let error = read(json!({"n": u64::MAX})).unwrap_err();
        assert_eq!(error, "argument 'n': expected a signed integer of 64 bits, got 18446744073709551615");
        let nested = |depth: usize| (1..depth).fold(json!({}), |inner, _| json!({"k": inner}));
        assert!(read(nested(MAX_DEPTH)).is_ok());
        assert!(
            read(nested(MAX_DEPTH + 1)).unwrap_err().ends_with("expected at most 64 levels of arguments")
        );
        let arrays = |depth: usize| json!({"k": (1..depth).fold(json!([]), |inner, _| json!([inner]))});
        assert!(read(arrays(MAX_DEPTH - 1)).is_ok());
        assert!(read(arrays(MAX_DEPTH)).is_err());
    }
}
