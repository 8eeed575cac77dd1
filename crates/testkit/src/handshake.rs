//! Opening a connection, each step on its own or all at once.

use std::net::SocketAddr;

use posthouse_amqp::method::Method;
use posthouse_amqp::peer_properties::client_properties;
use posthouse_amqp::protocol_header::AMQP_0_9_1;
use posthouse_amqp::sasl::plain_response;
use posthouse_amqp::tune::Tune;
use posthouse_model::field::FieldTable;

use crate::expect_method;
use crate::peer::Peer;

/// How a connection is opened.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// The mechanism's name.
    pub mechanism: String,
    /// What is answered in it.
    pub response: Vec<u8>,
    /// What the client says of itself.
    pub properties: FieldTable,
    /// Channel-max in tune-ok; `None` repeats the proposal.
    pub channel_max: Option<u16>,
    /// Frame-max in tune-ok; `None` repeats the proposal.
    pub frame_max: Option<u32>,
    /// Seconds in tune-ok.
    pub heartbeat: u16,
    /// The virtual host.
    pub vhost: String,
}

impl Default for Handshake {
    /// Guest by PLAIN on `/`, with every capability, the proposed limits and no heartbeat.
    fn default() -> Self {
        Self {
            mechanism: "PLAIN".into(),
            response: plain_response("guest", b"guest"),
            properties: client_properties("test", "0"),
            channel_max: None,
            frame_max: None,
            heartbeat: 0,
            vhost: "/".into(),
        }
    }
}

impl Handshake {
    /// Logging in by PLAIN.
    pub fn plain(user: &str, password: &str) -> Self {
        Self { response: plain_response(user, password.as_bytes()), ..Self::default() }
    }

    /// Without any capability.
    #[must_use]
    pub fn without_capabilities(self) -> Self {
        Self { properties: FieldTable::default(), ..self }
    }

    /// The start-ok that says it.
    pub fn start_ok(&self) -> Method<'_> {
        Method::ConnectionStartOk {
            client_properties: self.properties.clone(),
            mechanism: &self.mechanism,
            response: &self.response,
            locale: "en_US",
        }
    }
}

impl Peer {
    /// Connects and opens the connection.
    #[track_caller]
    pub fn open(address: SocketAddr, handshake: &Handshake) -> Self {
        let mut peer = Self::connect(address);
        peer.log_in(handshake);
        peer.tune(handshake);
        peer.send(0, &Method::ConnectionOpen { vhost: &handshake.vhost });
        expect_method!(peer, 0, Method::ConnectionOpenOk {});
        peer
    }

    /// Sends the protocol header and takes connection.start: the server's properties, mechanisms and locales.
    #[track_caller]
    pub fn start(&mut self) -> (FieldTable, String, String) {
        self.send_bytes(&AMQP_0_9_1);
        expect_method!(self, 0, Method::ConnectionStart { version_major: 0, version_minor: 9, server_properties, mechanisms, locales } => {
            (server_properties, lossy(mechanisms), lossy(locales))
        })
    }

    /// From the protocol header to start-ok.
    #[track_caller]
    pub fn log_in(&mut self, handshake: &Handshake) {
        self.start();
        self.send(0, &handshake.start_ok());
    }

    /// Takes connection.tune.
    #[track_caller]
    pub fn proposal(&mut self) -> Tune {
        expect_method!(self, 0, Method::ConnectionTune { channel_max, frame_max, heartbeat } => {
            Tune { channel_max, frame_max, heartbeat }
        })
    }

    /// Takes connection.tune and answers it.
    #[track_caller]
    pub fn tune(&mut self, handshake: &Handshake) -> Tune {
        let proposal = self.proposal();
        let agreed = Tune {
            channel_max: handshake.channel_max.unwrap_or(proposal.channel_max),
            frame_max: handshake.frame_max.unwrap_or(proposal.frame_max),
            heartbeat: handshake.heartbeat,
        };
        self.send(0, &agreed.answer());
        self.frame_max = agreed.frame_max;
        agreed
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
