//! Settings: defaults, overridden by a TOML file, by the environment, by flags.
//!
//! ```text
//! default  <  --config FILE  <  POSTHOUSE__SECTION__KEY  <  --flag
//! ```
//! All layers meet in one table of fields ([`fields`]): one entry says how a setting is read, shown and described, so a
//! setting cannot exist in the file and not in the environment. Knows nothing of what the settings are used for.

mod error;
mod fields;
mod layers;
mod settings;
mod system;
#[cfg(test)]
mod tests;
mod units;

use std::ffi::OsString;
use std::path::Path;

pub(crate) use error::ConfigError;
pub(crate) use layers::Flag;
pub(crate) use settings::{Settings, Storage};
pub(crate) use system::Machine;

use error::Origin;
use fields::FIELDS;

/// Settings and where each came from.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The effective values.
    pub(crate) settings: Settings,
    origins: Vec<Origin>,
}

/// Reads every layer. The error names the first thing that is wrong in the lowest layer that has one.
pub(crate) fn load(
    file: Option<&Path>,
    env: impl Iterator<Item = (OsString, OsString)>,
    flags: Vec<Flag>,
    machine: Machine,
) -> Result<Loaded, ConfigError> {
    let mut loaded =
        Loaded { settings: Settings::new(machine), origins: vec![Origin::Default; FIELDS.len()] };
    let mut given = file.map(layers::from_file).transpose()?.unwrap_or_default();
    given.extend(layers::from_env(env)?);
    given.extend(layers::from_flags(flags)?);
    for one in given {
        let field = &FIELDS[one.field];
        (field.set)(&mut loaded.settings, &one.value).map_err(|expected| ConfigError::Value {
            origin: one.origin.clone(),
            setting: field.name(),
            expected,
            got: if field.secret { "something else".into() } else { one.value.to_string() },
        })?;
        loaded.origins[one.field] = one.origin;
    }
    Ok(loaded)
}

impl Loaded {
    /// Whether a layer above the defaults sets this one.
    pub(crate) fn is_set(&self, section: &str, key: &str) -> bool {
        let mut fields = FIELDS.iter().zip(&self.origins);
        fields
            .any(|(field, origin)| (field.section, field.key) == (section, key) && *origin != Origin::Default)
    }

    /// The effective settings as a configuration file that means the same, secrets left out, each line saying where
    /// it came from.
    pub(crate) fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for (field, origin) in FIELDS.iter().zip(&self.origins) {
            if field.section != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                text += &format!("{gap}[{}]\n", field.section);
                section = field.section;
            }
            let key = field.key;
            let line = if field.secret && *origin != Origin::Default {
                format!("# {key} is set and not shown")
            } else {
                format!("{key} = {}", (field.show)(&self.settings))
            };
            text += &format!("{line:<44} # {origin}; {}\n", field.doc);
        }
        let memory = &self.settings.memory;
        let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
        let (total, budget, watermark) =
            (mib(memory.total), mib(memory.budget_bytes()), mib(memory.watermark_bytes()));
        text + &format!("\n# Memory found: {total}; budget {budget}, watermark {watermark}\n")
    }
}
