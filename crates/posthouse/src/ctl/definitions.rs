//! Commands that write or read a file of definitions. The broker never opens it: its directory and its rights are those
//! of whoever runs the command.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use posthouse_node::definitions::MAX_BYTES;
use serde_json::{Value, json};

use super::client::{self, CtlError};
use super::options::{Formatter, Request};
use crate::one_line::escaped;

/// Stands for standard input or output.
const STANDARD: &str = "-";

/// Asks for all definitions and writes them; what is to be printed.
pub(super) fn export(request: &Request, socket: &Path) -> Result<String, CtlError> {
    check_format(request)?;
    let document = client::ask(socket, request.command.name, json!({}), &[])?;
    let text = format!("{document:#}\n");
    let file = file(request);
    if file == STANDARD {
        return Ok(text);
    }
    // There are password hashes in it: nobody else may read it.
    let opened = File::options().write(true).create(true).truncate(true).mode(0o600).open(file);
    let written =
        opened.and_then(|mut opened| opened.write_all(text.as_bytes()).and_then(|()| opened.sync_all()));
    written.map_err(|error| CtlError::State(format!("cannot write {file}: {error}")))?;
    Ok(match (request.formatter, request.quiet) {
        (Formatter::Table, false) => format!("Exporting definitions in JSON to a file at \"{file}\" ...\n"),
        _ => String::new(),
    })
}

/// Reads definitions and lets the broker import them; what is to be printed.
pub(super) fn import(request: &Request, socket: &Path) -> Result<String, CtlError> {
    check_format(request)?;
    let file = file(request);
    let (document, from) = if file == STANDARD {
        (read(std::io::stdin().lock(), "standard input")?, "standard input".to_owned())
    } else {
        let opened =
            File::open(file).map_err(|error| CtlError::Usage(format!("cannot read {file}: {error}")))?;
        (read(opened, file)?, format!("a file at \"{file}\""))
    };
    let answer = client::ask(socket, request.command.name, json!({"bytes": document.len()}), &document)?;
    if request.formatter == Formatter::Json {
        return Ok(format!("{answer}\n"));
    }
    let left_out = answer["left_out"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut lines: Vec<String> = left_out
        .iter()
        .filter_map(Value::as_str)
        .map(|note| format!("left out: {}", escaped(note)))
        .collect();
    if !request.quiet {
        lines.insert(0, format!("Importing definitions in JSON from {from} ..."));
        lines.push(format!("Imported {}.", counts(&answer["imported"])));
    }
    Ok(lines.into_iter().map(|line| line + "\n").collect())
}

/// Reads to the end, one byte more than may be sent at most.
fn read(input: impl Read, name: &str) -> Result<Vec<u8>, CtlError> {
    let mut document = Vec::new();
    let read = input.take(MAX_BYTES as u64 + 1).read_to_end(&mut document);
    read.map_err(|error| CtlError::Usage(format!("cannot read {name}: {error}")))?;
    if document.len() > MAX_BYTES {
        return Err(CtlError::Usage(format!(
            "{name}: expected at most {MAX_BYTES} bytes of definitions, got more"
        )));
    }
    Ok(document)
}

fn file(request: &Request) -> &str {
    request.args.get("file").and_then(Value::as_str).unwrap_or(STANDARD)
}

fn check_format(request: &Request) -> Result<(), CtlError> {
    match request.args.get("format").and_then(Value::as_str) {
        None | Some("json") => Ok(()),
        Some(other) => Err(CtlError::Usage(format!("--format: expected json, got {other:?}"))),
    }
}

/// Such as `3 queues, 1 users`; sections that were empty are left out.
fn counts(imported: &Value) -> String {
    let counted = imported.as_object().into_iter().flatten().filter(|(_, count)| count.as_u64() != Some(0));
    let parts: Vec<String> =
        counted.map(|(section, count)| format!("{count} {}", section.replace('_', " "))).collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}
