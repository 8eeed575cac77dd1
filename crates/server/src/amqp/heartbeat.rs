//! Signs of life both ways.

use std::time::Duration;

/// Counts half intervals without traffic.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    interval_s: u16,
    sent: bool,
    received: bool,
    silent: u32,
}

/// What a half interval asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Beat {
    /// Nothing.
    Rest,
    /// Send a heartbeat frame.
    Send,
    /// The peer is gone: close the socket.
    PeerGone,
}

impl Heartbeat {
    /// Heartbeats at an interval agreed on; 0 is off.
    pub(crate) fn new(interval_s: u16) -> Self {
        Self { interval_s, sent: false, received: false, silent: 0 }
    }

    /// How often to call [`Self::tick`]; none when heartbeats are off.
    pub(crate) fn period(&self) -> Option<Duration> {
        (self.interval_s > 0).then(|| Duration::from_millis(u64::from(self.interval_s) * 500))
    }

    /// Something was written.
    pub(crate) fn sent(&mut self) {
        self.sent = true;
    }

    /// Something was read.
    pub(crate) fn received(&mut self) {
        self.received = true;
    }

    /// Half an interval has passed. `reading` says whether the connection was read from: one that is held back
    /// cannot be heard.
    pub(crate) fn tick(&mut self, reading: bool) -> Beat {
        self.silent = if self.received || !reading { 0 } else { self.silent + 1 };
        self.received = false;
        let sent = std::mem::take(&mut self.sent);
        // Two whole intervals of silence, as RabbitMQ has it.
        match self.silent {
            5.. => Beat::PeerGone,
            _ if sent => Beat::Rest,
            _ => Beat::Send,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sends_when_nothing_else_was_sent() {
        let mut heartbeat = Heartbeat::new(2);
        assert_eq!(heartbeat.period(), Some(Duration::from_secs(1)));
        assert_eq!(heartbeat.tick(true), Beat::Send);
        heartbeat.sent();
        assert_eq!(heartbeat.tick(true), Beat::Rest);
        assert_eq!(Heartbeat::new(0).period(), None);
    }

    #[test]
    fn silence_ends_it_unless_nobody_listens() {
        let mut heartbeat = Heartbeat::new(2);
        for _ in 0..4 {
            assert_eq!(heartbeat.tick(true), Beat::Send);
        }
        heartbeat.received();
        for _ in 0..5 {
            assert_eq!(heartbeat.tick(true), Beat::Send);
        }
        assert_eq!(heartbeat.tick(true), Beat::PeerGone);
        assert_eq!(heartbeat.tick(false), Beat::Send);
    }
}
