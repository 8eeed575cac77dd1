//! One consumer at a time: `x-single-active-consumer`.
//!
//! The first consumer of a queue is the active one; the others wait. When it goes, the one that waits longest among
//! those of the highest priority takes over at once, whatever the former one still has. A consumer of a higher priority
//! than the active one takes over, too, but not before the active one has settled or given back all it has, and until
//! then nobody gets anything: so messages are never with two consumers of one handover.
//!
//! Consumers are numbered in order of arrival, so the lowest number is who waits longest.

use posthouse_model::ids::Seq;

use super::Queue;
use super::ranges::SeqRanges;
use super::roster::{ConsumerId, Roster};
use super::take::Run;

/// Whose turn it is.
#[derive(Clone, Debug, Default)]
pub(super) struct SingleActive {
    active: Option<ConsumerId>,
    /// A consumer of higher priority waits for the active one to have nothing outstanding.
    yielding: bool,
    /// What the active consumer was given and has neither settled nor given back.
    outstanding: SeqRanges,
    /// The active consumer was replaced while others settled, and has not been woken.
    unwoken: bool,
}

/// Whether a consumer is given messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activity {
    /// As all the others are.
    Up,
    /// As the only one.
    SingleActive,
    /// Not while another one is active.
    Waiting,
}

impl Activity {
    /// The name in listings, which is RabbitMQ's `activity_status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::SingleActive => "single_active",
            Self::Waiting => "waiting",
        }
    }
}

impl<W: Clone> Roster<W> {
    /// Whether one consumer at a time may take.
    pub fn is_single_active(&self) -> bool {
        self.single.is_some()
    }

    /// How to wake the one that may take, where that is one at a time.
    pub fn active_waker(&self) -> Option<&W> {
        self.waker(self.single.as_ref()?.active?)
    }

    /// Whether a consumer is given messages.
    pub fn activity(&self, id: ConsumerId) -> Activity {
        match &self.single {
            None => Activity::Up,
            Some(single) if single.active == Some(id) => Activity::SingleActive,
            Some(_) => Activity::Waiting,
        }
    }

    /// Lets one consumer at a time take, or all of them.
    pub(super) fn set_single_active(&mut self, on: bool) {
        if on == self.is_single_active() {
            return;
        }
        let ids: Vec<ConsumerId> = self.iter().map(|(id, _)| id).collect();
        for &id in &ids {
            self.leave(id);
        }
        self.single = on.then(Box::default);
        for &id in &ids {
            self.enter(id);
        }
        self.choose_active();
    }

    /// Whether a consumer may take as far as the others' priorities allow.
    pub(super) fn may_take(&self, id: ConsumerId) -> bool {
        self.single.as_ref().is_none_or(|single| single.active == Some(id) && !single.yielding)
    }

    /// Notes what the active consumer was given.
    pub(super) fn note_taken(&mut self, runs: &[Run]) {
        let Some(single) = &mut self.single else { return };
        for run in runs {
            single.outstanding.insert(run.first_seq, run.last_seq());
        }
    }

    /// Notes that somebody has settled or given back messages.
    pub(super) fn note_back(&mut self, first: Seq, last: Seq) {
        let Some(single) = &mut self.single else { return };
        single.outstanding.take_within(first, last);
        if single.yielding && single.outstanding.is_empty() {
            single.unwoken = true;
            self.choose_active();
        }
    }

    /// A consumer is gone.
    pub(super) fn forget_active(&mut self, id: ConsumerId) {
        let Some(single) = &mut self.single else { return };
        if single.active == Some(id) {
            // What it still has is nobody's: it must not keep the next one from being replaced.
            **single = SingleActive::default();
        }
        self.choose_active();
    }

    /// Makes the right consumer active, or lets the active one yield to it.
    pub(super) fn choose_active(&mut self) {
        let Some(single) = &self.single else { return };
        let (active, yielding, has_any) = (single.active, single.yielding, !single.outstanding.is_empty());
        let best = self.iter().map(|(id, consumer)| (consumer.priority, std::cmp::Reverse(id))).max();
        let Some((best_priority, std::cmp::Reverse(best))) = best else { return };
        let outranked =
            active.and_then(|id| self.standing(id)).is_none_or(|(priority, _)| priority < best_priority);
        let (next, yields) = match active {
            Some(active) if !outranked => (active, false),
            Some(active) if has_any => (active, true),
            _ => (best, false),
        };
        if (Some(next), yields) == (active, yielding) {
            return;
        }
        if let Some(active) = active {
            self.leave(active);
        }
        if let Some(single) = &mut self.single {
            (single.active, single.yielding) = (Some(next), yields);
        }
        self.enter(next);
    }

    /// Counts a consumer that may take from now on.
    fn enter(&mut self, id: ConsumerId) {
        if self.may_take(id)
            && let Some((priority, standing)) = self.standing(id)
        {
            self.count(id, priority, standing);
        }
    }

    /// Ceases to count a consumer that may take.
    fn leave(&mut self, id: ConsumerId) {
        if self.may_take(id)
            && let Some((priority, standing)) = self.standing(id)
        {
            self.uncount(id, priority, standing);
        }
    }
}

impl<L: Copy, W: Clone> Queue<L, W> {
    /// Wakes consumers that may take because of what was settled, has left or has waited long enough: the one to which the
    /// active one has yielded, those that may have groups which are free now, or any.
    pub fn wake_after_settling(&mut self, wakes: &mut Vec<W>) {
        let yielded = self.roster.single.as_mut().is_some_and(|single| std::mem::take(&mut single.unwoken));
        if std::mem::take(&mut self.freed) | self.take_freed() || yielded {
            self.wake(wakes);
        }
    }
}
