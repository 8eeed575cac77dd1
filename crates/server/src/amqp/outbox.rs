//! What a connection has to write: encoded frames, with large bodies interleaved by reference.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use posthouse_model::chunk::Chunk;
use tokio::net::TcpStream;

/// Deliveries stop being added at this size.
pub(crate) const FULL_BYTES: usize = 256 << 10;

/// The connection stops reading at this size: a client that does not read its replies is not served more.
pub(crate) const STOP_READING_BYTES: usize = 1 << 20;

/// Memory kept while nothing is to be written.
const KEEP_BYTES: usize = 4 << 10;

/// Parts handed to one vectored write.
const PARTS_MAX: usize = 64;

/// A piece of a chunk to be written before the encoded byte at `at`.
#[derive(Debug)]
struct Piece {
    at: usize,
    chunk: Arc<Chunk>,
    from: usize,
    to: usize,
}

/// Bytes to be written, in order.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Encoded frames; append here.
    pub(crate) bytes: Vec<u8>,
    start: usize,
    pieces: VecDeque<Piece>,
    piece_bytes: usize,
}

impl Outbox {
    /// Bytes not yet written.
    pub(crate) fn pending(&self) -> usize {
        self.bytes.len() - self.start + self.piece_bytes
    }

    /// Whether everything is written.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending() == 0
    }

    /// Adds a part of a chunk by reference, to follow what was encoded so far.
    pub(crate) fn push_piece(&mut self, chunk: &Arc<Chunk>, from: usize, to: usize) {
        self.piece_bytes += to - from;
        self.pieces.push_back(Piece { at: self.bytes.len(), chunk: chunk.clone(), from, to });
    }

    /// Writes as much as the socket takes now; whether everything is written.
    pub(crate) fn write_to(&mut self, socket: &TcpStream) -> io::Result<bool> {
        while !self.is_empty() {
            let written = if self.pieces.is_empty() {
                socket.try_write(&self.bytes[self.start..])
            } else {
                let mut parts = [IoSlice::new(&[]); PARTS_MAX];
                let used = self.fill(&mut parts);
                socket.try_write_vectored(&parts[..used])
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.advance(written),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Gives back the little memory of a connection that is not busy.
    pub(crate) fn rest(&mut self) {
        if self.bytes.capacity() <= KEEP_BYTES {
            self.shrink_to(0);
        }
    }

    /// Gives back memory that a burst took. Called when the connection is quiet.
    pub(crate) fn shrink(&mut self) {
        self.shrink_to(KEEP_BYTES);
    }

    fn shrink_to(&mut self, keep_bytes: usize) {
        if self.is_empty() && self.bytes.capacity() > keep_bytes {
            self.bytes = Vec::new();
        }
    }

    fn fill<'a>(&'a self, parts: &mut [IoSlice<'a>; PARTS_MAX]) -> usize {
        let (mut used, mut at) = (0, self.start);
        for piece in &self.pieces {
            if used + 2 > PARTS_MAX {
                return used;
            }
            if piece.at > at {
                parts[used] = IoSlice::new(&self.bytes[at..piece.at]);
                used += 1;
                at = piece.at;
            }
            parts[used] = IoSlice::new(&piece.chunk.bytes()[piece.from..piece.to]);
            used += 1;
        }
        if used < PARTS_MAX && at < self.bytes.len() {
            parts[used] = IoSlice::new(&self.bytes[at..]);
            used += 1;
        }
        used
    }

    fn advance(&mut self, mut written: usize) {
        while written > 0 {
            let until = self.pieces.front().map_or(self.bytes.len(), |piece| piece.at);
            let plain = written.min(until - self.start);
            self.start += plain;
            written -= plain;
            if written > 0
                && let Some(piece) = self.pieces.front_mut()
            {
                let of_piece = written.min(piece.to - piece.from);
                piece.from += of_piece;
                self.piece_bytes -= of_piece;
                written -= of_piece;
                if piece.from == piece.to {
                    self.pieces.pop_front();
                }
            }
        }
        if self.is_empty() {
            self.bytes.clear();
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use posthouse_model::chunk::ChunkBuilder;

    use super::*;

    #[test]
    fn pieces_come_where_they_were_put_at_any_split_of_writes() {
        for step in 1..12 {
            let mut builder = ChunkBuilder::default();
            builder.push(0, 0, b"", b"", 6, b"ABCDEF");
            let chunk = Arc::new(builder.finish());
            let body = chunk.bytes().len() - 6;
            let mut outbox = Outbox::default();
            outbox.bytes.extend_from_slice(b"head");
            outbox.push_piece(&chunk, body, body + 3);
            outbox.bytes.extend_from_slice(b"mid");
            outbox.push_piece(&chunk, body + 3, body + 6);
            outbox.bytes.extend_from_slice(b"end");
            let mut seen = Vec::new();
            while !outbox.is_empty() {
                let mut parts = [IoSlice::new(&[]); PARTS_MAX];
                let used = outbox.fill(&mut parts);
                let all: Vec<u8> = parts[..used].iter().flat_map(|part| part.to_vec()).collect();
                assert_eq!(all.len(), outbox.pending());
                let now = step.min(all.len());
                seen.extend_from_slice(&all[..now]);
                outbox.advance(now);
            }
            assert_eq!(seen, b"headABCmidDEFend");
        }
    }
}
