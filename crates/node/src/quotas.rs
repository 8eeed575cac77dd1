//! Quotas on publishing: how many messages and bytes per second a user or a virtual host may publish, and how many bytes
//! queues may hold of it (`quotas/stored.rs`).
//!
//! They are enforced by not reading from who publishes, never by an error. Everything is charged to an [`Account`], which
//! all connections of the user or virtual host share. What was published is charged after each batch to its `Meter`;
//! while that is overdrawn they are not read from. A meter holds what one second brings at most. Bytes are those that are
//! stored: bodies, properties and routing keys, once whatever the number of queues. A message that no queue gets is not
//! counted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use posthouse_model::limits::PublishLimits;
use smallvec::SmallVec;

use crate::broker::Broker;
use crate::vhost::VirtualHost;
use stored::Stored;
pub(crate) use stored::StoredBytes;

mod stored;

/// When nothing may be published, it is looked at again this soon.
const CLOSED_WAIT: Duration = Duration::from_secs(1);

/// What was published.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Published {
    /// Messages.
    pub messages: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What a user or a virtual host may still publish.
#[derive(Debug, Default)]
struct Meter(Mutex<Levels>);

#[derive(Debug, Default)]
struct Levels {
    messages: Level,
    bytes: Level,
}

/// A bucket that fills with time.
#[derive(Debug, Default)]
struct Level {
    /// Negative when overdrawn.
    balance: f64,
    /// When the balance was right, in microseconds; none before the first use.
    at_us: Option<u64>,
}

impl Level {
    /// Takes `amount` and says how long it takes until the balance is not negative.
    fn charge(&mut self, now_us: u64, per_second: u32, amount: u64) -> Duration {
        let rate = f64::from(per_second);
        let elapsed_us = self.at_us.map_or(u64::MAX, |at_us| now_us.saturating_sub(at_us));
        let gained = rate * (elapsed_us as f64 / 1e6);
        self.at_us = Some(now_us);
        self.balance = (self.balance + gained).min(rate) - amount as f64;
        if self.balance >= 0.0 && per_second > 0 {
            return Duration::ZERO;
        }
        let wait = Duration::try_from_secs_f64(-self.balance / rate).unwrap_or(CLOSED_WAIT);
        // Never nothing: with a rate of zero there is nothing to wait for.
        wait.max(Duration::from_micros(1))
    }
}

impl Meter {
    /// Charges what was published; how long until more may be, for the messages and for the bytes.
    fn charge(&self, now_us: u64, limits: PublishLimits, published: Published) -> [Duration; 2] {
        let mut levels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let messages = limits.messages_per_second();
        let bytes = limits.bytes_per_second();
        let for_messages = messages.map(|rate| levels.messages.charge(now_us, rate, published.messages));
        let for_bytes = bytes.map(|rate| levels.bytes.charge(now_us, rate, published.bytes));
        [for_messages, for_bytes].map(Option::unwrap_or_default)
    }
}

/// What a user or a virtual host has used of its quotas.
#[derive(Debug, Default)]
pub struct Account {
    meter: Meter,
    stored: Stored,
}

impl Account {
    /// Bytes that queues hold, as they were last added up; 0 where nothing asks for it.
    pub fn stored_bytes(&self) -> u64 {
        self.stored.bytes()
    }
}

/// Whose quota it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holder {
    Vhost,
    User,
}

/// What a quota limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Limited {
    Messages,
    Bytes,
    StoredBytes,
}

/// Quotas that are used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UsedUp(u8);

impl UsedUp {
    const ALL: [(Holder, Limited, &str); 6] = [
        (Holder::Vhost, Limited::Messages, "vhost max-publish-messages-per-second"),
        (Holder::Vhost, Limited::Bytes, "vhost max-publish-bytes-per-second"),
        (Holder::Vhost, Limited::StoredBytes, "vhost max-stored-bytes"),
        (Holder::User, Limited::Messages, "user max-publish-messages-per-second"),
        (Holder::User, Limited::Bytes, "user max-publish-bytes-per-second"),
        (Holder::User, Limited::StoredBytes, "user max-stored-bytes"),
    ];

    /// Whether none is.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The form that [`Self::from_bits`] reads.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// As [`Self::bits`] gave it.
    pub fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// These, and others.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Their names, by comma: whose quota it is, and the name of the limit.
    pub fn names(self) -> String {
        let used_up = Self::ALL.iter().enumerate().filter(|(index, _)| self.0 & (1 << index) != 0);
        used_up.map(|(_, (.., name))| *name).collect::<Vec<_>>().join(", ")
    }

    fn add(&mut self, holder: Holder, limited: Limited) {
        let index = Self::ALL.iter().position(|(of, what, _)| (*of, *what) == (holder, limited));
        self.0 |= index.map_or(0, |index| 1 << index);
    }
}

/// What one connection is charged to.
#[derive(Debug)]
pub struct Quota(SmallVec<[Part; 2]>);

#[derive(Debug)]
struct Part {
    holder: Holder,
    account: Arc<Account>,
    limits: PublishLimits,
}

impl Quota {
    /// The quotas of a user in a virtual host; none when neither has any.
    pub fn of(broker: &Broker, vhost: &VirtualHost, user: &str) -> Option<Self> {
        let of_user = broker.authorities().user_limits(user).unwrap_or_default();
        let (limits, stored) = (vhost.publish_limits(), vhost.max_stored_bytes());
        let mut parts = SmallVec::new();
        if !limits.is_off() || stored.is_some() {
            parts.push(Part { holder: Holder::Vhost, account: vhost.account().clone(), limits });
        }
        let limits = of_user.publish;
        if !limits.is_off() || of_user.stored_bytes().is_some() {
            parts.push(Part { holder: Holder::User, account: broker.user_account(user), limits });
        }
        (!parts.is_empty()).then_some(Self(parts))
    }

    /// Charges what was published; how long until more may be, and what that waits for.
    pub fn charge(&self, now_us: u64, published: Published) -> (Duration, UsedUp) {
        let (mut longest, mut used_up) = (Duration::ZERO, UsedUp::default());
        for Part { holder, account, limits } in &self.0 {
            let [for_messages, for_bytes] = account.meter.charge(now_us, *limits, published);
            for (wait, limited) in [(for_messages, Limited::Messages), (for_bytes, Limited::Bytes)] {
                if !wait.is_zero() {
                    used_up.add(*holder, limited);
                    longest = longest.max(wait);
                }
            }
        }
        (longest, used_up)
    }

    /// Those of them that are used up by what queues hold.
    pub fn full(&self) -> UsedUp {
        let mut used_up = UsedUp::default();
        for part in self.0.iter().filter(|part| part.account.stored.is_full()) {
            used_up.add(part.holder, Limited::StoredBytes);
        }
        used_up
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn limits(messages: i64, bytes: i64) -> PublishLimits {
        let value =
            json!({"max-publish-messages-per-second": messages, "max-publish-bytes-per-second": bytes});
        posthouse_model::limits::UserLimits::from_value(&value).unwrap().publish
    }

    fn wait(meter: &Meter, now_us: u64, limits: PublishLimits, published: Published) -> Duration {
        let [for_messages, for_bytes] = meter.charge(now_us, limits, published);
        for_messages.max(for_bytes)
    }

    fn published(messages: u64, bytes: u64) -> Published {
        Published { messages, bytes }
    }

    #[test]
    fn what_one_second_brings_is_free_and_the_rest_is_waited_for() {
        let (meter, limits) = (Meter::default(), limits(10, -1));
        assert_eq!(wait(&meter, 5_000_000, limits, published(10, 1 << 30)), Duration::ZERO);
        assert_eq!(wait(&meter, 5_000_000, limits, published(1, 0)), Duration::from_millis(100));
        assert_eq!(wait(&meter, 5_050_000, limits, published(1, 0)), Duration::from_millis(150));
        assert_eq!(wait(&meter, 5_200_000, limits, Published::default()), Duration::ZERO);
        // However long it was quiet.
        assert_eq!(wait(&meter, 99_000_000, limits, published(20, 0)), Duration::from_secs(1));
        // A clock that goes back brings nothing and takes nothing.
        assert_eq!(wait(&meter, 98_000_000, limits, Published::default()), Duration::from_secs(1));
    }

    #[test]
    fn the_longer_wait_counts_and_a_new_rate_counts_at_once() {
        let meter = Meter::default();
        let longest = wait(&meter, 0, limits(10, 1000), published(20, 4000));
        assert_eq!(longest, Duration::from_secs(3));
        assert_eq!(wait(&meter, 0, limits(10, 3000), Published::default()), Duration::from_secs(1));
        assert_eq!(wait(&meter, 0, limits(-1, -1), published(1 << 40, 1 << 60)), Duration::ZERO);
    }

    #[test]
    fn a_rate_of_zero_lets_nothing_through() {
        let meter = Meter::default();
        for now_us in [0, 1_000_000, u64::MAX] {
            assert!(wait(&meter, now_us, limits(0, -1), Published::default()) > Duration::ZERO);
        }
        assert!(wait(&meter, 0, limits(0, -1), published(5, 5)) > Duration::ZERO);
    }

    #[test]
    fn what_is_used_up_is_named() {
        let (vhost, user) = (Arc::new(Account::default()), Arc::new(Account::default()));
        let parts = [(Holder::Vhost, &vhost, limits(10, 100)), (Holder::User, &user, limits(-1, 50))];
        let part = |(holder, account, limits): (Holder, &Arc<Account>, PublishLimits)| Part {
            holder,
            account: account.clone(),
            limits,
        };
        let quota = Quota(parts.map(part).into());
        let (wait, used_up) = quota.charge(0, published(5, 50));
        assert!(wait.is_zero() && used_up.is_none() && quota.full().is_none());
        let (wait, used_up) = quota.charge(0, published(1, 100));
        assert_eq!(wait, Duration::from_secs(2));
        let expected = "vhost max-publish-bytes-per-second, user max-publish-bytes-per-second";
        assert_eq!(used_up.names(), expected);
        assert_eq!(UsedUp::from_bits(used_up.bits()), used_up);
        user.stored.set(8, true);
        assert_eq!((quota.full().names().as_str(), user.stored_bytes()), ("user max-stored-bytes", 8));
    }
}
