//! A reader of a stream: its place, which it alone moves, and what it wants of what it finds there.

use std::sync::Arc;

use posthouse_model::attempts::Attempts;
use posthouse_model::chunk::{Chunk, Place};
use posthouse_model::ids::Seq;
use posthouse_model::record::Record;

use super::filter::Filter;
use super::offsets::Tracking;
use crate::machine::{Limits, Run};

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(super) struct Reader {
    /// The number of the next message to look at.
    pub(super) cursor: Seq,
    /// Where that one is in the chunk that begins at the given number, where known.
    pub(super) place: Option<(Seq, Place)>,
    pub(super) filter: Option<Filter>,
    /// Messages received earlier are passed over.
    pub(super) not_before_ms: Option<u64>,
    /// The cursor has yet to be set to what was received at or after this time.
    pub(super) seek_ms: Option<u64>,
    /// The block that must be read for it, or that it is in the middle of.
    pub(super) claim: Option<Seq>,
    /// The block whose summary does not rule out what the reader wants.
    pub(super) checked: Option<Seq>,
    /// What a named reader has not settled.
    pub(super) tracking: Option<Box<Tracking>>,
}

/// What is left of a taking's limits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    pub(super) limits: Limits,
    /// Bytes of messages that may be passed over, so that the lock is not held for long.
    pub(super) passed_over: usize,
    /// Something was taken.
    pub(super) took: bool,
}

impl Left {
    /// Whether a record of so many bytes is too much.
    fn refuses(&self, bytes: usize) -> bool {
        self.limits.messages == 0 || (self.took && bytes > self.limits.bytes)
    }

    fn take(&mut self, messages: u32, bytes: usize) {
        self.limits.messages -= messages;
        self.limits.bytes = self.limits.bytes.saturating_sub(bytes);
        self.took = true;
    }
}

/// Whether a chunk was read to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Walked {
    /// It was; the cursor is behind it.
    Through,
    /// A limit was reached.
    Limit,
}

impl Reader {
    /// Takes from a chunk that covers `first_seq..end_seq`, the cursor among them.
    pub(super) fn walk(
        &mut self,
        (first_seq, end_seq): (Seq, Seq),
        chunk: &Arc<Chunk>,
        left: &mut Left,
        runs: &mut Vec<Run>,
    ) -> Walked {
        let known =
            self.place.filter(|(of, place)| *of == first_seq && self.cursor <= of + Seq::from(place.delta));
        let delta = self.cursor.saturating_sub(first_seq) as u32;
        let Some(place) = known.map(|(_, place)| place).or_else(|| chunk.find(delta)) else {
            return self.through(end_seq);
        };
        let rest = (end_seq - first_seq) as u32 - place.delta;
        let rest_bytes = chunk.bytes().len() - place.offset as usize;
        let takes_all = self.filter.is_none() && self.not_before_ms.is_none();
        let has_holes = Seq::from(chunk.count()) < end_seq - first_seq;
        if takes_all && !has_holes && rest <= left.limits.messages && rest_bytes <= left.limits.bytes {
            left.take(rest, rest_bytes);
            runs.push(run(chunk, first_seq, place, rest));
            return self.through(end_seq);
        }
        self.pick((first_seq, end_seq), chunk, place, left, runs)
    }

    fn pick(
        &mut self,
        (first_seq, end_seq): (Seq, Seq),
        chunk: &Arc<Chunk>,
        from: Place,
        left: &mut Left,
        runs: &mut Vec<Run>,
    ) -> Walked {
        let (mut at, mut start, mut count) = (from, from, 0);
        let walked = loop {
            let Some(record) = chunk.record_at(at.offset) else { break Walked::Through };
            at.delta = record.delta();
            let wanted = self.wants(&record);
            if left.passed_over == 0 || (wanted && left.refuses(record.len())) {
                break Walked::Limit;
            }
            if count > 0 && (!wanted || start.delta + count != at.delta) {
                runs.push(run(chunk, first_seq, start, count));
                count = 0;
            }
            if wanted {
                if count == 0 {
                    start = at;
                }
                count += 1;
                left.take(1, record.len());
            } else {
                left.passed_over = left.passed_over.saturating_sub(record.len());
            }
            at.offset += record.len() as u32;
        };
        if count > 0 {
            runs.push(run(chunk, first_seq, start, count));
        }
        if walked == Walked::Through {
            return self.through(end_seq);
        }
        self.cursor = first_seq + Seq::from(at.delta);
        self.place = Some((first_seq, at));
        Walked::Limit
    }

    fn wants(&mut self, record: &Record<'_>) -> bool {
        if let Some(ms) = self.not_before_ms {
            if record.received_ms() < ms {
                return false;
            }
            self.not_before_ms = None;
        }
        self.filter.as_ref().is_none_or(|filter| filter.matches(record))
    }

    /// The cursor is behind a chunk that ends before `end_seq`.
    pub(super) fn through(&mut self, end_seq: Seq) -> Walked {
        self.cursor = end_seq;
        self.place = None;
        Walked::Through
    }
}

fn run(chunk: &Arc<Chunk>, first_seq: Seq, place: Place, count: u32) -> Run {
    let first_seq = first_seq + Seq::from(place.delta);
    Run {
        chunk: chunk.clone(),
        first_seq,
        offset: place.offset,
        count,
        redelivered: false,
        attempts: Attempts::default(),
    }
}
