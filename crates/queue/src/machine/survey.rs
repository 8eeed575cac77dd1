//! Details of chunks: kept where they are needed, and looked up on disk where they are not known.
//!
//! Bytes of bodies count only once they are known: until a chunk that a restart found in a segment has been surveyed,
//! a limit in bytes is not enforced by dropping.

use posthouse_model::chunk::Chunk;
use posthouse_model::ids::Seq;

use super::Queue;
use super::details::Details;

impl<L: Copy, W: Clone> Queue<L, W> {
    /// Whether details are known of every chunk that needs them.
    #[inline]
    pub fn is_surveyed(&self) -> bool {
        self.chunks.unsurveyed() == 0 && self.levels_above().all(|level| level.chunks.unsurveyed() == 0)
    }

    /// The chunks in segments whose details are to be read, up to `most` bytes of records where `bytes_of` tells a
    /// place's size. Answered by [`Self::surveyed`].
    pub fn plan_survey(&self, most: usize, bytes_of: impl Fn(L) -> usize) -> Vec<(Seq, L)> {
        let mut planned = 0;
        let unknown = self
            .levels()
            .flat_map(|level| level.chunks.iter().filter(move |held| level.chunks.lacking(held).is_some()));
        let places = unknown.filter_map(|held| Some((held.first_seq, held.residence.location()?)));
        let wanted = places.take_while(|&(_, location)| {
            let wanted = planned < most;
            planned += bytes_of(location);
            wanted
        });
        if self.is_surveyed() { Vec::new() } else { wanted.collect() }
    }

    /// A chunk's bytes are known.
    pub fn surveyed(&mut self, first_seq: Seq, chunk: &Chunk) {
        match self.level_of(first_seq) {
            Some(level) => self.in_level(level, |queue| queue.surveyed_in_line(first_seq, chunk)),
            None => self.surveyed_in_line(first_seq, chunk),
        }
    }

    pub(super) fn surveyed_in_line(&mut self, first_seq: Seq, chunk: &Chunk) {
        let Some(index) = self.chunks.index_of(first_seq) else { return };
        self.note_details(index, chunk);
    }

    /// Keeps what is to be known of a chunk and was not.
    pub(super) fn note_details(&mut self, index: usize, chunk: &Chunk) {
        let Some(held) = self.chunks.get(index) else { return };
        let Some(wanted) = self.chunks.lacking(held) else { return };
        let details = Details::of(chunk, held.span, wanted);
        self.ready_bytes -= self.ready_bytes_of(index);
        self.delayed_bytes -= self.delayed_bytes_of(index);
        self.chunks.set_details(index, Some(Box::new(details)));
        self.ready_bytes += self.ready_bytes_of(index);
        self.delayed_bytes += self.delayed_bytes_of(index);
        self.chunks.set_received(index, chunk.received());
        self.note_chunk_due(index);
    }

    /// Whether the settings ask for sizes of bodies.
    pub(super) fn needs_bodies(&self) -> bool {
        self.settings.max_length_bytes.is_some()
    }

    /// Brings the details of all chunks in line with the settings.
    pub(super) fn review_details(&mut self) {
        self.close_tail();
        self.chunks.want_bodies(self.needs_bodies());
        self.ready_bytes = 0;
        self.delayed_bytes = 0;
        for index in 0..self.chunks.len() {
            if self.settings.message_ttl_ms.is_none() {
                self.chunks.want_received(index, false);
            }
            let Some(held) = self.chunks.get(index) else { break };
            if let (Some(wanted), Some(chunk)) = (self.chunks.lacking(held), held.residence.chunk()) {
                let details = Details::of(chunk, held.span, wanted);
                self.chunks.set_details(index, Some(Box::new(details)));
            } else {
                self.chunks.trim_details(index);
            }
            self.ready_bytes += self.ready_bytes_of(index);
            self.delayed_bytes += self.delayed_bytes_of(index);
        }
    }

    /// Bytes of the bodies of `first..=last`, as far as they are known.
    pub(super) fn body_bytes(&self, first: Seq, last: Seq) -> u64 {
        self.chunks.body_bytes(first, last)
    }

    /// Bytes of the bodies of a chunk's delayed messages.
    fn delayed_bytes_of(&self, index: usize) -> u64 {
        let Some(held) = self.chunks.get(index).filter(|_| self.delays.is_some()) else { return 0 };
        let delayed = self.delayed_within(held.first_seq, held.end_seq() - 1);
        delayed.map(|range| self.body_bytes(range.first, range.last)).sum()
    }

    /// Bytes of the bodies of a chunk's ready messages.
    pub(super) fn ready_bytes_of(&self, index: usize) -> u64 {
        let Some((held, details)) = self.chunks.get(index).and_then(|h| Some((h, h.details.as_ref()?)))
        else {
            return 0;
        };
        let end = held.end_seq();
        let returned = self.returned.within(held.first_seq, end - 1);
        let mut bytes = returned
            .map(|(first, last)| {
                details.body_bytes((first - held.first_seq) as u32, (last - held.first_seq) as u32)
            })
            .sum();
        let mut from = self.cursor.clamp(held.first_seq, end) - held.first_seq;
        while let Some((first, last)) = held.next_live(from as u32) {
            bytes += details.body_bytes(first, last);
            from = u64::from(last) + 1;
        }
        bytes
    }
}
