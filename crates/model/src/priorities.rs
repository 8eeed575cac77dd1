//! What can be said about a queue's priorities, in arguments and in policies.

/// Which level a message's priority puts it in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Levels {
    /// The level of priority 0, after which they are numbered as priorities are; above 0 in a queue that was converted to
    /// another type ([`crate::former_levels`]).
    pub base: u8,
    /// The highest priority; 0 for a queue without priorities.
    pub max: u8,
    /// The priority of messages that say none.
    pub default: u8,
}

impl Levels {
    /// Whether all messages are in level 0, as in a queue without priorities.
    pub fn has_one(self) -> bool {
        self.max == 0 && self.base == 0
    }

    /// The levels' numbers; a queue has 256 at most.
    pub(crate) fn numbers(self) -> std::ops::RangeInclusive<usize> {
        let base = usize::from(self.base);
        base..=base + usize::from(self.max)
    }

    /// The priority that a message that says none gets.
    pub(crate) fn effective_default(self) -> u8 {
        self.default.min(self.max)
    }

    /// The level of messages that say this priority, or none: the greatest one for those above it.
    pub fn of(self, priority: Option<u8>) -> u8 {
        // A queue has 256 levels at most.
        self.base.saturating_add(priority.unwrap_or(self.default).min(self.max))
    }
}

/// How messages of different priorities share a queue's consumers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PriorityOrder {
    /// A message is handed out when none of a higher priority is ready.
    #[default]
    Strict,
    /// While they compete, `n + 1` messages of priority `n` for one of priority 0: none starves.
    Weighted,
}

/// Of which priority messages are dropped when a queue is too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OverflowPriority {
    /// The lowest one that has any.
    #[default]
    Lowest,
    /// The highest one that has any, as in RabbitMQ.
    Highest,
}

impl PriorityOrder {
    /// Reads a name; what was expected otherwise.
    pub fn read(name: &[u8]) -> Result<Self, String> {
        one_of(name, [("strict", Self::Strict), ("weighted", Self::Weighted)])
    }
}

impl OverflowPriority {
    /// Reads a name; what was expected otherwise.
    pub fn read(name: &[u8]) -> Result<Self, String> {
        one_of(name, [("lowest", Self::Lowest), ("highest", Self::Highest)])
    }
}

/// The value of `x-max-priority`; RabbitMQ's reason when it is above 255.
pub(crate) fn max_priority(value: u64) -> Result<u8, String> {
    u8::try_from(value).map_err(|_| format!("{{max_value_exceeded,{value}}}"))
}

fn one_of<T: Copy>(name: &[u8], known: [(&str, T); 2]) -> Result<T, String> {
    let [(a, _), (b, _)] = known;
    let found = known.into_iter().find(|(text, _)| text.as_bytes() == name);
    let got = String::from_utf8_lossy(name);
    found.map(|(_, value)| value).ok_or_else(|| format!("\"expected '{a}' or '{b}', got '{got}'\""))
}
