//! Tables: a tab between columns and no other white space, for scripts; padded with spaces on a terminal.

use serde_json::{Map, Value};

use crate::one_line::escaped;

/// Rows with these columns only.
pub(crate) fn selected(columns: &[String], rows: &Value) -> Value {
    let select = |row: &Value| {
        let fields = columns.iter().map(|column| (column.clone(), row[column].clone()));
        Value::Object(fields.collect::<Map<_, _>>())
    };
    rows.as_array().into_iter().flatten().map(select).collect()
}

/// A table of these columns. `aligned` pads every column but the last to its widest cell.
pub(crate) fn table(columns: &[String], rows: &Value, headers: bool, aligned: bool) -> String {
    let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
    let cells = |row: &Value| columns.iter().map(|column| cell(&row[column])).collect::<Vec<_>>();
    // No column names over nothing, as in rabbitmqctl.
    let head = (headers && !rows.is_empty()).then(|| columns.to_vec());
    let lines: Vec<Vec<String>> = head.into_iter().chain(rows.iter().map(cells)).collect();
    let mut widths = vec![0; columns.len()];
    if aligned {
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = cell.chars().count().max(*width);
            }
        }
        widths.pop();
        widths.push(0);
    }
    let mut text = String::new();
    for line in &lines {
        let padded: Vec<String> =
            line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        text += &padded.join("\t");
        text.push('\n');
    }
    text
}

/// One fact per line.
pub(crate) fn facts(names: &[&str], of: &Value) -> String {
    let lines = names.iter().map(|name| format!("{name}: {}\n", cell(&of[*name])));
    lines.collect()
}

/// A value in a cell: control characters escaped, so that a name cannot make up rows.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => escaped(text),
        Value::Array(values) => {
            let inner: Vec<String> = values.iter().map(cell).collect();
            format!("[{}]", inner.join(", "))
        }
        Value::Object(fields) => {
            let inner: Vec<String> =
                fields.iter().map(|(name, value)| format!("{{{},{}}}", escaped(name), cell(value))).collect();
            format!("[{}]", inner.join(","))
        }
        other => other.to_string(),
    }
}
