//! The thread that does what schedules have to do.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use posthouse_model::ids::Lsn;
use posthouse_queue::machine::leaving::stalled::Line;
use posthouse_queue::machine::limits::Room;
use posthouse_queue::machine::times::NEVER_MS;
use posthouse_queue::schedule::{Step, Waiting};

use super::handover::Handover;
use super::reading::{self, Cache};
use super::{Bell, Schedule};
use crate::broker::Broker;
use crate::clock::now_ms;
use crate::draws::Draws;
use crate::queue_handle::QueueHandle;
use crate::transfer;
use crate::vhost::VirtualHost;
use crate::workers::Stopping;

/// Messages handed over in one step.
const HANDED_OVER_MAX: usize = 4096;

/// Steps of one schedule before the others have their turn.
const STEPS: usize = 16;

/// The thread sleeps no longer, because the clock may be set meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// The same while moves wait for the disk.
const UNFINISHED_SLEEP_MAX: Duration = Duration::from_millis(20);

/// Log bytes of moves that may wait for the disk; more are not begun before.
const UNFINISHED_BYTES: u64 = 16 << 20;

/// How long the thread rests while the log has too much to write.
const CONGESTED_PAUSE: Duration = Duration::from_millis(5);

/// Starts the thread; it ends when it is stopped, or with the broker.
pub(crate) fn start(broker: &Arc<Broker>) -> std::io::Result<()> {
    let bell = broker.bell().clone();
    let worker = Worker {
        broker: Arc::downgrade(broker),
        unfinished: VecDeque::new(),
        cache: Cache::new(broker),
        draws: Draws::seeded(),
    };
    broker.workers().spawn("schedule", move |stopping| worker.run(&bell, stopping))
}

struct Worker {
    broker: Weak<Broker>,
    /// Schedules whose moved messages are settled once the log is on disk up to there.
    unfinished: VecDeque<(Lsn, Arc<QueueHandle>)>,
    cache: Cache,
    draws: Draws,
}

impl Worker {
    fn run(mut self, bell: &Bell, stopping: &Stopping) {
        while let Some(schedules) = bell.schedules() {
            let Some(broker) = self.broker.upgrade() else { return };
            let mut next_ms = NEVER_MS;
            for schedule in &schedules {
                next_ms = next_ms.min(self.turn(&broker, schedule, stopping));
            }
            if !self.finish(&broker) {
                // The log has failed, and the process is about to end.
                return;
            }
            drop(schedules);
            drop(broker);
            if next_ms > now_ms() + SLEEP_MAX.as_millis() as u64 {
                // Until then it would be memory for nothing, and a virtual host of which it is may be gone.
                self.cache.clear();
            }
            let most = if self.unfinished.is_empty() { SLEEP_MAX } else { UNFINISHED_SLEEP_MAX };
            bell.sleep(next_ms, most);
        }
    }

    /// Does what a schedule has to do now, or a part of it; when it has more to do.
    fn turn(&mut self, broker: &Arc<Broker>, schedule: &Arc<Schedule>, stopping: &Stopping) -> u64 {
        let Ok(vhost) = broker.vhost(&schedule.queue.definition.vhost) else { return NEVER_MS };
        for _ in 0..STEPS {
            while broker.is_congested() {
                if !stopping.rest(CONGESTED_PAUSE) {
                    return NEVER_MS;
                }
            }
            let now_ms = now_ms();
            let step = {
                let mut agenda = schedule.agenda();
                agenda.review_lines(vhost.epoch(), now_ms);
                agenda.step(now_ms, HANDED_OVER_MAX)
            };
            let until = match step {
                Step::Wait(until_ms) => return until_ms,
                Step::Read(level) => reading::read_level(broker, schedule, level, now_ms, &mut self.cache),
                Step::HandOver(due) => {
                    let from = (Line::New, Room::UNLIMITED);
                    self.hand_over(broker, &vhost, schedule, from, now_ms, &due)
                }
                Step::GoOn(queue) => {
                    let target = vhost.queue_by_id(queue);
                    let room = target.map_or(Room::UNLIMITED, |target| target.lock().machine.room());
                    let most = room.messages.clamp(1, HANDED_OVER_MAX as u64) as usize;
                    let first = schedule.agenda().take_line(queue, most);
                    self.hand_over(broker, &vhost, schedule, (Line::Behind(queue), room), now_ms, &first)
                }
            };
            if until > 0 {
                self.unfinished.push_back((until, schedule.queue.clone()));
            }
        }
        0
    }

    fn hand_over(
        &mut self,
        broker: &Broker,
        vhost: &VirtualHost,
        schedule: &Arc<Schedule>,
        from: (Line, Room),
        now_ms: u64,
        messages: &[Waiting],
    ) -> Lsn {
        let lent = (&mut self.cache, &mut self.draws);
        Handover::new(broker, vhost, schedule, from, now_ms, lent).hand_over(messages)
    }

    /// Settles what was moved and is on disk, and waits for the disk where too much waits for it; false when the log has
    /// failed.
    fn finish(&mut self, broker: &Broker) -> bool {
        let (Some(wal), Some((last, _))) = (broker.wal(), self.unfinished.back()) else { return true };
        if last.saturating_sub(wal.durable()) > UNFINISHED_BYTES && wal.sync().is_err() {
            return false;
        }
        let durable = wal.durable();
        while let Some((_, queue)) = self.unfinished.pop_front_if(|(until, _)| *until <= durable) {
            transfer::finish(broker, &queue, durable);
        }
        true
    }
}
