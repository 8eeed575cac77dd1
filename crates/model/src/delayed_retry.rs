//! How long a message that came back must wait before it is handed out again: `x-delayed-retry-type`, `-min` and `-max`,
//! and the policy keys of the same names.
//!
//! A message that has failed `n` times waits for `n` times the minimum, or for the maximum where that is less. The names
//! and the rule are those of RabbitMQ 4.3.

use crate::attempts::{Attempts, Return};
use crate::queue_settings::MAX_TTL_MS;

/// The arguments, in the order in which they are checked.
pub(crate) const TYPE: &str = "x-delayed-retry-type";
pub(crate) const MIN: &str = "x-delayed-retry-min";
pub(crate) const MAX: &str = "x-delayed-retry-max";

/// Which of the messages that come back are delayed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RetryType {
    /// None.
    Disabled,
    /// All.
    All,
    /// Those whose delivery failed: what counts against the delivery limit.
    Failed,
    /// Those that were returned with `basic.nack` or `basic.recover`, or taken back.
    Returned,
}

impl RetryType {
    const ALL: [(&str, Self); 4] = [
        ("disabled", Self::Disabled),
        ("all", Self::All),
        ("failed", Self::Failed),
        ("returned", Self::Returned),
    ];

    /// Reads a name; what was expected otherwise.
    pub fn read(name: &[u8]) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(known, _)| known.as_bytes() == name);
        found.map(|&(_, known)| known).ok_or_else(|| {
            let got = String::from_utf8_lossy(name);
            format!("\"expected disabled, all, failed or returned, got '{got}'\"")
        })
    }

    /// Whether it covers a message that comes back for that reason.
    fn covers(self, why: Return) -> bool {
        match self {
            Self::Disabled => false,
            Self::All => true,
            Self::Failed => why.counts(),
            Self::Returned => why != Return::Failed,
        }
    }
}

/// What arguments say, or a policy, or both together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DelayedRetry {
    /// Which messages.
    pub kind: Option<RetryType>,
    /// Milliseconds after the first failure, at least 1.
    pub min_ms: Option<u64>,
    /// Milliseconds at most, at least 1; the same as the minimum where nobody says.
    pub max_ms: Option<u64>,
}

impl DelayedRetry {
    /// What holds when a policy says something, too: its type, and of two times the shorter one.
    #[must_use]
    pub fn under(self, policy: Self) -> Self {
        let shorter = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        Self {
            kind: policy.kind.or(self.kind),
            min_ms: shorter(self.min_ms, policy.min_ms),
            max_ms: shorter(self.max_ms, policy.max_ms),
        }
    }

    /// Whether any message may have to wait.
    #[inline]
    pub fn is_on(self) -> bool {
        self.kind.is_some_and(|kind| kind != RetryType::Disabled) && self.min_ms.is_some()
    }

    /// Milliseconds that a message has to wait which comes back for that reason and has these attempts, the last one
    /// included; none when it has not.
    pub fn delay_ms(self, why: Return, attempts: Attempts) -> Option<u64> {
        let min_ms = self.min_ms.filter(|_| self.kind.is_some_and(|kind| kind.covers(why)))?;
        let max_ms = self.max_ms.unwrap_or(min_ms);
        Some(min_ms.saturating_mul(attempts.failed.max(1).into()).min(max_ms).min(MAX_TTL_MS))
    }

    /// Milliseconds that any message has to wait at most; none when none has to.
    pub fn longest_ms(self) -> Option<u64> {
        self.is_on().then(|| self.max_ms.or(self.min_ms).map(|ms| ms.min(MAX_TTL_MS)))?
    }

    /// Checks the arguments of one declaration with each other, each of which is valid: the one that is wrong, and what is
    /// expected.
    pub(crate) fn check_arguments(self) -> Result<(), (&'static str, String)> {
        let times = [(MIN, self.min_ms), (MAX, self.max_ms)];
        match times.into_iter().find(|(_, ms)| ms.is_some()) {
            Some((name, _)) if self.kind.is_none() => Err((name, format!("expected together with {TYPE}"))),
            _ => self.check_together(),
        }
    }

    /// The same of a policy's definition, which may leave the type to the arguments. The names are those of arguments.
    pub(crate) fn check_together(self) -> Result<(), (&'static str, String)> {
        let delays = self.kind.is_some_and(|kind| kind != RetryType::Disabled);
        match (self.min_ms, self.max_ms) {
            (None, _) if delays => Err((TYPE, format!("expected together with {MIN}"))),
            (Some(min), Some(max)) if max < min => {
                Err((MAX, format!("expected {MIN} ({min}) or more, got {max}")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays(kind: RetryType, why: Return, failed: &[u32]) -> Vec<Option<u64>> {
        let retry = DelayedRetry { kind: Some(kind), min_ms: Some(100), max_ms: Some(250) };
        failed.iter().map(|&failed| retry.delay_ms(why, Attempts { failed, acquired: 9 })).collect()
    }

    #[test]
    fn delays_grow_with_failures_up_to_the_maximum() {
        use RetryType::{All, Disabled, Failed, Returned};
        let grown = vec![Some(100), Some(200), Some(250), Some(250)];
        for why in [Return::Nacked, Return::Failed] {
            assert_eq!(delays(All, why, &[1, 2, 3, u32::MAX]), grown);
            assert_eq!(delays(Failed, why, &[1, 2, 3, u32::MAX]), grown);
        }
        assert_eq!(delays(Returned, Return::Nacked, &[1, 2, 3, 4]), grown);
        assert_eq!(delays(Returned, Return::Failed, &[1]), [None]);
        // What has not failed yet waits as after the first failure.
        for kind in [All, Returned] {
            assert_eq!(delays(kind, Return::Released, &[0, 1, 2]), [Some(100), Some(100), Some(200)]);
        }
        assert_eq!(delays(Failed, Return::Released, &[3]), [None]);
        for why in [Return::Nacked, Return::Failed, Return::Released] {
            assert_eq!(delays(Disabled, why, &[3]), [None]);
        }
        let constant = DelayedRetry { kind: Some(All), min_ms: Some(7), max_ms: None };
        assert_eq!(constant.delay_ms(Return::Failed, Attempts { failed: 5, acquired: 5 }), Some(7));
        let huge = DelayedRetry { min_ms: Some(MAX_TTL_MS), max_ms: Some(u64::MAX), ..constant };
        assert_eq!(huge.delay_ms(Return::Failed, Attempts { failed: 5, acquired: 5 }), Some(MAX_TTL_MS));
    }

    #[test]
    fn a_policy_chooses_the_type_and_shortens_times() {
        let declared = DelayedRetry { kind: Some(RetryType::All), min_ms: Some(10), max_ms: Some(50) };
        assert_eq!(declared.under(DelayedRetry::default()), declared);
        let off = DelayedRetry { kind: Some(RetryType::Disabled), ..DelayedRetry::default() };
        assert!(declared.is_on() && !declared.under(off).is_on() && !off.under(off).is_on());
        let policy = DelayedRetry { kind: None, min_ms: Some(20), max_ms: Some(5) };
        let both = declared.under(policy);
        assert_eq!(both, DelayedRetry { kind: Some(RetryType::All), min_ms: Some(10), max_ms: Some(5) });
        assert_eq!(both.delay_ms(Return::Failed, Attempts { failed: 1, acquired: 1 }), Some(5));
        assert!(!policy.is_on());
        let no_times = DelayedRetry { kind: Some(RetryType::All), ..DelayedRetry::default() };
        assert!(!no_times.is_on() && no_times.under(policy).is_on());
    }
}
