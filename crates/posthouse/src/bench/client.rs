//! A blocking AMQP 0-9-1 connection with one channel: enough to set a run up, and the socket and buffer the hot loops
//! then use directly. Heartbeats are negotiated away.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use posthouse_amqp::frame::{FrameKind, next_frame};
use posthouse_amqp::method::{Method, write_method};
use posthouse_model::field::{FieldTable, FieldValue};

use super::uri::Uri;

/// The one channel of every connection.
pub(super) const CHANNEL: u16 = 1;
/// How much one read takes at most.
const READ_BYTES: usize = 256 << 10;
/// Largest frame we agree to.
const FRAME_MAX: u32 = 131_072;
/// How long a socket call may block before stop conditions are looked at.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// How long the broker may take to say goodbye, deliveries still coming or not.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the broker may take to answer.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// An open connection.
pub(super) struct Client {
    /// Reads and writes give up after [`TICK`] with `WouldBlock`.
    pub(super) stream: TcpStream,
    /// What was read and not looked at.
    pub(super) input: Input,
    /// Largest frame payload either side may send.
    pub(super) max_payload: usize,
}

/// Bytes that were read. What is incomplete moves to the front before the next read, so frames lie in one piece.
pub(super) struct Input {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Input {
    fn new() -> Self {
        Self { bytes: vec![0; READ_BYTES + FRAME_MAX as usize + 64].into(), start: 0, end: 0 }
    }

    /// What is there.
    pub(super) fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Drops the first `n` bytes.
    pub(super) fn consume(&mut self, n: usize) {
        self.start += n;
    }

    /// Reads once. `Ok(false)` when nothing came within a [`TICK`]; end of stream is an error.
    pub(super) fn fill(&mut self, mut stream: &TcpStream) -> Result<bool> {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let room = (self.bytes.len() - self.end).min(READ_BYTES);
        match stream.read(&mut self.bytes[self.end..self.end + room]) {
            Ok(0) => bail!("the broker closed the connection"),
            Ok(n) => {
                self.end += n;
                Ok(true)
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(e) => Err(e).context("reading from the broker"),
        }
    }
}

impl Client {
    /// Connects, logs in and opens the channel.
    pub(super) fn open(uri: &Uri) -> Result<Self> {
        let mut client = Self::connect(uri).with_context(|| format!("{}:{}", uri.host, uri.port))?;
        client.call(&Method::ChannelOpen {}, |m| matches!(m, Method::ChannelOpenOk {}).then_some(()))?;
        Ok(client)
    }

    /// Connects and logs in.
    pub(super) fn connect(uri: &Uri) -> Result<Self> {
        let stream = TcpStream::connect((uri.host.as_str(), uri.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TICK))?;
        stream.set_write_timeout(Some(TICK))?;
        let mut client = Self { stream, input: Input::new(), max_payload: FRAME_MAX as usize - 8 };
        client.write_all(b"AMQP\0\0\x09\x01")?;
        client.receive(0, |m| matches!(m, Method::ConnectionStart { .. }).then_some(()))?;
        let login = format!("\0{}\0{}", uri.user, uri.password);
        let start_ok = Method::ConnectionStartOk {
            client_properties: properties(),
            mechanism: "PLAIN",
            response: login.as_bytes(),
            locale: "en_US",
        };
        client.send(0, &[start_ok])?;
        let (channel_max, frame_max) = client.receive(0, |m| match m {
            Method::ConnectionTune { channel_max, frame_max, .. } => Some((*channel_max, *frame_max)),
            _ => None,
        })?;
        let frame_max = if frame_max == 0 { FRAME_MAX } else { frame_max.min(FRAME_MAX) };
        let channel_max = if channel_max == 0 { 2_047 } else { channel_max };
        client.max_payload = frame_max as usize - 8;
        let tune_ok = Method::ConnectionTuneOk { channel_max, frame_max, heartbeat: 0 };
        client.send(0, &[tune_ok, Method::ConnectionOpen { vhost: &uri.vhost }])?;
        client.receive(0, |m| matches!(m, Method::ConnectionOpenOk {}).then_some(()))?;
        Ok(client)
    }

    /// Sends methods in one write.
    pub(super) fn send(&mut self, channel: u16, methods: &[Method<'_>]) -> Result<()> {
        let mut bytes = Vec::with_capacity(256);
        for method in methods {
            write_method(&mut bytes, channel, method);
        }
        self.write_all(&bytes)
    }

    /// Sends a method on the channel and waits for the answer that `pick` accepts.
    pub(super) fn call<T>(
        &mut self,
        method: &Method<'_>,
        pick: impl FnMut(&Method<'_>) -> Option<T>,
    ) -> Result<T> {
        self.send(CHANNEL, std::slice::from_ref(method))?;
        self.receive(CHANNEL, pick).with_context(|| method.name())
    }

    /// Waits for a method that `pick` accepts; others are passed over, a close is an error.
    pub(super) fn receive<T>(
        &mut self,
        channel: u16,
        pick: impl FnMut(&Method<'_>) -> Option<T>,
    ) -> Result<T> {
        self.receive_within(REPLY_TIMEOUT, channel, pick)
    }

    fn receive_within<T>(
        &mut self,
        timeout: Duration,
        channel: u16,
        mut pick: impl FnMut(&Method<'_>) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + timeout;
        loop {
            while let Some((frame, used)) = next_frame(self.input.data(), self.max_payload)? {
                let mut picked = None;
                if frame.kind == FrameKind::Method {
                    let method = Method::decode(frame.payload)?;
                    refuse_close(&method)?;
                    picked = if frame.channel == channel { pick(&method) } else { None };
                }
                self.input.consume(used);
                if let Some(picked) = picked {
                    return Ok(picked);
                }
            }
            if Instant::now() > deadline {
                bail!("expected an answer within {} s, got none", timeout.as_secs());
            }
            self.input.fill(&self.stream)?;
        }
    }

    /// Writes everything, however long the broker takes within the reply timeout without progress.
    pub(super) fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        let mut last_progress = Instant::now();
        let mut rest = bytes;
        while !rest.is_empty() {
            match (&self.stream).write(rest) {
                Ok(n) => {
                    rest = &rest[n..];
                    last_progress = Instant::now();
                }
                Err(e) if !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    return Err(self.why_closed(e));
                }
                Err(_) if last_progress.elapsed() > REPLY_TIMEOUT => {
                    bail!("the broker has taken no data for {} s", REPLY_TIMEOUT.as_secs());
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// A write failed because the broker hung up; what it said before that is the better message.
    pub(super) fn why_closed(&mut self, error: std::io::Error) -> anyhow::Error {
        let said = self.receive(0, |_| None::<()>);
        match said {
            Err(reason) if reason.to_string().starts_with("the broker said") => reason,
            _ => anyhow!(error).context("writing to the broker"),
        }
    }

    /// Says goodbye; errors do not matter any more.
    pub(super) fn close(mut self) {
        let close =
            Method::ConnectionClose { reply_code: 200, reply_text: "done", class_id: 0, method_id: 0 };
        let is_ok = |m: &Method<'_>| matches!(m, Method::ConnectionCloseOk {}).then_some(());
        let _ = self.send(0, &[close]).and_then(|()| self.receive_within(CLOSE_TIMEOUT, 0, is_ok));
    }
}

/// An error when the method ends the channel, the connection or a consumer.
pub(super) fn refuse_close(method: &Method<'_>) -> Result<()> {
    match method {
        Method::ConnectionClose { reply_code, reply_text, .. }
        | Method::ChannelClose { reply_code, reply_text, .. } => {
            bail!("the broker said {reply_code} {reply_text}")
        }
        Method::BasicCancel { consumer_tag, .. } => bail!("the broker cancelled consumer {consumer_tag}"),
        _ => Ok(()),
    }
}

fn properties() -> FieldTable {
    let capabilities = ["publisher_confirms", "basic.nack", "consumer_cancel_notify", "connection.blocked"];
    let yes = |name: &&str| ((*name).to_owned(), FieldValue::Bool(true));
    let mut capabilities: Vec<_> = capabilities.iter().map(yes).collect();
    capabilities.push(("authentication_failure_close".to_owned(), FieldValue::Bool(true)));
    FieldTable(vec![
        ("product".to_owned(), FieldValue::string("posthouse bench")),
        ("version".to_owned(), FieldValue::string(env!("CARGO_PKG_VERSION"))),
        ("capabilities".to_owned(), FieldValue::Table(FieldTable(capabilities))),
    ])
}
