//! One thread that drives many connections: it waits until some of them can go on and gives each of those a turn.
//!
//! A thread per connection would measure the scheduler: with hundreds of connections and a few messages in each read,
//! every answer of the broker costs a switch to the one thread that waits for it.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{Timespec, epoll};

use super::client::TICK;

/// Connections taken from one wait.
const EVENTS_MAX: usize = 64;

/// What a connection waits for after its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Input.
    Read,
    /// Input, or room in the socket for what it has begun to write.
    Write,
    /// Nothing: it has more to do, once the others had their turns.
    Turn,
    /// Input, or that this time has passed.
    Time(Duration),
    /// It has nothing left to do.
    End,
}

/// A connection that never blocks.
pub(super) trait Driven {
    /// Its socket, not blocking.
    fn stream(&self) -> &TcpStream;

    /// Reads, writes and decides once. Called when what it waits for has come, and every [`TICK`] otherwise.
    fn turn(&mut self) -> Result<Next>;
}

/// Drives the connections until each has ended.
pub(super) fn drive<D: Driven>(members: &mut [D]) -> Result<()> {
    let mut waiting = Waiting::new(members)?;
    let mut open = members.len();
    let mut due: Vec<usize> = (0..members.len()).collect();
    while open > 0 {
        for index in due.drain(..) {
            if waiting.nexts[index] == Next::End {
                continue;
            }
            let next = members[index].turn()?;
            open -= usize::from(next == Next::End);
            waiting.note(members[index].stream(), index, next)?;
        }
        waiting.next_due(&mut due)?;
    }
    Ok(())
}

/// What the connections wait for.
struct Waiting {
    epoll: std::os::fd::OwnedFd,
    nexts: Vec<Next>,
    /// Connections whose last answer was [`Next::Turn`] or [`Next::Time`], with the time.
    timed: Vec<(usize, Instant)>,
    events: Vec<epoll::Event>,
    last_tick: Instant,
}

impl Waiting {
    fn new<D: Driven>(members: &[D]) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?;
        for (index, member) in members.iter().enumerate() {
            epoll::add(&epoll, member.stream(), data(index), epoll::EventFlags::IN).context("epoll")?;
        }
        Ok(Self {
            epoll,
            nexts: vec![Next::Read; members.len()],
            timed: Vec::new(),
            events: Vec::with_capacity(EVENTS_MAX),
            last_tick: Instant::now(),
        })
    }

    fn note(&mut self, stream: &TcpStream, index: usize, next: Next) -> Result<()> {
        let before = std::mem::replace(&mut self.nexts[index], next);
        match next {
            Next::Turn => self.timed.push((index, self.last_tick)),
            Next::Time(time) => self.timed.push((index, Instant::now() + time)),
            Next::End => epoll::delete(&self.epoll, stream).context("epoll")?,
            Next::Read | Next::Write => {}
        }
        if next != Next::End && (before == Next::Write) != (next == Next::Write) {
            let out = if next == Next::Write { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
            epoll::modify(&self.epoll, stream, data(index), epoll::EventFlags::IN | out).context("epoll")?;
        }
        Ok(())
    }

    /// Waits, at most a [`TICK`], and lists who is to have a turn.
    fn next_due(&mut self, due: &mut Vec<usize>) -> Result<()> {
        let mut wait = TICK;
        if let Some(first) = self.timed.iter().map(|(_, at)| *at).min() {
            wait = wait.min(first.saturating_duration_since(Instant::now()));
        }
        let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        self.events.clear();
        let spare = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, spare, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll"),
        }
        due.extend(self.events.iter().map(|event| event.data.u64() as usize));
        if self.timed.is_empty() && !due.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        let ready = due.len();
        self.timed.retain(|&(index, at)| {
            let waits = at > now && !due[..ready].contains(&index);
            if !waits && !due[..ready].contains(&index) {
                due.push(index);
            }
            waits
        });
        if now - self.last_tick >= TICK {
            self.last_tick = now;
            due.clear();
            due.extend(0..self.nexts.len());
            self.timed.clear();
        }
        Ok(())
    }
}

fn data(index: usize) -> epoll::EventData {
    epoll::EventData::new_u64(index as u64)
}

/// How many of `members` each thread drives: as many threads as there are cores, at most one per member.
pub(super) fn shares(members: usize) -> impl Iterator<Item = usize> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(members.max(1));
    (0..threads).map(move |thread| members / threads + usize::from(thread < members % threads))
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Sends what it is given and counts what comes until so much has come.
    struct Echoed {
        stream: TcpStream,
        to_send: usize,
        to_come: usize,
        pauses: u32,
    }

    impl Driven for Echoed {
        fn stream(&self) -> &TcpStream {
            &self.stream
        }

        fn turn(&mut self) -> Result<Next> {
            if self.pauses > 0 {
                self.pauses -= 1;
                return Ok(if self.pauses.is_multiple_of(2) {
                    Next::Turn
                } else {
                    Next::Time(Duration::from_millis(1))
                });
            }
            let mut buffer = [0; 1 << 16];
            match (&self.stream).read(&mut buffer) {
                Ok(n) => self.to_come -= n,
                Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
            }
            while self.to_send > 0 {
                match (&self.stream).write(&buffer[..self.to_send.min(1 << 16)]) {
                    Ok(n) => self.to_send -= n,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(Next::Write),
                    Err(e) => return Err(e.into()),
                }
            }
            Ok(if self.to_come == 0 { Next::End } else { Next::Read })
        }
    }

    #[test]
    fn everybody_gets_on_with_what_comes_and_what_fits() {
        const BYTES: usize = 4 << 20;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let echo = std::thread::spawn(move || {
            let serve =
                |stream: TcpStream| std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            let served: Vec<_> = (0..5).map(|_| serve(listener.accept().unwrap().0)).collect();
            served.into_iter().map(|thread| thread.join().unwrap().unwrap()).sum::<u64>()
        });
        let member = |pauses| {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_nonblocking(true).unwrap();
            Echoed { stream, to_send: BYTES, to_come: BYTES, pauses }
        };
        let mut members: Vec<Echoed> = (0..5).map(member).collect();
        drive(&mut members).unwrap();
        drop(members);
        assert_eq!(echo.join().unwrap(), 5 * BYTES as u64);
    }

    #[test]
    fn shares_cover_everybody() {
        for members in [1, 2, 3, 64, 101] {
            assert_eq!(shares(members).sum::<usize>(), members);
            assert!(shares(members).all(|share| share > 0));
        }
    }
}
