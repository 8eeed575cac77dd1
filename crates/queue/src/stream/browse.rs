//! Looking at messages without reading along: no reader's place changes.

use posthouse_model::chunk::Received;
use posthouse_model::ids::Seq;

use super::Stream;
use crate::machine::browse::{Glimpse, Ready};
use crate::machine::chunks::Residence;

impl<L: Copy, W: Clone> Stream<L, W> {
    /// The number of the message that `skip` others precede, those lost to damage counted as well; `None` when there
    /// are not so many.
    pub fn nth(&self, skip: u64) -> Option<Seq> {
        self.floor.checked_add(skip).filter(|seq| *seq < self.next_seq())
    }

    /// The next chunks with messages numbered `from` or above, until their records exceed `most` bytes; at least one,
    /// unless no such message is left.
    pub fn glimpse(&mut self, from: Seq, most: usize) -> Vec<Glimpse<L>> {
        self.window.close_tail();
        let in_memory = self.window.first_seq();
        let (mut glimpses, mut bytes, mut next) = (Vec::new(), 0, from.max(self.floor));
        let mut add = |first_seq: Seq, end_seq: Seq, size: usize, residence| {
            bytes += size;
            if bytes > most && !glimpses.is_empty() {
                return false;
            }
            let ready = Ready {
                first: next.max(first_seq),
                last: end_seq - 1,
                redelivered: false,
                delayed_until_ms: None,
            };
            next = end_seq;
            let received = Received::UNKNOWN;
            glimpses.push(Glimpse { first_seq, residence, received, ready: vec![ready] });
            true
        };
        let older = self.blocks.from(from).take_while(|block| block.first_seq < in_memory);
        let all_fit =
            older.filter_map(|block| Some((block, block.stored?))).all(|(block, (location, span))| {
                let end_seq = block.first_seq + Seq::from(span);
                add(block.first_seq, end_seq, block.bytes as usize, Residence::Stored(location))
            });
        if all_fit {
            self.window.from(from).all(|recent| {
                let residence = Residence::Memory(recent.chunk.clone());
                add(recent.first_seq, recent.end_seq(), recent.chunk.bytes().len(), residence)
            });
        }
        glimpses
    }
}
