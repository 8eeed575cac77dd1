//! How a super stream is described: RabbitMQ's options, with the units of sizes and durations that they may have.

use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_node::admin::AdminError;
use posthouse_node::admin::super_streams::{PARTITIONS_MAX, SuperStream};
use serde::Deserialize;

/// Partitions unless something else is said.
const PARTITIONS: i64 = 3;

/// See the module's documentation.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SuperStreamOptions {
    /// How many partitions there are, with the keys 0, 1, ...
    partitions: Option<i64>,
    /// Or their keys, with commas between them.
    binding_keys: Option<String>,
    /// Bytes that each partition keeps, such as `5gb`.
    max_length_bytes: Option<String>,
    /// Age that it keeps, such as `PT24H` or `7D`.
    max_age: Option<String>,
    /// Bytes that it gives up at once.
    stream_max_segment_size_bytes: Option<String>,
    leader_locator: Option<String>,
    initial_cluster_size: Option<i64>,
}

impl SuperStreamOptions {
    /// The super stream of that name.
    pub(super) fn of(self, name: String) -> Result<SuperStream, AdminError> {
        let invalid = |text: String| AdminError::SuperStream(text);
        let keys = match (self.partitions, self.binding_keys) {
            (Some(_), Some(_)) => {
                return Err(invalid("Specify --partitions or --binding-keys, not both.".to_owned()));
            }
            (None, Some(keys)) => keys.split(',').map(|key| key.trim().to_owned()).collect(),
            (partitions, None) => {
                let count = partitions.unwrap_or(PARTITIONS);
                if !(1..=PARTITIONS_MAX as i64).contains(&count) {
                    return Err(invalid(format!("expected 1 to {PARTITIONS_MAX} partitions, got {count}")));
                }
                (0..count).map(|key| key.to_string()).collect()
            }
        };
        let mut arguments = FieldTable::default();
        let mut add = |name: &str, value| arguments.0.push((name.to_owned(), value));
        let sizes = [
            ("x-max-length-bytes", self.max_length_bytes),
            ("x-stream-max-segment-size-bytes", self.stream_max_segment_size_bytes),
        ];
        for (argument, text) in sizes.into_iter().filter_map(|(argument, text)| Some((argument, text?))) {
            let bytes = parse_bytes(&text)
                .ok_or_else(|| invalid(format!("{argument}: expected bytes, such as 5gb, got '{text}'")))?;
            add(argument, FieldValue::I64(bytes));
        }
        if let Some(text) = self.max_age {
            let age = if text.starts_with('P') {
                let seconds = parse_duration(&text);
                let expected =
                    || format!("x-max-age: expected a duration, such as PT24H or 7D, got '{text}'");
                format!("{}s", seconds.ok_or_else(|| invalid(expected()))?)
            } else {
                text
            };
            add("x-max-age", FieldValue::string(&age));
        }
        if let Some(locator) = self.leader_locator {
            add("x-queue-leader-locator", FieldValue::string(&locator));
        }
        if let Some(size) = self.initial_cluster_size {
            add("x-initial-cluster-size", FieldValue::I64(size));
        }
        Ok(SuperStream { name, keys, arguments })
    }
}

/// A number and, maybe, one of RabbitMQ's units: `kb`, `mb`, `gb`, `tb` are powers of 1000; `kib`, `k` and so on of 1024.
fn parse_bytes(text: &str) -> Option<i64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.to_ascii_lowercase();
    let (base, power): (i64, u32) = match unit.as_str() {
        "" | "b" => (1, 1),
        "kb" => (1000, 1),
        "mb" => (1000, 2),
        "gb" => (1000, 3),
        "tb" => (1000, 4),
        "k" | "kib" => (1024, 1),
        "m" | "mib" => (1024, 2),
        "g" | "gib" => (1024, 3),
        "t" | "tib" => (1024, 4),
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(base.checked_pow(power)?)
}

/// Seconds of an ISO 8601 duration, such as `P1DT12H`; a year has 365 days, a month 30.
fn parse_duration(text: &str) -> Option<u64> {
    const DAY: u64 = 86_400;
    let (date, time) = text.strip_prefix('P')?.split_once('T').unwrap_or((text.strip_prefix('P')?, ""));
    let in_date: &[(char, u64)] = &[('Y', 365 * DAY), ('M', 30 * DAY), ('W', 7 * DAY), ('D', DAY)];
    let in_time: &[(char, u64)] = &[('H', 3600), ('M', 60), ('S', 1)];
    let total = sum(date, in_date)?.checked_add(sum(time, in_time)?)?;
    Some(total).filter(|seconds| *seconds > 0)
}

fn sum(mut text: &str, units: &[(char, u64)]) -> Option<u64> {
    let mut total = 0u64;
    while !text.is_empty() {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = text[..digits].parse().ok()?;
        let unit = text[digits..].chars().next()?;
        let (_, seconds) = units.iter().find(|(known, _)| *known == unit)?;
        total = total.checked_add(number.checked_mul(*seconds)?)?;
        text = &text[digits + unit.len_utf8()..];
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [("0", 0), ("7", 7), ("5gb", 5_000_000_000), ("2KiB", 2048), ("3m", 3 << 20)]
        {
            assert_eq!(parse_bytes(text), Some(expected), "{text}");
        }
        for wrong in ["", "gb", "-1", "1.5gb", "1x", "9999999999tb", "1 gb"] {
            assert_eq!(parse_bytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations() {
        for (text, expected) in [("PT10M30S", 630), ("P1D", 86_400), ("P1DT1H", 90_000), ("P2Y", 63_072_000)]
        {
            assert_eq!(parse_duration(text), Some(expected), "{text}");
        }
        for wrong in ["P", "PT", "1D", "PT1D", "P1H", "P-1D", "PD", "P1", "P99999999999999999999D"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }
}
