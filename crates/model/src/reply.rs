//! Client-visible errors: reply codes, their scope, and texts.

use std::fmt;

/// The reply text is an AMQP short string.
const REPLY_TEXT_MAX_BYTES: usize = 255;
/// What a cut reply text ends in.
const CUT_MARK: &str = "...";

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
    /// The name the reply text starts with.
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "SUCCESS",
            Self::ContentTooLarge => "CONTENT_TOO_LARGE",
            Self::NoRoute => "NO_ROUTE",
            Self::NoConsumers => "NO_CONSUMERS",
            Self::ConnectionForced => "CONNECTION_FORCED",
            Self::InvalidPath => "INVALID_PATH",
            Self::AccessRefused => "ACCESS_REFUSED",
            Self::NotFound => "NOT_FOUND",
            Self::ResourceLocked => "RESOURCE_LOCKED",
            Self::PreconditionFailed => "PRECONDITION_FAILED",
            Self::FrameError => "FRAME_ERROR",
            Self::SyntaxError => "SYNTAX_ERROR",
            Self::CommandInvalid => "COMMAND_INVALID",
            Self::ChannelError => "CHANNEL_ERROR",
            Self::UnexpectedFrame => "UNEXPECTED_FRAME",
            Self::ResourceError => "RESOURCE_ERROR",
            Self::NotAllowed => "NOT_ALLOWED",
            Self::NotImplemented => "NOT_IMPLEMENTED",
            Self::InternalError => "INTERNAL_ERROR",
        }
    }

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

    /// The same error, ending the whole connection.
    pub fn closing_connection(mut self) -> Self {
        self.scope = Scope::Connection;
        self
    }

    /// The text that goes to the client: `CODE_NAME - explanation`, the code's name alone when there is no
    /// explanation. At most 255 bytes; what is longer is cut at a character boundary and ends in `...`.
    pub fn reply_text(&self) -> String {
        let mut text = self.code.name().to_owned();
        if !self.text.is_empty() {
            text.push_str(" - ");
            text.push_str(&self.text);
        }
        if text.len() > REPLY_TEXT_MAX_BYTES {
            let end = text.floor_char_boundary(REPLY_TEXT_MAX_BYTES - CUT_MARK.len());
            text.truncate(end);
            text.push_str(CUT_MARK);
        }
        text
    }
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code as u16, self.text)
    }
}

impl std::error::Error for ReplyError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_text_starts_with_the_code_name() {
        assert_eq!(ReplyError::new(ReplyCode::NotFound, "no queue").reply_text(), "NOT_FOUND - no queue");
        assert_eq!(ReplyError::new(ReplyCode::InternalError, "").reply_text(), "INTERNAL_ERROR");
    }

    #[test]
    fn reply_text_is_cut_on_a_character_boundary() {
        let fits = ReplyError::new(ReplyCode::NotFound, "x".repeat(255 - 12)).reply_text();
        assert_eq!((fits.len(), fits.ends_with("xxx")), (255, true));
        let cut = ReplyError::new(ReplyCode::NotFound, "x".repeat(255 - 11)).reply_text();
        assert_eq!((cut.len(), cut.ends_with("x...")), (255, true));
        let wide = ReplyError::new(ReplyCode::NotFound, "\u{20ac}".repeat(100)).reply_text();
        assert_eq!(wide, format!("NOT_FOUND - {}...", "\u{20ac}".repeat(80)));
    }
}
