//! Signs of life both ways.

use std::time::Duration;

/// Counts half intervals without traffic.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    interval_s: u16,
    sent: bool,
    received: bool,
    taken: bool,
    /// Bytes that waited to be read when it was last looked at.
    unread: usize,
    silent: u32,
}

/// What can be known of the peer at the end of a half interval.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ear {
    /// What it sends is read.
    Open,
    /// What it sends is not read, and it was sent something: that it takes some of that, or that more of its bytes
    /// wait to be read (so many now), is a sign of life.
    Full {
        /// Bytes that wait to be read.
        unread: usize,
    },
    /// What it sends is not read, for reasons of the broker's own: silence says nothing.
    Shut,
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
        Self { interval_s, sent: false, received: false, taken: false, unread: 0, silent: 0 }
    }

    /// How often to call [`Self::tick`]; none when heartbeats are off.
    pub(crate) fn period(&self) -> Option<Duration> {
        (self.interval_s > 0).then(|| Duration::from_millis(u64::from(self.interval_s) * 500))
    }

    /// Something was sent, or waits to be.
    pub(crate) fn sent(&mut self) {
        self.sent = true;
    }

    /// Something was read.
    pub(crate) fn received(&mut self) {
        self.received = true;
    }

    /// Some of what had been waiting was taken by the peer.
    pub(crate) fn taken(&mut self) {
        self.taken = true;
    }

    /// Half an interval has passed.
    pub(crate) fn tick(&mut self, ear: Ear) -> Beat {
        let unread_before = std::mem::take(&mut self.unread);
        let received = std::mem::take(&mut self.received);
        let taken = std::mem::take(&mut self.taken);
        let alive = match ear {
            Ear::Open => received,
            Ear::Full { unread } => {
                self.unread = unread;
                received || taken || unread > unread_before
            }
            Ear::Shut => true,
        };
        self.silent = if alive { 0 } else { self.silent + 1 };
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
        assert_eq!(heartbeat.tick(Ear::Open), Beat::Send);
        heartbeat.sent();
        assert_eq!(heartbeat.tick(Ear::Open), Beat::Rest);
        assert_eq!(Heartbeat::new(0).period(), None);
    }

    #[test]
    fn silence_ends_it_unless_nobody_listens() {
        let mut heartbeat = Heartbeat::new(2);
        for _ in 0..4 {
            heartbeat.taken();
            assert_eq!(heartbeat.tick(Ear::Open), Beat::Send);
        }
        heartbeat.received();
        for _ in 0..5 {
            assert_eq!(heartbeat.tick(Ear::Open), Beat::Send);
        }
        assert_eq!(heartbeat.tick(Ear::Open), Beat::PeerGone);
        assert_eq!(heartbeat.tick(Ear::Shut), Beat::Send);
    }

    #[test]
    fn whoever_neither_takes_nor_sends_is_gone() {
        let mut heartbeat = Heartbeat::new(2);
        for unread in 1..20 {
            assert_eq!(heartbeat.tick(Ear::Full { unread }), Beat::Send, "it sends");
        }
        for _ in 0..20 {
            heartbeat.taken();
            assert_eq!(heartbeat.tick(Ear::Full { unread: 19 }), Beat::Send, "it takes");
        }
        for _ in 0..4 {
            assert_eq!(heartbeat.tick(Ear::Full { unread: 19 }), Beat::Send);
        }
        assert_eq!(heartbeat.tick(Ear::Full { unread: 19 }), Beat::PeerGone);
    }
}
