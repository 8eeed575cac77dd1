//! One end of a connection, at the level of bytes and frames. Nothing is answered by itself.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use posthouse_amqp::content::max_payload;
use posthouse_amqp::event::OwnedFrame;
use posthouse_amqp::frame::{FrameKind, next_frame, write_frame};
use posthouse_amqp::method::{Method, write_method};

use crate::TIMEOUT;

/// A raw peer.
pub struct Peer {
    stream: TcpStream,
    /// Bytes read; those below `taken` have been looked at.
    buf: Vec<u8>,
    taken: usize,
    /// Frames that were read while another channel's were waited for.
    aside: VecDeque<OwnedFrame>,
    /// The frame-max agreed; 0 before.
    pub frame_max: u32,
}

/// What can come from the other end.
#[derive(Debug)]
pub enum Arrival {
    /// A frame.
    Frame(OwnedFrame),
    /// The other end closed the socket.
    Eof,
    /// Nothing in time.
    Nothing,
}

/// A method with its own memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnedMethod(pub Vec<u8>);

impl OwnedMethod {
    /// The method.
    #[track_caller]
    pub fn get(&self) -> Method<'_> {
        Method::decode(&self.0).expect("the broker sends methods that can be read")
    }
}

impl Peer {
    /// Connects, and says nothing.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT).expect("the broker accepts connections");
        stream.set_nodelay(true).expect("a socket option");
        stream.set_write_timeout(Some(TIMEOUT)).expect("a socket option");
        Self { stream, buf: Vec::new(), taken: 0, aside: VecDeque::new(), frame_max: 0 }
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Writes bytes.
    #[track_caller]
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the broker reads");
    }

    /// Writes bytes, and does not mind when the other end has hung up.
    pub fn try_send_bytes(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Writes a frame.
    #[track_caller]
    pub fn send_frame(&mut self, kind: FrameKind, channel: u16, payload: &[u8]) {
        let mut out = Vec::new();
        write_frame(&mut out, kind, channel, payload);
        self.send_bytes(&out);
    }

    /// Writes a method.
    #[track_caller]
    pub fn send(&mut self, channel: u16, method: &Method<'_>) {
        let mut out = Vec::new();
        write_method(&mut out, channel, method);
        self.send_bytes(&out);
    }

    /// Says that nothing more will be sent.
    pub fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).expect("the socket is open");
    }

    /// What comes next, heartbeats included.
    #[track_caller]
    pub fn arrival(&mut self, limit: Duration) -> Arrival {
        let deadline = Instant::now() + limit;
        loop {
            let parsed = next_frame(&self.buf[self.taken..], max_payload(self.frame_max))
                .expect("the broker sends well-formed frames");
            if let Some((frame, used)) = parsed {
                let frame =
                    OwnedFrame { kind: frame.kind, channel: frame.channel, payload: frame.payload.to_vec() };
                self.taken += used;
                return Arrival::Frame(frame);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.fill(left) {
                Fill::Some => {}
                Fill::Eof => return Arrival::Eof,
                Fill::Nothing => return Arrival::Nothing,
            }
        }
    }

    /// The next frame that is no heartbeat, of any channel.
    #[track_caller]
    pub fn any_frame(&mut self) -> OwnedFrame {
        if let Some(frame) = self.aside.pop_front() {
            return frame;
        }
        self.frame_from_socket()
    }

    /// The next frame of `channel`; those of others are kept for later. Fails when the connection is closed meanwhile.
    #[track_caller]
    pub fn frame(&mut self, channel: u16) -> OwnedFrame {
        if let Some(at) = self.aside.iter().position(|frame| frame.channel == channel) {
            return self.aside.remove(at).expect("the position is that of a frame");
        }
        loop {
            let frame = self.frame_from_socket();
            if frame.channel == channel {
                return frame;
            }
            if let Ok(close @ Method::ConnectionClose { .. }) = Method::decode(&frame.payload) {
                panic!("expected a frame of channel {channel}, got {close:?}");
            }
            self.aside.push_back(frame);
        }
    }

    /// The next frame of `channel`, which must be a method.
    #[track_caller]
    pub fn method(&mut self, channel: u16) -> OwnedMethod {
        let frame = self.frame(channel);
        assert_eq!(frame.kind, FrameKind::Method, "expected a method on channel {channel}, got {frame:?}");
        OwnedMethod(frame.payload)
    }

    /// Sends a method and takes the next method of its channel.
    #[track_caller]
    pub fn call(&mut self, channel: u16, method: &Method<'_>) -> OwnedMethod {
        self.send(channel, method);
        self.method(channel)
    }

    /// Exactly `count` bytes as they come, for what is no frame.
    #[track_caller]
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let deadline = Instant::now() + TIMEOUT;
        while self.buf.len() - self.taken < count {
            match self.fill(deadline.saturating_duration_since(Instant::now())) {
                Fill::Some => {}
                Fill::Eof => {
                    panic!("expected {count} bytes, got {:?} and then the end", &self.buf[self.taken..])
                }
                Fill::Nothing => panic!("expected {count} bytes, got {:?}", &self.buf[self.taken..]),
            }
        }
        self.taken += count;
        self.buf[self.taken - count..self.taken].to_vec()
    }

    #[track_caller]
    fn frame_from_socket(&mut self) -> OwnedFrame {
        loop {
            match self.arrival(TIMEOUT) {
                Arrival::Frame(frame) if frame.kind == FrameKind::Heartbeat => {}
                Arrival::Frame(frame) => return frame,
                Arrival::Eof => panic!("expected a frame, got the end of the connection"),
                Arrival::Nothing => panic!("expected a frame, got nothing for {TIMEOUT:?}"),
            }
        }
    }

    #[track_caller]
    fn fill(&mut self, limit: Duration) -> Fill {
        self.buf.drain(..self.taken);
        self.taken = 0;
        // The socket takes zero as no limit.
        let limit = limit.max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(limit)).expect("a socket option");
        let mut piece = [0; 64 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => Fill::Eof,
            Ok(read) => {
                self.buf.extend_from_slice(&piece[..read]);
                Fill::Some
            }
            // Bytes that the broker had not read when it closed the socket make the kernel reset it.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Fill::Eof,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Fill::Nothing
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Fill::Some,
            Err(error) => panic!("reading from the broker: {error}"),
        }
    }
}

enum Fill {
    Some,
    Eof,
    Nothing,
}
