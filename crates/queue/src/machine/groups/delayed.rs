//! Messages of groups that came back and wait for a time. They are in line, and nobody gets what is behind them.

use posthouse_model::ids::Seq;

use super::{Entry, Groups, State};

impl Groups {
    /// Messages that were handed out are given back, and wait for a time. Those without a group need no telling.
    pub(in crate::machine) fn delay(&mut self, first: Seq, last: Seq) {
        let known: Vec<(Seq, Entry)> = self.entries.range(first..=last).map(|(&s, &e)| (s, e)).collect();
        for (seq, entry) in known {
            self.entries.insert(seq, Entry { bytes: 0, state: State::Delayed, ..entry });
            let state = self.groups.entry(entry.group).or_default();
            state.delayed += 1;
            let state = *state;
            self.join_line(entry.group, state, seq);
            self.let_go(entry.group);
        }
    }

    /// Messages have waited long enough.
    pub(in crate::machine) fn end_delay(&mut self, first: Seq, last: Seq) {
        self.return_each(first, last, |groups, seq, entry| {
            groups.leave_line(entry, seq);
            groups.entries.insert(seq, Entry { state: State::Returned, ..entry });
            groups.wait(entry.group, seq);
        });
    }
}
