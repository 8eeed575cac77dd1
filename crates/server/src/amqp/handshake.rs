//! Opening a connection: protocol header, login, limits, virtual host. Bytes in, bytes out.
//!
//! ```text
//! client                     server
//!   AMQP 0 0 9 1      ->
//!                     <-  connection.start
//!   connection.start-ok ->        (the login is checked on a blocking thread)
//!                     <-  connection.tune
//!   connection.tune-ok  ->
//!   connection.open     ->
//!                     <-  connection.open-ok
//! ```

use std::sync::Arc;

use posthouse_amqp::frame::{self, FrameKind};
use posthouse_amqp::method::{Method, write_method};
use posthouse_amqp::peer_properties::{ClientTraits, server_properties};
use posthouse_amqp::protocol_header::ProtocolHeader;
use posthouse_amqp::tune::{INITIAL_FRAME_MAX, Tune};
use posthouse_auth::authorities::{Identity, Refusal};
use posthouse_auth::mechanism;
use posthouse_auth::permissions::Access;
use posthouse_model::errors;
use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::limits;
use posthouse_model::reply::ReplyError;
use posthouse_node::broker::Broker;
use posthouse_node::connections::Place;
use posthouse_node::vhost::VirtualHost;

use super::session::Failure;
use crate::listen::AmqpSettings;

/// A login to be checked.
#[derive(Clone)]
pub(crate) struct LoginAttempt {
    /// The mechanism's name.
    pub mechanism: String,
    /// Its response, which holds a password.
    pub response: Vec<u8>,
}

/// What a step leads to.
pub(crate) enum Step {
    /// More input is needed.
    More,
    /// Check a login, then call [`Handshake::logged_in`] or [`Handshake::refused`].
    Login(LoginAttempt),
    /// The connection is open.
    Open(Box<Opened>),
    /// Write what is pending, wait `after_error` if there was one, and close the socket.
    Close {
        /// Why, for the log.
        reason: String,
        /// Whether to wait before closing, so that a peer cannot try again at once.
        after_error: bool,
    },
}

/// What was agreed on.
pub(crate) struct Opened {
    /// Who logged in.
    pub identity: Arc<Identity>,
    /// What they may do.
    pub access: Access,
    /// Where to.
    pub vhost: Arc<VirtualHost>,
    /// Its place among the connections of its user and virtual host.
    pub place: Place,
    /// Limits.
    pub tune: Tune,
    /// What the client understands.
    pub traits: ClientTraits,
    /// What the client says of itself.
    pub client_properties: FieldTable,
}

enum State {
    Header,
    StartOk,
    LoggingIn,
    TuneOk,
    Open,
    Done,
}

/// A connection that is being opened.
pub(crate) struct Handshake {
    broker: Arc<Broker>,
    proposal: Tune,
    product: String,
    state: State,
    tune: Tune,
    traits: ClientTraits,
    client_properties: FieldTable,
    mechanism: String,
    identity: Option<Arc<Identity>>,
}

impl Handshake {
    /// A connection of which nothing was read yet.
    pub(crate) fn new(broker: Arc<Broker>, settings: &AmqpSettings) -> Self {
        Self {
            broker,
            proposal: settings.tune,
            product: settings.product.clone(),
            state: State::Header,
            tune: settings.tune,
            traits: ClientTraits::default(),
            client_properties: FieldTable::default(),
            mechanism: String::new(),
            identity: None,
        }
    }

    /// Looks at the input; how many bytes were taken, and what comes next. Replies are appended to `out`.
    pub(crate) fn input(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Step) {
        match self.state {
            State::Header => self.header(input, out),
            State::LoggingIn | State::Done => (0, Step::More),
            State::StartOk | State::TuneOk | State::Open => self.frame(input, out),
        }
    }

    /// The login was right.
    pub(crate) fn logged_in(&mut self, identity: Arc<Identity>, out: &mut Vec<u8>) {
        self.identity = Some(identity);
        self.state = State::TuneOk;
        write_method(out, 0, &self.proposal.proposal());
    }

    /// The login was wrong.
    pub(crate) fn refused(&mut self, refusal: &Refusal, out: &mut Vec<u8>) -> Step {
        self.state = State::Done;
        let reply = refusal.reply(&self.mechanism).filter(|_| self.traits.authentication_failure_close);
        if let Some(error) = reply {
            write_close(out, &Failure::general(error));
        }
        Step::Close { reason: refusal.to_string(), after_error: true }
    }

    fn header(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Step) {
        match ProtocolHeader::detect(input) {
            ProtocolHeader::Incomplete => (0, Step::More),
            header => match header.refusal() {
                None => {
                    self.start(out);
                    (ProtocolHeader::BYTES, Step::More)
                }
                Some(ours) => {
                    out.extend_from_slice(&ours);
                    self.state = State::Done;
                    let reason = format!("expected the AMQP 0-9-1 protocol header, got {header:?}");
                    (input.len(), Step::Close { reason, after_error: false })
                }
            },
        }
    }

    fn start(&mut self, out: &mut Vec<u8>) {
        let mut properties = server_properties("posthouse", env!("CARGO_PKG_VERSION"));
        for (name, value) in &mut properties.0 {
            if name == "product" {
                *value = FieldValue::string(&self.product);
            }
        }
        self.state = State::StartOk;
        let start = Method::ConnectionStart {
            version_major: 0,
            version_minor: 9,
            server_properties: properties,
            mechanisms: mechanism::OFFERED.as_bytes(),
            locales: b"en_US",
        };
        write_method(out, 0, &start);
    }

    fn frame(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Step) {
        let frame_max =
            if matches!(self.state, State::Open) { self.tune.frame_max } else { INITIAL_FRAME_MAX };
        let max_payload = frame_max as usize - frame::OVERHEAD_BYTES;
        let (frame, bytes) = match frame::next_frame(input, max_payload) {
            Ok(None) => return (0, Step::More),
            Ok(Some(found)) => found,
            Err(error) => return (input.len(), self.fail(&Failure::general(error.reply()), out)),
        };
        if frame.kind == FrameKind::Heartbeat && frame.channel == 0 {
            return (bytes, Step::More);
        }
        if frame.kind != FrameKind::Method || frame.channel != 0 {
            return (bytes, self.fail(&Failure::general(frame.unexpected()), out));
        }
        let step = match Method::decode(frame.payload) {
            Ok(method) => self.method(&method, out),
            Err(error) => self.fail(&Failure { error: error.reply(), ids: error.ids() }, out),
        };
        (bytes, step)
    }

    fn method(&mut self, method: &Method<'_>, out: &mut Vec<u8>) -> Step {
        match (&self.state, method) {
            (State::StartOk, Method::ConnectionStartOk { client_properties, mechanism, response, .. }) => {
                self.traits = ClientTraits::read(client_properties);
                self.client_properties = client_properties.clone();
                self.mechanism = (*mechanism).to_owned();
                self.state = State::LoggingIn;
                Step::Login(LoginAttempt { mechanism: self.mechanism.clone(), response: response.to_vec() })
            }
            (State::TuneOk, Method::ConnectionTuneOk { channel_max, frame_max, heartbeat }) => {
                let answer = Tune { channel_max: *channel_max, frame_max: *frame_max, heartbeat: *heartbeat };
                match self.proposal.accept(answer) {
                    Ok(tune) => {
                        self.tune = tune;
                        self.state = State::Open;
                        Step::More
                    }
                    Err(error) => {
                        self.state = State::Done;
                        Step::Close { reason: error.to_string(), after_error: true }
                    }
                }
            }
            (State::Open, Method::ConnectionOpen { vhost }) => self.open(vhost, method.ids(), out),
            (_, Method::ConnectionClose { .. }) => {
                write_method(out, 0, &Method::ConnectionCloseOk {});
                self.state = State::Done;
                Step::Close { reason: "closed by the client before it was open".into(), after_error: false }
            }
            (state, _) => {
                let name = match state {
                    State::StartOk => "starting",
                    State::TuneOk => "tuning",
                    _ => "opening",
                };
                self.fail(&Failure { error: errors::unexpected_method(name), ids: method.ids() }, out)
            }
        }
    }

    fn open(&mut self, name: &str, ids: (u16, u16), out: &mut Vec<u8>) -> Step {
        let Some(identity) = self.identity.clone() else { return Step::More };
        let limit = self.broker.settings().max_connections;
        let opened = if self.broker.connections().count() >= limit as usize {
            Err(errors::node_connection_limit(limit))
        } else {
            self.admit(name, &identity)
        };
        match opened {
            Ok((vhost, access, place)) => {
                self.state = State::Done;
                write_method(out, 0, &Method::ConnectionOpenOk {});
                let (tune, traits) = (self.tune, std::mem::take(&mut self.traits));
                let client_properties = std::mem::take(&mut self.client_properties);
                Step::Open(Box::new(Opened {
                    identity,
                    access,
                    vhost,
                    place,
                    tune,
                    traits,
                    client_properties,
                }))
            }
            Err(error) => self.fail(&Failure { error, ids }, out),
        }
    }

    /// Checks limits first and permissions then, as RabbitMQ does.
    fn admit(
        &self,
        name: &str,
        identity: &Identity,
    ) -> Result<(Arc<VirtualHost>, Access, Place), ReplyError> {
        let (vhost, authorities) = (self.broker.vhost(name)?, self.broker.authorities());
        let limits = authorities.user_limits(&identity.user).unwrap_or_default();
        let place = self.broker.connections().take_place(
            (vhost.name(), vhost.max_connections()),
            (&identity.user, limits::bound(limits.max_connections)),
        )?;
        let access = authorities.access(&identity.user, vhost.name())?;
        Ok((vhost, access, place))
    }

    fn fail(&mut self, failure: &Failure, out: &mut Vec<u8>) -> Step {
        self.state = State::Done;
        write_close(out, failure);
        Step::Close { reason: failure.error.to_string(), after_error: true }
    }
}

/// Encodes the `connection.close` that tells of a failure.
pub(crate) fn write_close(out: &mut Vec<u8>, failure: &Failure) {
    let text = failure.error.reply_text();
    let (class_id, method_id) = failure.ids;
    let reply_code = failure.error.code as u16;
    write_method(out, 0, &Method::ConnectionClose { reply_code, reply_text: &text, class_id, method_id });
}
