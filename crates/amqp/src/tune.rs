//! Negotiation of channel-max, frame-max and heartbeat.
//!
//! The server proposes, the client answers within the proposal. For channel-max and frame-max 0 means no limit, so an
//! answer of 0 is above any proposal but 0. The heartbeat is the client's to choose; 0 turns it off.

use crate::method::Method;

/// What every peer must be able to take in one frame: the specification's floor. RabbitMQ has refused less than 8192
/// since 4.1, which locks old clients out; we do not.
pub const FRAME_MIN: u32 = 4096;

/// The frame-max before negotiation ends. RabbitMQ's, and enough for any client's start-ok.
pub const INITIAL_FRAME_MAX: u32 = 8192;

/// Limits of a connection, proposed or agreed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tune {
    /// The highest channel number and the number of channels that may be open.
    pub channel_max: u16,
    /// The largest frame in bytes, head and end included.
    pub frame_max: u32,
    /// Seconds between signs of life; 0 is off.
    pub heartbeat: u16,
}

impl Default for Tune {
    /// RabbitMQ's proposal.
    fn default() -> Self {
        Self { channel_max: 2047, frame_max: 131_072, heartbeat: 60 }
    }
}

/// A client's answer was out of range. RabbitMQ says so in its log only and closes the socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TuneError {
    /// Below what is allowed.
    #[error("negotiated {field} = {value} is lower than the minimum allowed value ({min})")]
    TooLow {
        /// `channel_max` or `frame_max`.
        field: &'static str,
        /// The client's value.
        value: u32,
        /// The least allowed.
        min: u32,
    },
    /// Above what the server proposed, or 0 (no limit) where the server has one.
    #[error("negotiated {field} = {value} is higher than the maximum allowed value ({max})")]
    TooHigh {
        /// `channel_max` or `frame_max`.
        field: &'static str,
        /// The client's value.
        value: u32,
        /// The most allowed.
        max: u32,
    },
}

impl Tune {
    /// The server's proposal as a method.
    pub fn proposal(&self) -> Method<'static> {
        let Self { channel_max, frame_max, heartbeat } = *self;
        Method::ConnectionTune { channel_max, frame_max, heartbeat }
    }

    /// The client's answer as a method.
    pub fn answer(&self) -> Method<'static> {
        let Self { channel_max, frame_max, heartbeat } = *self;
        Method::ConnectionTuneOk { channel_max, frame_max, heartbeat }
    }

    /// Server role: checks the client's answer to this proposal. The answer is what holds from then on.
    pub fn accept(&self, answer: Self) -> Result<Self, TuneError> {
        within("channel_max", answer.channel_max.into(), 1, self.channel_max.into())?;
        within("frame_max", answer.frame_max, FRAME_MIN, self.frame_max)?;
        Ok(answer)
    }

    /// Client role: the answer to a server's proposal that is nearest to these wishes.
    pub fn agree(&self, proposal: Self) -> Self {
        Self {
            channel_max: lower(self.channel_max.into(), proposal.channel_max.into()) as u16,
            frame_max: lower(self.frame_max, proposal.frame_max),
            heartbeat: self.heartbeat,
        }
    }
}

fn within(field: &'static str, value: u32, min: u32, max: u32) -> Result<(), TuneError> {
    if value != 0 && value < min {
        return Err(TuneError::TooLow { field, value, min });
    }
    if max != 0 && (value == 0 || value > max) {
        return Err(TuneError::TooHigh { field, value, max });
    }
    Ok(())
}

/// The lower of two limits, of which 0 is none.
fn lower(a: u32, b: u32) -> u32 {
    if a == 0 || b == 0 { a.max(b) } else { a.min(b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tune(channel_max: u16, frame_max: u32) -> Tune {
        Tune { channel_max, frame_max, heartbeat: 0 }
    }

    #[test]
    fn answers_within_the_proposal_are_accepted() {
        let server = Tune::default();
        for answer in [tune(1, 4096), tune(2047, 131_072), Tune { heartbeat: 600, ..server }] {
            assert_eq!(server.accept(answer), Ok(answer));
        }
        assert_eq!(tune(0, 0).accept(tune(0, 0)), Ok(tune(0, 0)));
    }

    #[test]
    fn answers_outside_are_refused_in_rabbitmqs_words() {
        let refusal = |answer: Tune| Tune::default().accept(answer).unwrap_err().to_string();
        let low = "negotiated frame_max = 4095 is lower than the minimum allowed value (4096)";
        assert_eq!(refusal(tune(1, 4095)), low);
        let high = "negotiated frame_max = 0 is higher than the maximum allowed value (131072)";
        assert_eq!(refusal(tune(1, 0)), high);
        let channels = "negotiated channel_max = 0 is higher than the maximum allowed value (2047)";
        assert_eq!(refusal(tune(0, 4096)), channels);
        let channels = "negotiated channel_max = 2048 is higher than the maximum allowed value (2047)";
        assert_eq!(refusal(tune(2048, 4096)), channels);
    }

    #[test]
    fn a_client_agrees_to_the_lower_limit() {
        assert_eq!(tune(0, 0).agree(tune(2047, 131_072)), tune(2047, 131_072));
        assert_eq!(tune(10, 4096).agree(tune(0, 0)), tune(10, 4096));
        assert_eq!(tune(10, 200_000).agree(tune(5, 131_072)), tune(5, 131_072));
    }
}
