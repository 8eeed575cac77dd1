//! Client-visible errors: reply codes, their scope, and texts.

use std::fmt;

/// The AMQP 0-9-1 reply codes that RabbitMQ uses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u16)]
pub enum ReplyCode {
    /// 200, a normal close
    Success = 200,
    /// 311
    ContentTooLarge = 311,
    /// 312
    NoRoute = 312,
    /// 313
    NoConsumers = 313,
    /// 320
    ConnectionForced = 320,
    /// 402
    InvalidPath = 402,
    /// 403
    AccessRefused = 403,
    /// 404
    NotFound = 404,
    /// 405
    ResourceLocked = 405,
    /// 406
    PreconditionFailed = 406,
    /// 501
    FrameError = 501,
    /// 502
    SyntaxError = 502,
    /// 503
    CommandInvalid = 503,
    /// 504
    ChannelError = 504,
    /// 505
    UnexpectedFrame = 505,
    /// 506
    ResourceError = 506,
    /// 530
    NotAllowed = 530,
    /// 540
    NotImplemented = 540,
    /// 541
    InternalError = 541,
}

/// What an error ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// The channel is closed, the connection goes on.
    Channel,
    /// The whole connection is closed.
    Connection,
}

impl ReplyCode {
    /// What an error of this code ends.
    pub fn scope(self) -> Scope {
        match self {
            Self::ContentTooLarge
            | Self::NoRoute
            | Self::NoConsumers
            | Self::AccessRefused
            | Self::NotFound
            | Self::ResourceLocked
            | Self::PreconditionFailed => Scope::Channel,
            _ => Scope::Connection,
        }
    }
}

/// An error to be sent to the client in `channel.close` or `connection.close`. The class and method that caused
/// it are added by the session, which knows them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplyError {
    /// The code, which also decides the scope unless `scope` overrides it.
    pub code: ReplyCode,
    /// What it ends.
    pub scope: Scope,
    /// The explanation, without the `CODE_NAME - ` prefix.
    pub text: String,
}

impl ReplyError {
    /// An error with its code's own scope.
    pub fn new(code: ReplyCode, text: impl Into<String>) -> Self {
        Self { code, scope: code.scope(), text: text.into() }
    }
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code as u16, self.text)
    }
}

impl std::error::Error for ReplyError {}
