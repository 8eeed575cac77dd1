//! Room for what is moved: it is kept in all queues that messages go to before they leave.

use posthouse_model::record::Record;
use posthouse_queue::machine::leaving::stalled::Obstacle;
use smallvec::SmallVec;

use super::Transfer;
use super::group::Group;

impl Transfer<'_> {
    /// Keeps room for a group in all of its queues, and takes those messages out of it for which one of them has none, and
    /// those that would overtake them.
    pub(super) fn make_fit(&mut self, group: &mut Group) {
        let full = group.targets.iter().find(|(queue, _)| self.full.contains_key(&queue.id));
        if let Some(obstacle) = full.map(|(queue, _)| Obstacle::Full(queue.id)) {
            return self.take_out(group, obstacle, |_, _| true);
        }
        while !group.targets.is_empty() && !group.is_empty() && !self.try_to_fit(group) {}
    }

    /// The same; false when something was taken out, so that no room is kept and it is to be tried again.
    fn try_to_fit(&mut self, group: &mut Group) -> bool {
        let (mut any, mut kept, mut refused) = (false, SmallVec::<[usize; 4]>::new(), Vec::new());
        for at in 0..group.targets.len() {
            let queue = group.targets[at].0.clone();
            let mut state = queue.lock();
            if state.deleted {
                continue;
            }
            any = true;
            state.machine.refuse(group.builder.bytes(), group.builder.count(), &mut refused);
            let Some(&first) = refused.first() else {
                if state.machine.settings().refuses() {
                    self.reserved.keep(&queue, &mut state.machine, group.room());
                    kept.push(at);
                }
                continue;
            };
            let is_too_large =
                |record: &Record<'_>| state.machine.is_too_small_for(record.body().len() as u64);
            // Those must not hold up the others for ever.
            let too_large: Vec<bool> = group.messages().map(|(_, record, _)| is_too_large(&record)).collect();
            drop(state);
            self.give_back(group, &kept);
            if too_large.contains(&true) {
                self.take_out(group, Obstacle::NoPlace, |position, _| too_large[position as usize]);
            } else {
                let body =
                    group.messages().nth(first as usize).map_or(0, |(_, record, _)| record.body().len());
                self.full.insert(queue.id, Some(body as u64));
                self.take_out(group, Obstacle::Full(queue.id), |position, _| position >= first);
            }
            return false;
        }
        if !any {
            // All of them were deleted a moment ago: it is routed again.
            self.take_out(group, Obstacle::NoPlace, |_, _| true);
        }
        true
    }

    /// The room that is kept for a group in some of its queues is not needed.
    fn give_back(&mut self, group: &Group, kept: &[usize]) {
        for &at in kept {
            let queue = &group.targets[at].0;
            self.reserved.end(queue.id, &mut queue.lock().machine, group.room());
        }
    }

    /// Takes messages out of a group, by their position in it, that cannot go on.
    pub(super) fn take_out(
        &mut self,
        group: &mut Group,
        obstacle: Obstacle,
        mut is_one: impl FnMut(u32, &Record<'_>) -> bool,
    ) {
        let mut position = 0;
        let taken = group.retain(|_, record| {
            position += 1;
            !is_one(position - 1, record)
        });
        for (first, last) in taken {
            self.stay(first, last, group.reason, obstacle);
        }
    }
}
