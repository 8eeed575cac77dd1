//! What a test expects to come: methods, closes, the end, or nothing.

use std::time::{Duration, Instant};

use posthouse_amqp::client::Close;
use posthouse_amqp::frame::FrameKind;
use posthouse_amqp::method::Method;

use crate::TIMEOUT;
use crate::peer::{Arrival, Peer};

/// Takes the next frame of a channel, which must be a method of that pattern; gives the value after `=>`.
#[macro_export]
macro_rules! expect_method {
    ($peer:expr, $channel:expr, $pattern:pat => $value:expr) => {{
        let received = $peer.method($channel);
        match received.get() {
            $pattern => $value,
            other => panic!("expected {}, got {other:?}", stringify!($pattern)),
        }
    }};
    ($peer:expr, $channel:expr, $pattern:pat) => {
        $crate::expect_method!($peer, $channel, $pattern => ())
    };
}

impl Peer {
    /// Takes channel.close and confirms it; the channel can be opened again.
    #[track_caller]
    pub fn channel_closed(&mut self, channel: u16) -> Close {
        let close = self.method(channel);
        let method = close.get();
        let Method::ChannelClose { .. } = method else { panic!("expected channel.close, got {method:?}") };
        self.send(channel, &Method::ChannelCloseOk {});
        Close::of(&method).expect("it is a close")
    }

    /// Expects that the channel is closed with that code, text and those class and method ids.
    #[track_caller]
    pub fn expect_channel_close(&mut self, channel: u16, code: u16, text: &str, ids: (u16, u16)) {
        check(&self.channel_closed(channel), code, text, ids);
    }

    /// Takes connection.close, past whatever else was under way.
    #[track_caller]
    pub fn connection_closed(&mut self) -> Close {
        loop {
            let frame = self.any_frame();
            if frame.kind != FrameKind::Method || frame.channel != 0 {
                continue;
            }
            let method = Method::decode(&frame.payload).expect("the broker sends methods that can be read");
            let Method::ConnectionClose { .. } = method else {
                panic!("expected connection.close, got {method:?}")
            };
            return Close::of(&method).expect("it is a close");
        }
    }

    /// Expects that the connection is closed with that code, text and those ids, and the socket after the close-ok.
    #[track_caller]
    pub fn expect_connection_close(mut self, code: u16, text: &str, ids: (u16, u16)) {
        check(&self.connection_closed(), code, text, ids);
        let mut close_ok = Vec::new();
        posthouse_amqp::method::write_method(&mut close_ok, 0, &Method::ConnectionCloseOk {});
        // After an error in the stream itself the broker may not read any more.
        self.try_send_bytes(&close_ok);
        self.expect_end();
    }

    /// Expects that the socket is closed without another word.
    #[track_caller]
    pub fn expect_end(&mut self) {
        match self.past_heartbeats(TIMEOUT) {
            Arrival::Eof => {}
            other => panic!("expected the end of the connection, got {other:?}"),
        }
    }

    /// Expects that the socket is closed, whatever comes before.
    #[track_caller]
    pub fn expect_end_eventually(&mut self) {
        loop {
            match self.past_heartbeats(TIMEOUT) {
                Arrival::Eof => return,
                Arrival::Frame(_) => {}
                Arrival::Nothing => panic!("expected the end of the connection, got nothing"),
            }
        }
    }

    /// Expects that `channel` has nothing to say: the answer to a method without effect is the next frame on it.
    #[track_caller]
    pub fn expect_quiet(&mut self, channel: u16) {
        self.send(channel, &Method::ChannelFlow { active: true });
        expect_method!(self, channel, Method::ChannelFlowOk { active: true });
    }

    #[track_caller]
    fn past_heartbeats(&mut self, limit: Duration) -> Arrival {
        let deadline = Instant::now() + limit;
        loop {
            match self.arrival(deadline.saturating_duration_since(Instant::now())) {
                Arrival::Frame(frame) if frame.kind == FrameKind::Heartbeat => {}
                other => return other,
            }
        }
    }
}

#[track_caller]
fn check(close: &Close, code: u16, text: &str, ids: (u16, u16)) {
    let got = (close.reply_code, close.reply_text.as_str(), (close.class_id, close.method_id));
    assert_eq!(got, (code, text, ids));
}
