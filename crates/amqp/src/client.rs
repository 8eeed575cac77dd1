//! Client role: opening a connection, as a machine without input or output.
//!
//! ```text
//! client: protocol header                start-ok           tune-ok, open
//! server:                  start                     tune                   open-ok
//! ```
//!
//! The caller writes what is appended to `out` and hands in the frames it reads.

use posthouse_model::field::FieldTable;

use crate::frame::{Frame, FrameKind};
use crate::method::{DecodeError, Method, write_method};
use crate::protocol_header::AMQP_0_9_1;
use crate::sasl::{Mechanism, plain_response};
use crate::tune::Tune;
use crate::uri::AmqpUri;

/// How to open a connection.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// As whom and to which vhost. Host and port are the caller's business.
    pub uri: AmqpUri,
    /// The limits wished for; 0 takes the server's.
    pub tune: Tune,
    /// What the client says of itself.
    pub client_properties: FieldTable,
}

/// What the server wrote in a close method.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reply_code} {reply_text} ({class_id}.{method_id})")]
pub struct Close {
    /// The reply code.
    pub reply_code: u16,
    /// The reply text, code name included.
    pub reply_text: String,
    /// Class of the method that caused it, or 0.
    pub class_id: u16,
    /// Method that caused it, or 0.
    pub method_id: u16,
}

impl Close {
    /// The fields of `connection.close` and `channel.close`; `None` for other methods.
    pub fn of(method: &Method<'_>) -> Option<Self> {
        match *method {
            Method::ConnectionClose { reply_code, reply_text, class_id, method_id }
            | Method::ChannelClose { reply_code, reply_text, class_id, method_id } => {
                Some(Self { reply_code, reply_text: reply_text.to_owned(), class_id, method_id })
            }
            _ => None,
        }
    }
}

/// Why a connection did not open.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// The server closed it.
    #[error("the server closed the connection: {0}")]
    Closed(Close),
    /// A method cannot be read.
    #[error("malformed method from the server: {0}")]
    Decode(#[from] DecodeError),
    /// Another method than the handshake has here.
    #[error("expected {expected}, got {got}")]
    Unexpected {
        /// The method expected.
        expected: &'static str,
        /// The method or frame received.
        got: String,
    },
    /// The server does not offer PLAIN.
    #[error("expected the server to offer PLAIN, got {0:?}")]
    NoMechanism(String),
}

/// A connection being opened.
#[derive(Debug)]
pub struct Opening {
    options: OpenOptions,
    awaited: Awaited,
    server_properties: FieldTable,
    tune: Tune,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Awaited {
    Start,
    Tune,
    OpenOk,
}

/// An open connection: what was learnt on the way.
#[derive(Clone, PartialEq, Debug)]
pub struct Opened {
    /// What the server says of itself.
    pub server_properties: FieldTable,
    /// The limits agreed.
    pub tune: Tune,
}

impl Opening {
    /// Starts: appends the protocol header.
    pub fn start(options: OpenOptions, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&AMQP_0_9_1);
        let tune = options.tune;
        Self { options, awaited: Awaited::Start, server_properties: FieldTable::default(), tune }
    }

    /// Takes a frame and appends the answer. Returns what was learnt once the connection is open. After an error the
    /// socket is to be closed, when `out` is written.
    pub fn step(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<Option<Opened>, OpenError> {
        match (frame.kind, frame.channel) {
            (FrameKind::Heartbeat, _) => return Ok(None),
            (FrameKind::Method, 0) => {}
            (kind, channel) => {
                return Err(self.unexpected(format!("a {kind:?} frame on channel {channel}")));
            }
        }
        let method = Method::decode(frame.payload)?;
        match (self.awaited, method) {
            (Awaited::Start, Method::ConnectionStart { server_properties, mechanisms, .. }) => {
                self.server_properties = server_properties;
                self.log_in(mechanisms, out)?;
                self.awaited = Awaited::Tune;
            }
            (Awaited::Tune, Method::ConnectionTune { channel_max, frame_max, heartbeat }) => {
                self.tune = self.options.tune.agree(Tune { channel_max, frame_max, heartbeat });
                write_method(out, 0, &self.tune.answer());
                write_method(out, 0, &Method::ConnectionOpen { vhost: &self.options.uri.vhost });
                self.awaited = Awaited::OpenOk;
            }
            (Awaited::OpenOk, Method::ConnectionOpenOk {}) => {
                let server_properties = std::mem::take(&mut self.server_properties);
                return Ok(Some(Opened { server_properties, tune: self.tune }));
            }
            (_, method) => {
                let Some(close) = Close::of(&method) else {
                    return Err(self.unexpected(method.name().to_owned()));
                };
                write_method(out, 0, &Method::ConnectionCloseOk {});
                return Err(OpenError::Closed(close));
            }
        }
        Ok(None)
    }

    fn log_in(&self, mechanisms: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
        let mechanism = Mechanism::Plain.name();
        if !mechanisms.split(|&b| b == b' ').any(|offered| offered == mechanism.as_bytes()) {
            return Err(OpenError::NoMechanism(String::from_utf8_lossy(mechanisms).into_owned()));
        }
        let response = plain_response(&self.options.uri.user, self.options.uri.password.as_bytes());
        let start_ok = Method::ConnectionStartOk {
            client_properties: self.options.client_properties.clone(),
            mechanism,
            response: &response,
            locale: "en_US",
        };
        write_method(out, 0, &start_ok);
        Ok(())
    }

    fn unexpected(&self, got: String) -> OpenError {
        let expected = match self.awaited {
            Awaited::Start => "connection.start",
            Awaited::Tune => "connection.tune",
            Awaited::OpenOk => "connection.open-ok",
        };
        OpenError::Unexpected { expected, got }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::next_frame;
    use crate::peer_properties::{client_properties, server_properties};

    fn opening() -> (Opening, Vec<u8>) {
        let tune = Tune { channel_max: 0, frame_max: 8192, heartbeat: 0 };
        let client_properties = client_properties("test", "0");
        let uri = AmqpUri { vhost: "v".into(), ..AmqpUri::default() };
        let mut out = Vec::new();
        (Opening::start(OpenOptions { uri, tune, client_properties }, &mut out), out)
    }

    /// Hands a method to the machine; returns its verdict and what it wrote.
    fn step(opening: &mut Opening, method: &Method<'_>) -> (Result<Option<Opened>, OpenError>, Vec<u8>) {
        let (mut bytes, mut out) = (Vec::new(), Vec::new());
        write_method(&mut bytes, 0, method);
        let (frame, _) = next_frame(&bytes, 8184).unwrap().unwrap();
        (opening.step(&frame, &mut out), out)
    }

    fn start(mechanisms: &'static [u8]) -> Method<'static> {
        let server_properties = server_properties("c", "0");
        Method::ConnectionStart {
            version_major: 0,
            version_minor: 9,
            server_properties,
            mechanisms,
            locales: b"en_US",
        }
    }

    #[test]
    fn opens() {
        let (mut opening, out) = opening();
        assert_eq!(out, AMQP_0_9_1);
        let (verdict, out) = step(&mut opening, &start(b"AMQPLAIN PLAIN"));
        assert_eq!(verdict, Ok(None));
        let (frame, _) = next_frame(&out, 8184).unwrap().unwrap();
        let Ok(Method::ConnectionStartOk { mechanism, response, .. }) = Method::decode(frame.payload) else {
            panic!("no start-ok")
        };
        assert_eq!((mechanism, response), ("PLAIN", &b"\0guest\0guest"[..]));
        let (verdict, out) = step(&mut opening, &Tune::default().proposal());
        assert_eq!(verdict, Ok(None));
        let agreed = Tune { channel_max: 2047, frame_max: 8192, heartbeat: 0 };
        let mut expected = Vec::new();
        write_method(&mut expected, 0, &agreed.answer());
        write_method(&mut expected, 0, &Method::ConnectionOpen { vhost: "v" });
        assert_eq!(out, expected);
        let (verdict, _) = step(&mut opening, &Method::ConnectionOpenOk {});
        let server_properties = server_properties("c", "0");
        assert_eq!(verdict, Ok(Some(Opened { server_properties, tune: agreed })));
    }

    #[test]
    fn answers_a_close_and_reports_it() {
        let (mut opening, _) = opening();
        step(&mut opening, &start(b"PLAIN")).0.unwrap();
        let close = Method::ConnectionClose {
            reply_code: 403,
            reply_text: "ACCESS_REFUSED",
            class_id: 0,
            method_id: 0,
        };
        let (verdict, out) = step(&mut opening, &close);
        assert_eq!(
            verdict.unwrap_err().to_string(),
            "the server closed the connection: 403 ACCESS_REFUSED (0.0)"
        );
        let mut close_ok = Vec::new();
        write_method(&mut close_ok, 0, &Method::ConnectionCloseOk {});
        assert_eq!(out, close_ok);
    }

    #[test]
    fn says_what_it_expected() {
        let (mut early, _) = opening();
        let error = step(&mut early, &Method::ConnectionOpenOk {}).0.unwrap_err();
        assert_eq!(error.to_string(), "expected connection.start, got connection.open-ok");
        let (mut other, _) = opening();
        let error = step(&mut other, &start(b"EXTERNAL PLAINISH")).0.unwrap_err();
        assert_eq!(error.to_string(), "expected the server to offer PLAIN, got \"EXTERNAL PLAINISH\"");
    }
}
