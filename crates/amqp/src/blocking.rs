//! A small blocking client over `std::net`: for tests, tools and the load generator's control connection.
//!
//! The only module here that knows sockets and the clock. One thread uses a client at a time; what arrives while a
//! reply is awaited is kept and handed out by [`BlockingClient::next_event`].

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use posthouse_model::field::FieldTable;
use posthouse_model::props::Properties;

use crate::assembler::{Assembler, AssemblyError, Step};
use crate::client::{Close, OpenError, OpenOptions, Opened, Opening};
use crate::content;
use crate::event::{Event, Message, OwnedFrame, Reply};
use crate::frame::{self, FrameError, FrameKind, next_frame};
use crate::method::{DecodeError, Method, write_method};
use crate::tune::Tune;
use crate::uri::AmqpUri;

/// How much is read from the socket at once.
const READ_BYTES: usize = 64 * 1024;

/// Why the client cannot go on, or a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket failed.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    /// Nothing came in time. The connection can still be used.
    #[error("no answer in time")]
    Timeout,
    /// The server closed the socket without closing the connection.
    #[error("the server closed the socket")]
    Eof,
    /// The server answered with a protocol header: it does not speak 0-9-1.
    #[error("expected connection.start, got protocol header {0:?}")]
    Refused([u8; 8]),
    /// The server sent what is not a frame.
    #[error("malformed frame from the server: {0}")]
    Frame(#[from] FrameError),
    /// The server sent what is not a method.
    #[error("malformed method from the server: {0}")]
    Decode(#[from] DecodeError),
    /// The server sent content frames out of order.
    #[error("malformed content from the server: {0}")]
    Assembly(#[from] AssemblyError),
    /// The connection did not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The server closed the channel; it has been confirmed.
    #[error("the server closed channel {channel}: {close}")]
    ChannelClosed {
        /// The channel's number.
        channel: u16,
        /// What the server wrote.
        close: Close,
    },
    /// The server closed the connection; it has been confirmed.
    #[error("the server closed the connection: {0}")]
    ConnectionClosed(Close),
    /// Another reply than the method has.
    #[error("expected {expected}, got {got}")]
    Unexpected {
        /// The reply expected.
        expected: &'static str,
        /// The method received.
        got: &'static str,
    },
}

/// The result of what a client does.
pub type Result<T> = std::result::Result<T, ClientError>;

/// What a frame turned out to be.
enum Incoming {
    Nothing,
    Reply(u16, Reply),
    Got(Message),
    Event(Event),
}

/// A channel's receiving side.
#[derive(Default)]
struct Receiving {
    assembler: Assembler,
    method: Vec<u8>,
    header: Vec<u8>,
    body: Vec<u8>,
}

/// An open connection.
pub struct BlockingClient {
    stream: TcpStream,
    buf: Vec<u8>,
    /// Where the unread bytes start in `buf`.
    start: usize,
    opened: Opened,
    timeout: Duration,
    receiving: HashMap<u16, Receiving>,
    events: VecDeque<Event>,
}

impl BlockingClient {
    /// Connects and opens, with the server's limits and no heartbeat. `timeout` is for each of this and later calls.
    pub fn connect(uri: &AmqpUri, timeout: Duration) -> Result<Self> {
        let client_properties =
            crate::peer_properties::client_properties("posthouse client", env!("CARGO_PKG_VERSION"));
        let tune = Tune { channel_max: 0, frame_max: 0, heartbeat: 0 };
        Self::connect_with(OpenOptions { uri: uri.clone(), tune, client_properties }, timeout)
    }

    /// Connects and opens as told.
    pub fn connect_with(options: OpenOptions, timeout: Duration) -> Result<Self> {
        let stream = connect_any(&options.uri, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(timeout))?;
        let mut out = Vec::new();
        let mut opening = Opening::start(options, &mut out);
        let mut client = Self {
            stream,
            buf: Vec::new(),
            start: 0,
            opened: Opened { server_properties: FieldTable::default(), tune: Tune::default() },
            timeout,
            receiving: HashMap::new(),
            events: VecDeque::new(),
        };
        let deadline = Instant::now() + timeout;
        loop {
            client.stream.write_all(&out)?;
            out.clear();
            let received = client.read_frame_until(deadline)?;
            let frame =
                frame::Frame { kind: received.kind, channel: received.channel, payload: &received.payload };
            match opening.step(&frame, &mut out) {
                Ok(None) => {}
                Ok(Some(opened)) => {
                    client.opened = opened;
                    return Ok(client);
                }
                Err(error) => {
                    // The close-ok is a courtesy: what matters is the error.
                    let _ = client.stream.write_all(&out);
                    return Err(error.into());
                }
            }
        }
    }

    /// What the server says of itself.
    pub fn server_properties(&self) -> &FieldTable {
        &self.opened.server_properties
    }

    /// The limits agreed.
    pub fn tune(&self) -> Tune {
        self.opened.tune
    }

    /// The socket, for raw use.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The socket and the bytes read from it but not looked at yet.
    pub fn into_parts(mut self) -> (TcpStream, Vec<u8>) {
        let unread = self.buf.split_off(self.start);
        (self.stream, unread)
    }

    /// Opens a channel of that number, from 1.
    pub fn open_channel(&mut self, channel: u16) -> Result<()> {
        self.receiving.remove(&channel);
        match self.call(channel, &Method::ChannelOpen {})?.method()? {
            Method::ChannelOpenOk {} => Ok(()),
            other => Err(unexpected("channel.open-ok", &other)),
        }
    }

    /// Sends a method without waiting for anything.
    pub fn send(&mut self, channel: u16, method: &Method<'_>) -> Result<()> {
        let mut out = Vec::new();
        write_method(&mut out, channel, method);
        self.send_bytes(&out)
    }

    /// Sends bytes as they are.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Sends a method and waits for the next method on its channel that is a reply. Not for methods without a reply,
    /// nor for `basic.get`.
    pub fn call(&mut self, channel: u16, method: &Method<'_>) -> Result<Reply> {
        self.send(channel, method)?;
        let deadline = Instant::now() + self.timeout;
        loop {
            match self.receive(deadline)? {
                Incoming::Reply(on, reply) if on == channel => return Ok(reply),
                incoming => self.keep(incoming, Some(channel))?,
            }
        }
    }

    /// `basic.get`: a message, or `None` when the queue is empty.
    pub fn get(&mut self, channel: u16, queue: &str, no_ack: bool) -> Result<Option<Message>> {
        self.send(channel, &Method::BasicGet { queue, no_ack })?;
        let deadline = Instant::now() + self.timeout;
        loop {
            match self.receive(deadline)? {
                Incoming::Got(message) if message.channel == channel => return Ok(Some(message)),
                Incoming::Reply(on, reply) if on == channel => match reply.method()? {
                    Method::BasicGetEmpty {} => return Ok(None),
                    other => return Err(unexpected("basic.get-ok", &other)),
                },
                incoming => self.keep(incoming, Some(channel))?,
            }
        }
    }

    /// Publishes one message, without waiting for a confirm.
    pub fn publish(
        &mut self,
        channel: u16,
        (exchange, routing_key): (&str, &str),
        mandatory: bool,
        properties: &Properties,
        body: &[u8],
    ) -> Result<()> {
        let mut header = Vec::new();
        properties.encode(body.len() as u64, &mut header);
        let mut out = Vec::new();
        let method = Method::BasicPublish { exchange, routing_key, mandatory, immediate: false };
        write_method(&mut out, channel, &method);
        content::write_content(&mut out, channel, &header, body, self.opened.tune.frame_max);
        self.send_bytes(&out)
    }

    /// The next event, or `None` when none comes within `timeout`. Zero looks only at what is there.
    pub fn next_event(&mut self, timeout: Duration) -> Result<Option<Event>> {
        let deadline = Instant::now() + timeout;
        while self.events.is_empty() {
            match self.receive(deadline) {
                Ok(incoming) => self.keep(incoming, None)?,
                Err(ClientError::Timeout) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(self.events.pop_front())
    }

    /// The next frame as it came, whatever it is; nothing is answered or kept. Not to be mixed with the other calls
    /// while content is under way.
    pub fn read_frame(&mut self, timeout: Duration) -> Result<OwnedFrame> {
        self.read_frame_until(Instant::now() + timeout)
    }

    /// Closes the connection and waits for the server's close-ok.
    pub fn close(mut self) -> Result<()> {
        let close =
            Method::ConnectionClose { reply_code: 200, reply_text: "Goodbye", class_id: 0, method_id: 0 };
        match self.call(0, &close)?.method()? {
            Method::ConnectionCloseOk {} => Ok(()),
            other => Err(unexpected("connection.close-ok", &other)),
        }
    }

    /// Puts aside what was not waited for. Fails when it says that `waiting`'s channel is closed.
    fn keep(&mut self, incoming: Incoming, waiting: Option<u16>) -> Result<()> {
        match incoming {
            Incoming::Nothing => Ok(()),
            Incoming::Event(Event::ChannelClosed { channel, close }) if waiting == Some(channel) => {
                Err(ClientError::ChannelClosed { channel, close })
            }
            Incoming::Event(event) => {
                self.events.push_back(event);
                Ok(())
            }
            Incoming::Reply(_, reply) => Err(unexpected("no reply", &reply.method()?)),
            Incoming::Got(message) => Err(unexpected("no reply", &message.method()?)),
        }
    }

    fn receive(&mut self, deadline: Instant) -> Result<Incoming> {
        let OwnedFrame { kind, channel, payload } = self.read_frame_until(deadline)?;
        if kind == FrameKind::Heartbeat {
            return Ok(Incoming::Nothing);
        }
        let receiving = self.receiving.entry(channel).or_default();
        match receiving.assembler.step(&frame::Frame { kind, channel, payload: &payload })? {
            Step::Method(_) if receiving.assembler.in_content() => {
                receiving.method = payload;
                Ok(Incoming::Nothing)
            }
            Step::Method(_) => self.method(channel, payload),
            Step::Header(view) => {
                let complete = view.body_size() == 0;
                receiving.header = payload;
                if complete { receiving.message(channel) } else { Ok(Incoming::Nothing) }
            }
            Step::Body { bytes, complete } => {
                receiving.body.extend_from_slice(bytes);
                if complete { receiving.message(channel) } else { Ok(Incoming::Nothing) }
            }
        }
    }

    fn method(&mut self, channel: u16, payload: Vec<u8>) -> Result<Incoming> {
        let method = Method::decode(&payload)?;
        let event = match method {
            Method::BasicAck { delivery_tag, multiple } => Event::Ack { channel, delivery_tag, multiple },
            Method::BasicNack { delivery_tag, multiple, .. } => {
                Event::Nack { channel, delivery_tag, multiple }
            }
            Method::BasicCancel { consumer_tag, nowait } => {
                if !nowait {
                    self.send(channel, &Method::BasicCancelOk { consumer_tag })?;
                }
                Event::Cancelled { channel, consumer_tag: consumer_tag.to_owned() }
            }
            Method::ChannelFlow { active } => {
                self.send(channel, &Method::ChannelFlowOk { active })?;
                return Ok(Incoming::Nothing);
            }
            Method::ConnectionBlocked { reason } => Event::Blocked(reason.to_owned()),
            Method::ConnectionUnblocked {} => Event::Unblocked,
            _ => match Close::of(&method) {
                None => return Ok(Incoming::Reply(channel, Reply(payload))),
                Some(close) if channel == 0 => {
                    // The server may be gone already: what it wrote matters more.
                    let _ = self.send(0, &Method::ConnectionCloseOk {});
                    return Err(ClientError::ConnectionClosed(close));
                }
                Some(close) => {
                    self.send(channel, &Method::ChannelCloseOk {})?;
                    Event::ChannelClosed { channel, close }
                }
            },
        };
        Ok(Incoming::Event(event))
    }

    fn read_frame_until(&mut self, deadline: Instant) -> Result<OwnedFrame> {
        let max_payload = content::max_payload(self.opened.tune.frame_max);
        loop {
            let unread = &self.buf[self.start..];
            if let Some(header) = unread.first_chunk::<8>().filter(|header| header.starts_with(b"AMQP")) {
                return Err(ClientError::Refused(*header));
            }
            if let Some((frame, used)) = next_frame(unread, max_payload)? {
                let owned =
                    OwnedFrame { kind: frame.kind, channel: frame.channel, payload: frame.payload.to_vec() };
                self.start += used;
                return Ok(owned);
            }
            self.fill(deadline)?;
        }
    }

    fn fill(&mut self, deadline: Instant) -> Result<()> {
        self.buf.drain(..self.start);
        self.start = 0;
        // A timeout of zero means none to the socket, so the shortest one stands for "what is there".
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_micros(1));
        self.stream.set_read_timeout(Some(left))?;
        let filled = self.buf.len();
        self.buf.resize(filled + READ_BYTES, 0);
        let read = self.stream.read(&mut self.buf[filled..]);
        self.buf.truncate(filled + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Err(ClientError::Eof),
            Ok(_) => Ok(()),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(ClientError::Timeout),
                io::ErrorKind::Interrupted => Ok(()),
                _ => Err(error.into()),
            },
        }
    }
}

impl Receiving {
    /// The message whose last byte has come.
    fn message(&mut self, channel: u16) -> Result<Incoming> {
        let message = Message {
            channel,
            method: std::mem::take(&mut self.method),
            header: std::mem::take(&mut self.header),
            body: std::mem::take(&mut self.body),
        };
        match message.method()? {
            Method::BasicDeliver { .. } => Ok(Incoming::Event(Event::Delivery(message))),
            Method::BasicReturn { .. } => Ok(Incoming::Event(Event::Returned(message))),
            Method::BasicGetOk { .. } => Ok(Incoming::Got(message)),
            other => Err(unexpected("basic.deliver", &other)),
        }
    }
}

fn unexpected(expected: &'static str, got: &Method<'_>) -> ClientError {
    ClientError::Unexpected { expected, got: got.name() }
}

fn connect_any(uri: &AmqpUri, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("no address for host {:?}", uri.host));
    for address in (uri.host.as_str(), uri.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
#[path = "blocking_tests.rs"]
mod tests;
