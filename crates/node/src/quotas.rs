//! Quotas on publishing: how many messages and bytes per second a user or a virtual host may publish, and how many bytes
//! a virtual host's queues may hold.
//!
//! They are enforced by not reading from who publishes, never by an error. What was published is charged after each
//! batch to a [`Meter`], which all connections of the user or virtual host share; while it is overdrawn they are not read
//! from. A meter holds what one second brings at most. Bytes are those that are stored: bodies, properties and routing
//! keys, once whatever the number of queues. A message that no queue gets is not counted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use posthouse_model::limits::PublishLimits;
use smallvec::SmallVec;

use crate::broker::Broker;
use crate::queue_handle::Machine;
use crate::vhost::VirtualHost;

/// With more chunks than this in its queues, a virtual host's bytes are added up less often.
const CHUNKS_MANY: usize = 100_000;
/// How often then.
const LOOK_SELDOM: Duration = Duration::from_secs(1);
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
pub struct Meter(Mutex<Levels>);

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
    /// Charges what was published; how long until more may be.
    pub fn charge(&self, now_us: u64, limits: PublishLimits, published: Published) -> Duration {
        let mut levels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let messages = limits.messages_per_second();
        let bytes = limits.bytes_per_second();
        let for_messages = messages.map(|rate| levels.messages.charge(now_us, rate, published.messages));
        let for_bytes = bytes.map(|rate| levels.bytes.charge(now_us, rate, published.bytes));
        for_messages.max(for_bytes).unwrap_or_default()
    }
}

/// What one connection is charged to.
#[derive(Debug)]
pub struct Quota(SmallVec<[(Arc<Meter>, PublishLimits); 2]>);

impl Quota {
    /// The quotas of a user in a virtual host; none when neither has any.
    pub fn of(broker: &Broker, vhost: &VirtualHost, user: &str) -> Option<Self> {
        let of_vhost = vhost.publish_limits();
        let of_user = broker.authorities().user_limits(user).map(|limits| limits.publish).unwrap_or_default();
        let mut parts = SmallVec::new();
        if !of_vhost.is_off() {
            parts.push((vhost.meter().clone(), of_vhost));
        }
        if !of_user.is_off() {
            parts.push((broker.user_meter(user), of_user));
        }
        (!parts.is_empty()).then_some(Self(parts))
    }

    /// Charges what was published; how long until more may be.
    pub fn charge(&self, now_us: u64, published: Published) -> Duration {
        let waits = self.0.iter().map(|(meter, limits)| meter.charge(now_us, *limits, published));
        waits.max().unwrap_or_default()
    }
}

/// Adds up what virtual hosts hold.
#[derive(Debug, Default)]
pub(crate) struct StoredBytes {
    /// Rounds to be left out.
    skip: u32,
}

impl StoredBytes {
    /// Looks at every virtual host that has a limit, and lets its publishers wait or go on. Called every `period`.
    pub(crate) fn look(&mut self, broker: &Broker, period: Duration) {
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        let mut chunks = 0;
        for vhost in broker.vhosts() {
            let Some(max) = vhost.max_stored_bytes() else {
                set_full(broker, &vhost, false);
                continue;
            };
            let stored =
                vhost.all_queues().iter().map(|queue| stored(&queue.lock().machine, &mut chunks)).sum();
            set_full(broker, &vhost, max < stored);
        }
        if chunks > CHUNKS_MANY {
            self.skip = u32::try_from(LOOK_SELDOM.as_millis() / period.as_millis().max(1)).unwrap_or(1);
        }
    }
}

/// Bytes that a queue's messages take, in memory or on disk.
fn stored(machine: &Machine, chunks: &mut usize) -> u64 {
    match machine {
        Machine::Classic(queue) => {
            let held = queue.levels().flat_map(|level| level.held()).inspect(|_| *chunks += 1);
            let on_disk = held.filter(|held| held.residence.chunk().is_none());
            let on_disk: u64 =
                on_disk.filter_map(|held| held.residence.location()).map(|at| u64::from(at.len)).sum();
            on_disk + queue.memory_bytes() as u64
        }
        Machine::Stream(stream) => stream.bytes(),
    }
}

fn set_full(broker: &Broker, vhost: &VirtualHost, full: bool) {
    if vhost.set_full(full) == full {
        return;
    }
    tracing::info!(vhost = %vhost.name(), full, "publishers wait because queues hold too many bytes, or go on");
    for connection in broker.connections().list() {
        if connection.vhost == **vhost.name() {
            connection.waker.room();
        }
    }
}

#[cfg(test)]
mod tests {
    use posthouse_model::chunk::ChunkBuilder;
    use posthouse_model::queue_settings::QueueSettings;
    use posthouse_queue::machine::chunks::Persistence;
    use posthouse_storage::segment::{Class, Location, SegmentId};
    use serde_json::json;

    use super::*;

    fn limits(messages: i64, bytes: i64) -> PublishLimits {
        let value =
            json!({"max-publish-messages-per-second": messages, "max-publish-bytes-per-second": bytes});
        posthouse_model::limits::UserLimits::from_value(&value).unwrap().publish
    }

    fn published(messages: u64, bytes: u64) -> Published {
        Published { messages, bytes }
    }

    #[test]
    fn what_one_second_brings_is_free_and_the_rest_is_waited_for() {
        let (meter, limits) = (Meter::default(), limits(10, -1));
        assert_eq!(meter.charge(5_000_000, limits, published(10, 1 << 30)), Duration::ZERO);
        assert_eq!(meter.charge(5_000_000, limits, published(1, 0)), Duration::from_millis(100));
        assert_eq!(meter.charge(5_050_000, limits, published(1, 0)), Duration::from_millis(150));
        assert_eq!(meter.charge(5_200_000, limits, Published::default()), Duration::ZERO);
        // However long it was quiet.
        assert_eq!(meter.charge(99_000_000, limits, published(20, 0)), Duration::from_secs(1));
        // A clock that goes back brings nothing and takes nothing.
        assert_eq!(meter.charge(98_000_000, limits, Published::default()), Duration::from_secs(1));
    }

    #[test]
    fn the_longer_wait_counts_and_a_new_rate_counts_at_once() {
        let meter = Meter::default();
        let wait = meter.charge(0, limits(10, 1000), published(20, 4000));
        assert_eq!(wait, Duration::from_secs(3));
        assert_eq!(meter.charge(0, limits(10, 3000), Published::default()), Duration::from_secs(1));
        assert_eq!(meter.charge(0, limits(-1, -1), published(1 << 40, 1 << 60)), Duration::ZERO);
    }

    #[test]
    fn what_is_stored_is_counted_in_every_level() {
        let mut machine = Machine::default();
        machine.set_settings(QueueSettings { max_priority: 9, ..QueueSettings::default() });
        let mut location = Location {
            file: SegmentId(1),
            class: Class::Durable,
            shared: false,
            offset: 0,
            len: 1_000,
            records: 1,
        };
        for level in [0, 5, 9] {
            let mut builder = ChunkBuilder::default();
            builder.push(0, 0, b"\0\x01q", b"", 100, &[0; 100]);
            let chunk = Arc::new(builder.finish());
            let first = machine.push_shared(level, chunk, Persistence::Persistent, 0, &mut Vec::new());
            location.len += 1;
            machine.classic().unwrap().written(first, location, true);
        }
        let mut chunks = 0;
        assert_eq!((stored(&machine, &mut chunks), chunks), (3_006, 3));
    }

    #[test]
    fn a_rate_of_zero_lets_nothing_through() {
        let meter = Meter::default();
        for now_us in [0, 1_000_000, u64::MAX] {
            assert!(meter.charge(now_us, limits(0, -1), Published::default()) > Duration::ZERO);
        }
        assert!(meter.charge(0, limits(0, -1), published(5, 5)) > Duration::ZERO);
    }
}
