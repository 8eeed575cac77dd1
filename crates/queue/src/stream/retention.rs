//! How much of a stream is kept.
//!
//! A stream is cut into segments of a declared size. Only whole segments go, the oldest first, and never the newest:
//! when a segment is full, and now and then, those that are too much or too old are given up. (They have nothing to
//! do with the files that messages lie in.)

use std::collections::VecDeque;

use posthouse_model::ids::Seq;
use posthouse_model::queue_settings::QueueSettings;

/// Bytes of a segment unless something else is said.
const SEGMENT_BYTES: u64 = 500_000_000;

/// A smaller segment would only be more of them.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;

/// In how many segments what is to be kept should lie at least, so that about that much is kept.
const SEGMENTS_MIN: u64 = 8;

/// What a stream is to keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of records; the oldest segments go while there are more.
    pub max_bytes: Option<u64>,
    /// Age in milliseconds; segments of which every message is older go.
    pub max_age_ms: Option<u64>,
    /// Bytes from which on a segment is full.
    pub segment_bytes: u64,
}

impl Limits {
    /// Those of a stream with these settings.
    pub(super) fn of(settings: &QueueSettings) -> Self {
        let (max_bytes, max_age_ms) = (settings.max_length_bytes, settings.max_age_ms);
        let usual = max_bytes.map_or(SEGMENT_BYTES, |most| (most / SEGMENTS_MIN).min(SEGMENT_BYTES));
        let segment_bytes = settings.segment_bytes.unwrap_or(usual).max(SEGMENT_BYTES_MIN);
        Self { max_bytes, max_age_ms, segment_bytes }
    }
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    first_seq: Seq,
    bytes: u64,
    /// When its first message was received; 0 while nobody has looked.
    first_ms: u64,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(super) struct Retention {
    limits: Limits,
    segments: VecDeque<Segment>,
    bytes: u64,
}

impl Retention {
    /// Of an empty stream.
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, segments: VecDeque::new(), bytes: 0 }
    }

    /// Changes what is kept. Segments that there are stay as they are.
    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Bytes of records in all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Messages were added; whether that began another segment.
    pub(super) fn added(&mut self, first_seq: Seq, bytes: usize, first_ms: u64) -> bool {
        let bytes = bytes as u64;
        self.bytes += bytes;
        match self.segments.back_mut() {
            Some(last) if last.bytes < self.limits.segment_bytes => {
                last.bytes += bytes;
                false
            }
            last => {
                let began_another = last.is_some();
                self.segments.push_back(Segment { first_seq, bytes, first_ms });
                began_another
            }
        }
    }

    /// Notes when the message that begins a segment was received.
    pub(super) fn set_time(&mut self, first_seq: Seq, ms: u64) {
        let index = self.segments.partition_point(|segment| segment.first_seq < first_seq);
        if let Some(segment) = self.segments.get_mut(index).filter(|s| s.first_seq == first_seq) {
            segment.first_ms = ms.max(1);
        }
    }

    /// The message whose time must be known before the age of the oldest segment can be told.
    pub(super) fn unknown_time(&self) -> Option<Seq> {
        self.limits.max_age_ms?;
        self.segments.get(1).filter(|second| second.first_ms == 0).map(|second| second.first_seq)
    }

    /// Gives up segments; the number of the first message that is kept, if that has changed. A segment is as old as
    /// the message after it.
    pub(super) fn apply(&mut self, now_ms: u64) -> Option<Seq> {
        let mut floor = None;
        while let (Some(first), Some(second)) = (self.segments.front(), self.segments.get(1)) {
            let too_much = self.limits.max_bytes.is_some_and(|most| self.bytes > most);
            let age_ms = now_ms.saturating_sub(second.first_ms);
            let too_old = second.first_ms > 0 && self.limits.max_age_ms.is_some_and(|most| age_ms > most);
            if !too_much && !too_old {
                break;
            }
            self.bytes -= first.bytes;
            floor = Some(second.first_seq);
            self.segments.pop_front();
        }
        floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retention(max_bytes: Option<u64>, max_age_ms: Option<u64>) -> Retention {
        let mut retention = Retention::new(Limits { max_bytes, max_age_ms, segment_bytes: 100 });
        for i in 0..10 {
            let began = retention.added(i * 10, 50, 1000 + i * 100);
            assert_eq!(began, i > 0 && i % 2 == 0);
        }
        retention
    }

    #[test]
    fn size_keeps_the_newest_segments() {
        let mut retention = retention(Some(250), None);
        assert_eq!(retention.apply(0), Some(60));
        assert_eq!((retention.bytes(), retention.apply(0)), (200, None));
        assert_eq!(super::tests::retention(Some(0), None).apply(0), Some(80), "the newest stays");
        assert_eq!(super::tests::retention(None, None).apply(u64::MAX), None);
    }

    #[test]
    fn age_waits_until_every_message_of_a_segment_is_too_old() {
        let mut retention = retention(None, Some(500));
        assert_eq!(retention.apply(1700), None);
        assert_eq!(retention.apply(1701), Some(20));
        assert_eq!(retention.apply(1 << 40), Some(80));
    }

    #[test]
    fn what_is_not_known_is_asked_for() {
        let mut retention = Retention::new(Limits { max_bytes: None, max_age_ms: Some(5), segment_bytes: 1 });
        retention.added(0, 1, 0);
        assert_eq!(retention.unknown_time(), None);
        retention.added(7, 1, 0);
        assert_eq!((retention.unknown_time(), retention.apply(1000)), (Some(7), None));
        retention.set_time(7, 900);
        assert_eq!((retention.unknown_time(), retention.apply(1000)), (None, Some(7)));
    }
}
