//! What can be wrong with the configuration, each as one line.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// Nobody set it.
    Default,
    /// A line (from 1) of the configuration file.
    File { path: PathBuf, line: usize },
    /// An environment variable.
    Env(String),
    /// A command-line flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => write!(f, "env {name}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// Why the settings could not be put together.
#[derive(PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("configuration file {}: {why}", path.display())]
    Unreadable { path: PathBuf, why: String },
    /// The file is not TOML.
    #[error("{}:{line}: expected TOML: {why}", path.display())]
    Syntax { path: PathBuf, line: usize, why: String },
    /// No such section or key.
    #[error("{origin}: {name} is not a setting, the nearest is {nearest}")]
    Unknown { origin: Origin, name: String, nearest: String },
    /// A known setting with a value it does not take.
    #[error("{origin}: {setting}: expected {expected}, got {got}")]
    Value { origin: Origin, setting: String, expected: String, got: String },
}
