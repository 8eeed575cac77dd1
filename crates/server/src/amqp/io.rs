//! A connection's socket and its buffers: how much is read at a time, and when memory is given back. What the bytes mean is
//! not known here.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncReadExt, Interest};
use tokio::net::TcpStream;

use super::outbox::Outbox;

/// Read at first, and kept while a connection is quiet.
const READ_BYTES_MIN: usize = 4 << 10;

/// Read at most at a time.
const READ_BYTES_MAX: usize = 256 << 10;

/// A socket with its buffers.
pub(super) struct Io {
    pub(super) socket: TcpStream,
    /// What was read and not processed yet.
    pub(super) input: Vec<u8>,
    /// What is to be written while the connection is not open; then the session has it.
    pub(super) out: Outbox,
    read_bytes: usize,
    /// Whether the last read may have left something in the socket.
    pub(super) may_have_more: bool,
    /// Whether the socket did not take all of the last write.
    pub(super) is_write_blocked: bool,
}

impl Io {
    /// Nothing read yet.
    pub(super) fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            input: Vec::new(),
            out: Outbox::default(),
            read_bytes: READ_BYTES_MIN,
            may_have_more: true,
            is_write_blocked: false,
        }
    }

    /// Reads what is there now; `None` when there is nothing. 0 is the end of the stream.
    pub(super) fn try_read(&mut self) -> io::Result<Option<usize>> {
        if self.input.capacity() - self.input.len() < self.read_bytes {
            self.input.reserve(self.read_bytes);
        }
        let room = self.input.capacity() - self.input.len();
        // Polled rather than tried: a read that leaves room then counts as having found the end of what is there, which
        // saves asking the socket again.
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(read) = pin!(self.socket.read_buf(&mut self.input)).poll(&mut context) else {
            self.may_have_more = false;
            return Ok(None);
        };
        let bytes = read?;
        self.may_have_more = bytes == room;
        if bytes >= self.read_bytes {
            self.read_bytes = (self.read_bytes * 4).min(READ_BYTES_MAX);
        }
        Ok(Some(bytes))
    }

    /// Reads no more than at first from now on: what comes in one read is charged to a quota at once, and the less it is
    /// the more evenly it comes.
    pub(super) fn read_little(&mut self) {
        self.read_bytes = READ_BYTES_MIN;
        self.input.shrink_to(self.input.len() + READ_BYTES_MIN);
    }

    /// Drops what was processed from the front of the input.
    pub(super) fn consume(&mut self, bytes: usize) {
        if bytes == self.input.len() {
            self.input.clear();
        } else {
            self.input.drain(..bytes);
        }
    }

    /// Before waiting: a connection that is not busy holds no buffer, which is most of what an idle one would take.
    pub(super) fn rest(&mut self) {
        if self.input.is_empty() && self.read_bytes == READ_BYTES_MIN {
            self.input = Vec::new();
        }
    }

    /// Gives back memory that a burst took.
    pub(super) fn shrink(&mut self) {
        if self.input.is_empty() {
            self.input = Vec::new();
            self.read_bytes = READ_BYTES_MIN;
        }
    }

    /// Writes all of `out`, however long the peer takes.
    pub(super) async fn write_all(&mut self) -> io::Result<()> {
        while !self.out.write_to(&self.socket)? {
            self.socket.writable().await?;
        }
        Ok(())
    }

    /// Whether the peer has closed its side, as far as is known without reading.
    pub(super) fn hung_up(&self) -> bool {
        let ready = pin!(self.socket.ready(Interest::READABLE));
        let mut context = Context::from_waker(Waker::noop());
        matches!(ready.poll(&mut context), Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }
}
