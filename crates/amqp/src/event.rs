//! What a client receives, with its own memory: frames, replies, messages and events.

use posthouse_model::props::{HeaderView, Properties};

use crate::client::Close;
use crate::frame::FrameKind;
use crate::method::{DecodeError, Method};

/// A frame with its own memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnedFrame {
    /// What it carries.
    pub kind: FrameKind,
    /// Its channel.
    pub channel: u16,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// A method with its own memory: a method frame's payload that was decoded once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply(pub(crate) Vec<u8>);

impl Reply {
    /// The method.
    pub fn method(&self) -> Result<Method<'_>, DecodeError> {
        Method::decode(&self.0)
    }
}

/// A message that came in: by `basic.deliver`, `basic.get-ok` or `basic.return`, as [`Message::method`] tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The channel it came on.
    pub channel: u16,
    pub(crate) method: Vec<u8>,
    /// The content header frame's payload.
    pub header: Vec<u8>,
    /// The body.
    pub body: Vec<u8>,
}

impl Message {
    /// The method that carried it.
    pub fn method(&self) -> Result<Method<'_>, DecodeError> {
        Method::decode(&self.method)
    }

    /// The delivery tag, unless it was returned.
    pub fn delivery_tag(&self) -> Option<u64> {
        match self.method() {
            Ok(Method::BasicDeliver { delivery_tag, .. } | Method::BasicGetOk { delivery_tag, .. }) => {
                Some(delivery_tag)
            }
            _ => None,
        }
    }

    /// Whether the server says it may have been delivered before.
    pub fn redelivered(&self) -> bool {
        matches!(
            self.method(),
            Ok(Method::BasicDeliver { redelivered: true, .. } | Method::BasicGetOk { redelivered: true, .. })
        )
    }

    /// Its properties; default ones when they cannot be read.
    pub fn properties(&self) -> Properties {
        HeaderView::parse(&self.header)
            .ok()
            .and_then(|view| Properties::from_header(view).ok())
            .unwrap_or_default()
    }
}

/// What a server sends unasked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A delivery to a consumer.
    Delivery(Message),
    /// A mandatory message that was routed nowhere.
    Returned(Message),
    /// `basic.ack`: a confirm.
    Ack {
        /// The channel it came on.
        channel: u16,
        /// The publish's number on its channel, from 1.
        delivery_tag: u64,
        /// Whether all earlier ones are meant too.
        multiple: bool,
    },
    /// `basic.nack`: a confirm that failed.
    Nack {
        /// The channel it came on.
        channel: u16,
        /// The publish's number on its channel, from 1.
        delivery_tag: u64,
        /// Whether all earlier ones are meant too.
        multiple: bool,
    },
    /// The server ended a consumer.
    Cancelled {
        /// The channel it was on.
        channel: u16,
        /// Its tag.
        consumer_tag: String,
    },
    /// The server closed a channel; it has been confirmed.
    ChannelClosed {
        /// The channel's number.
        channel: u16,
        /// What the server wrote.
        close: Close,
    },
    /// The server stopped reading what is published, and why.
    Blocked(String),
    /// The server reads again.
    Unblocked,
}
