//! The three layers above the defaults: file, environment, flags. Each yields (field, value, origin); none knows types.

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin};
use super::fields::FIELDS;
use super::units::Given;

/// A configuration file is a page of text; what is larger is not one.
const MAX_FILE: u64 = 1 << 20;
const ENV_PREFIX: &str = "POSTHOUSE__";

/// A setting that was given as a flag.
#[derive(Debug)]
pub(crate) struct Flag {
    /// As typed: `--data-dir`.
    pub(crate) flag: &'static str,
    /// The setting it sets.
    pub(crate) section: &'static str,
    /// The setting it sets.
    pub(crate) key: &'static str,
    /// More than one where it was repeated.
    pub(crate) values: Vec<String>,
}

/// A value for a field.
#[derive(Debug)]
pub(super) struct One {
    /// Index into [`FIELDS`].
    pub(super) field: usize,
    /// As given.
    pub(super) value: Given,
    /// For messages and `posthouse config`.
    pub(super) origin: Origin,
}

/// Reads the configuration file.
pub(super) fn from_file(path: &Path) -> Result<Vec<One>, ConfigError> {
    let unreadable = |why: String| ConfigError::Unreadable { path: path.to_owned(), why };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| unreadable(error.to_string()))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(unreadable("expected at most 1MiB of TOML, got more".to_owned()));
    }
    let text =
        String::from_utf8(bytes).map_err(|_| unreadable("expected UTF-8, got other bytes".to_owned()))?;
    from_text(path, &text)
}

/// Reads the text of a configuration file.
pub(super) fn from_text(path: &Path, text: &str) -> Result<Vec<One>, ConfigError> {
    let at = |offset: usize| Origin::File { path: path.to_owned(), line: line_of(text, offset) };
    let document = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: line_of(text, error.span().map_or(0, |span| span.start)),
        why: error.message().replace('\n', ", "),
    })?;
    let mut found = Vec::new();
    for (section, content) in document.get_ref() {
        let name = section.get_ref().as_ref();
        let origin = at(section.span().start);
        let known = FIELDS.iter().any(|field| field.section == name);
        let (true, DeValue::Table(keys)) = (known, content.get_ref()) else {
            return Err(unknown_section(origin, name, known));
        };
        for (key, value) in keys {
            let origin = at(key.span().start);
            let field = find(name, key.get_ref())
                .ok_or_else(|| unknown(origin.clone(), name, key.get_ref(), dotted))?;
            found.push(One { field, value: given(value, &origin, field)?, origin });
        }
    }
    Ok(found)
}

/// Takes every variable of our prefix; any other is nobody's business.
pub(super) fn from_env(env: impl Iterator<Item = (OsString, OsString)>) -> Result<Vec<One>, ConfigError> {
    let mut found = Vec::new();
    for (name, value) in env {
        let Some((name, rest)) = name.to_str().and_then(|name| Some((name, name.strip_prefix(ENV_PREFIX)?)))
        else {
            continue;
        };
        let origin = Origin::Env(name.to_owned());
        let lower = rest.to_ascii_lowercase();
        let (section, key) = lower.split_once("__").unwrap_or((lower.as_str(), ""));
        let field = find(section, key).ok_or_else(|| unknown(origin.clone(), section, key, variable))?;
        let value = value.into_string().map_err(|_| ConfigError::Value {
            origin: origin.clone(),
            setting: FIELDS[field].name(),
            expected: "UTF-8".to_owned(),
            got: "other bytes".to_owned(),
        })?;
        found.push(One { field, value: Given::One(value), origin });
    }
    // The order of the environment is arbitrary; which of two wrong variables is named should not be.
    found.sort_by_key(|one| one.field);
    Ok(found)
}

/// Takes the flags.
pub(super) fn from_flags(flags: Vec<Flag>) -> Result<Vec<One>, ConfigError> {
    let one = |Flag { flag, section, key, mut values }: Flag| {
        let origin = Origin::Flag(flag);
        let field = find(section, key).ok_or_else(|| unknown(origin.clone(), section, key, dotted))?;
        let value = match values.pop() {
            Some(last) if values.is_empty() => Given::One(last),
            last => Given::Many(values.into_iter().chain(last).collect()),
        };
        Ok(One { field, value, origin })
    };
    flags.into_iter().map(one).collect()
}

fn find(section: &str, key: &str) -> Option<usize> {
    FIELDS.iter().position(|field| field.section == section && field.key == key)
}

fn given(value: &Spanned<DeValue<'_>>, origin: &Origin, field: usize) -> Result<Given, ConfigError> {
    let value = value.get_ref();
    let items = value.as_array().map(|items| items.iter().map(|item| scalar(item.get_ref())).collect());
    let given = match items {
        Some(items) => Option::map(items, Given::Many),
        None => scalar(value).map(Given::One),
    };
    given.ok_or_else(|| ConfigError::Value {
        origin: origin.clone(),
        setting: FIELDS[field].name(),
        expected: "a string, an integer or a list of strings".to_owned(),
        got: value.type_str().to_owned(),
    })
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.clone().into_owned()),
        DeValue::Integer(number) => {
            Some(i128::from_str_radix(number.as_str(), number.radix()).ok()?.to_string())
        }
        DeValue::Boolean(yes) => Some(yes.to_string()),
        _ => None,
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

fn dotted(section: &str, key: &str) -> String {
    format!("{section}.{key}")
}

fn variable(section: &str, key: &str) -> String {
    let gap = if key.is_empty() { "" } else { "__" };
    format!("{ENV_PREFIX}{section}{gap}{key}").to_ascii_uppercase()
}

fn unknown(origin: Origin, section: &str, key: &str, name: fn(&str, &str) -> String) -> ConfigError {
    let distance =
        |field: &&super::fields::Field| edit_distance(section, field.section) + edit_distance(key, field.key);
    let nearest = FIELDS.iter().min_by_key(distance).map(|field| name(field.section, field.key));
    ConfigError::Unknown { origin, name: name(section, key), nearest: nearest.unwrap_or_default() }
}

/// Also said of a key outside of any section, and of a section's name that was given a plain value.
fn unknown_section(origin: Origin, name: &str, known: bool) -> ConfigError {
    let nearest = FIELDS.iter().map(|field| field.section).min_by_key(|section| edit_distance(name, section));
    let key = FIELDS.iter().find(|field| field.key == name);
    let nearest = match key {
        Some(field) if !known => format!("{} in section [{}]", field.key, field.section),
        _ => format!("section [{}]", nearest.unwrap_or_default()),
    };
    ConfigError::Unknown { origin, name: name.to_owned(), nearest }
}

/// Levenshtein distance in bytes; cut off at 64 so that a hostile name costs nothing.
fn edit_distance(from: &str, to: &str) -> usize {
    let (from, to) = (&from.as_bytes()[..from.len().min(64)], to.as_bytes());
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, distance) in
            [("", "abc", 3), ("abc", "abc", 0), ("frame_mx", "frame_max", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
        }
    }
}
