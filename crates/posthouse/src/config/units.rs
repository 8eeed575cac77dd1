//! Texts to typed values: sizes, durations, shares of memory, bounded integers. Every failure says what was expected.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// A value as it was given, before anyone knows its type. TOML integers and booleans are kept as their text, so that
/// file, environment and flag read alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Given {
    /// A single value.
    One(String),
    /// A TOML array, or a flag that was repeated.
    Many(Vec<String>),
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(text) => write!(f, "{text:?}"),
            Self::Many(texts) => write!(f, "{texts:?}"),
        }
    }
}

impl Given {
    /// A single text; `expected` is what the refusal of a list says.
    pub(super) fn text(&self, expected: &str) -> Result<&str, String> {
        match self {
            Self::One(text) => Ok(text),
            Self::Many(_) => Err(expected.to_owned()),
        }
    }

    /// A list; one text is split at commas, which is how the environment writes a list.
    pub(super) fn list(&self) -> Vec<&str> {
        match self {
            Self::One(text) => text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect(),
            Self::Many(texts) => texts.iter().map(String::as_str).collect(),
        }
    }

    /// A whole number in `range`.
    pub(super) fn integer(&self, range: RangeInclusive<u64>) -> Result<u64, String> {
        let expected = || format!("a whole number from {} to {}", range.start(), range.end());
        let number = self.text(&expected())?.parse().ok();
        number.filter(|n| range.contains(n)).ok_or_else(expected)
    }

    /// A size in `range` bytes: `16MiB`, `50MB`, `4096`.
    pub(super) fn size(&self, range: RangeInclusive<u64>) -> Result<u64, String> {
        let expected = || {
            format!(
                "a size from {} to {}, like \"64MiB\"",
                show_size(*range.start()),
                show_size(*range.end())
            )
        };
        parse_size(self.text(&expected())?).filter(|n| range.contains(n)).ok_or_else(expected)
    }

    /// A duration in `range`: `10s`, `500ms`, `2m`, or `0`.
    pub(super) fn duration(&self, range: RangeInclusive<Duration>) -> Result<Duration, String> {
        let (low, high) = (show_duration(*range.start()), show_duration(*range.end()));
        let expected = || format!("a duration from {low} to {high}, like \"10s\" or \"500ms\"");
        parse_duration(self.text(&expected())?).filter(|d| range.contains(d)).ok_or_else(expected)
    }
}

/// A part of the machine's memory: a percentage of it, or bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Share {
    /// 1 to 100
    Percent(u8),
    /// Not more than the machine has, if it is to mean anything; not checked.
    Bytes(u64),
}

impl Share {
    /// The share of `total` bytes, in bytes.
    pub(crate) fn of(self, total: u64) -> u64 {
        match self {
            Self::Percent(percent) => total / 100 * u64::from(percent),
            Self::Bytes(bytes) => bytes,
        }
    }

    pub(super) fn parse(given: &Given) -> Result<Self, String> {
        let expected = "a share of memory like \"40%\" or a size like \"2GiB\", at least 16MiB";
        let text = given.text(expected)?;
        let parsed = match text.strip_suffix('%') {
            Some(percent) => percent.trim().parse().ok().filter(|p| (1..=100).contains(p)).map(Self::Percent),
            None => parse_size(text).filter(|bytes| *bytes >= 16 << 20).map(Self::Bytes),
        };
        parsed.ok_or_else(|| expected.to_owned())
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(bytes) => f.write_str(&show_size(*bytes)),
        }
    }
}

/// Longest first where one is the end of another.
const SIZES: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

const DURATIONS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, factor) =
        units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))?;
    number.trim_end().parse::<u64>().ok()?.checked_mul(factor)
}

fn parse_size(text: &str) -> Option<u64> {
    text.parse().ok().or_else(|| with_unit(text, &SIZES))
}

fn parse_duration(text: &str) -> Option<Duration> {
    let millis = if text == "0" { Some(0) } else { with_unit(text, &DURATIONS) };
    millis.map(Duration::from_millis)
}

/// The shortest exact form: `64MiB`, `50MB`, `4097B`.
pub(super) fn show_size(bytes: u64) -> String {
    let fits = |(_, factor): &&(&str, u64)| bytes >= *factor && bytes.is_multiple_of(*factor);
    let (unit, factor) = SIZES.iter().filter(fits).max_by_key(|(_, factor)| *factor).unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / factor)
}

/// The shortest exact form, at least a millisecond: `2m`, `90s`, `1500ms`.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".into();
    }
    let (unit, factor) = if millis.is_multiple_of(1_000) { ("s", 1_000) } else { ("ms", 1) };
    format!("{}{unit}", millis / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_both_ways() {
        for (text, bytes) in [
            ("4096", 4096),
            ("64MiB", 64 << 20),
            ("50MB", 50_000_000),
            ("1 GiB", 1 << 30),
            ("7B", 7),
            ("0", 0),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
            assert_eq!(parse_size(&show_size(bytes)), Some(bytes), "{text}");
        }
        for bad in ["", "MiB", "-1", "1.5MiB", "1mib", "99999999999TiB", "0x10"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
        assert_eq!(show_size(64 << 20), "64MiB");
        assert_eq!(show_size(50_000_000), "50MB");
    }

    #[test]
    fn durations_both_ways() {
        for (text, millis) in [("10s", 10_000), ("500ms", 500), ("2m", 120_000), ("0", 0), ("1h", 3_600_000)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
            assert_eq!(parse_duration(&show_duration(Duration::from_millis(millis))), parse_duration(text));
        }
        for bad in ["", "10", "s", "1.5s", "10 seconds", "-1s"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
