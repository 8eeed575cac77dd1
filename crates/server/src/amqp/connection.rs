//! The task of one connection: reads, steps the session, writes. Nothing else touches the socket.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use posthouse_amqp::frame;
use posthouse_amqp::method::Method;
use posthouse_auth::authorities::{Identity, Refusal};
use posthouse_node::broker::Broker;
use posthouse_node::clock::now_ms;
use posthouse_node::connections::{ConnectionInfo, StateCell};
use posthouse_node::waker::{Inbox, SessionWaker};
use rustix::io::ioctl_fionread;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::events;
use super::handshake::{Handshake, LoginAttempt, Opened, Step, write_close};
use super::heartbeat::{Beat, Ear, Heartbeat};
use super::io::Io;
use super::outbox::Outbox;
use super::pause::Pause;
use super::session::{Failure, Peer, Progress, Session};
use crate::listen::Shared;

/// How long a peer is waited for after an error, and for `connection.close-ok`.
const CLOSE_WAIT: Duration = Duration::from_secs(3);

/// A connection that is woken again this soon lets others run first. Waiting costs a lone message more than it saves.
const BUSY_INTERVAL: Duration = Duration::from_micros(600);

/// Checked for memory to give back when heartbeats are off.
const QUIET_PERIOD: Duration = Duration::from_secs(30);

/// Passwords verified at a time: each takes 19 MiB and a core, and asking costs a stranger nothing.
static VERIFYING: Semaphore = Semaphore::const_new(8);

/// Serves a connection until it ends.
pub(crate) async fn serve(socket: TcpStream, peer: SocketAddr, local: SocketAddr, shared: Arc<Shared>) {
    let name = format!("{peer} -> {local}");
    let mut io = Io::new(socket);
    // Boxed, so that what it needs is not kept for the life of the connection.
    let opening = Box::pin(timeout(shared.settings.handshake_timeout, open(&mut io, &name, peer, &shared)));
    let opened = tokio::select! {
        opened = opening => opened,
        () = shared.stop_began() => {
            debug!(%name, "closed while it was opened: the broker stops");
            return;
        }
    };
    match opened {
        Ok(Ok(Some(opened))) => run(io, name, *opened, &shared).await,
        Ok(Ok(None)) => {}
        Ok(Err(error)) => debug!(%name, %error, "connection lost while it was opened"),
        Err(_) => info!(%name, "closed: expected it to be opened within the handshake timeout"),
    }
}

/// Opens the connection; `None` when it was refused.
async fn open(io: &mut Io, name: &str, peer: SocketAddr, shared: &Shared) -> io::Result<Option<Box<Opened>>> {
    let mut handshake = Handshake::new(shared.broker.clone(), &shared.settings);
    loop {
        let (bytes, mut step) = handshake.input(&io.input, &mut io.out.bytes);
        io.consume(bytes);
        if let Step::Login(attempt) = step {
            let mechanism = attempt.mechanism.clone();
            let outcome = log_in(&shared.broker, attempt, peer.ip().is_loopback()).await;
            events::login(&shared.broker, name, &mechanism, outcome.as_deref());
            step = match outcome {
                Ok(identity) => {
                    handshake.logged_in(identity, &mut io.out.bytes);
                    Step::More
                }
                Err(refusal) => handshake.refused(&refusal, &mut io.out.bytes),
            };
        }
        io.write_all().await?;
        match step {
            Step::More if bytes > 0 => {}
            Step::More | Step::Login(_) => {
                io.socket.readable().await?;
                if io.try_read()? == Some(0) {
                    return Ok(None);
                }
            }
            Step::Open(opened) => return Ok(Some(opened)),
            Step::Close { reason, after_error } => {
                info!(%peer, %reason, "connection refused");
                if after_error {
                    discard_input(io).await;
                }
                return Ok(None);
            }
        }
    }
}

async fn log_in(
    broker: &Arc<Broker>,
    attempt: LoginAttempt,
    loopback: bool,
) -> Result<Arc<Identity>, Refusal> {
    let authorities = broker.authorities();
    let LoginAttempt { mechanism, response } = attempt;
    if let Some(known) = authorities.authenticate_cached(&mechanism, &response, loopback) {
        return known;
    }
    let authorities = authorities.clone();
    let name = mechanism.clone();
    // Never closed, so never an error. The turn ends with the work, which goes on when nobody waits for it any more.
    let turn = VERIFYING.acquire().await;
    let checked = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        authorities.authenticate(&mechanism, &response, loopback)
    })
    .await;
    // The check does not panic; if it did, nobody is let in.
    checked.unwrap_or(Err(Refusal::UnknownMechanism(name)))
}

/// Reads and drops input until the peer closes or [`CLOSE_WAIT`] has passed.
async fn discard_input(io: &mut Io) {
    let gone = async {
        loop {
            io.input.clear();
            if io.socket.readable().await.is_err() || matches!(io.try_read(), Ok(Some(0)) | Err(_)) {
                return;
            }
        }
    };
    // Running out of time is as good an end as the peer's closing.
    let _ = timeout(CLOSE_WAIT, gone).await;
}

async fn run(mut io: Io, name: String, opened: Opened, shared: &Shared) {
    let Opened { identity, access, vhost, place, tune, traits, client_properties } = opened;
    let broker = &shared.broker;
    let waker = Arc::new(SessionWaker::default());
    let info = Arc::new(ConnectionInfo {
        id: broker.connections().next_id(),
        name,
        protocol: "AMQP 0-9-1",
        user: identity.user.to_string(),
        vhost: vhost.name().to_string(),
        client_properties,
        connected_at_ms: now_ms(),
        channels: 0.into(),
        state: StateCell::default(),
        used_up: Default::default(),
        waker: waker.clone(),
    });
    broker.connections().add(info.clone());
    if let Err(why) = vhost.check_not_deleted() {
        // It was when this connection was not yet on the list of those to close.
        waker.close(why);
    }
    if shared.is_stopping() {
        waker.close(posthouse_model::errors::broker_shutdown());
    }
    let peer = Peer {
        identity,
        vhost,
        channel_max: tune.channel_max,
        frame_max: tune.frame_max,
        consumer_cancel_notify: traits.consumer_cancel_notify,
        connection_blocked: traits.connection_blocked,
        qos_of_specification: traits.qos_of_specification,
        info: info.clone(),
        place,
    };
    let mut session = Session::new(broker.clone(), peer, access, waker);
    session.tell_connection_created(tune.heartbeat);
    std::mem::swap(&mut session.out, &mut io.out);
    let outcome = drive(&mut io, &mut session, Heartbeat::new(tune.heartbeat)).await;
    if !matches!(outcome, Err(End::Lost(_))) {
        // Out of time, the peer is not told what may not be kept.
        if timeout(CLOSE_WAIT, pass_gate(&mut session)).await.is_err() {
            session.out = Outbox::default();
        }
    }
    std::mem::swap(&mut session.out, &mut io.out);
    drop(session);
    events::connection_closed(broker, &info);
    match outcome {
        Ok(()) => {
            // What is left, `connection.close-ok` last, is written as far as the peer takes it.
            let _ = timeout(CLOSE_WAIT, io.write_all()).await;
        }
        Err(End::Failed(failure)) => {
            warn!(name = %info.name, error = %failure.error, "connection closed");
            write_close(&mut io.out.bytes, &failure);
            if matches!(timeout(CLOSE_WAIT, io.write_all()).await, Ok(Ok(()))) {
                wait_for_close_ok(&mut io, tune.frame_max).await;
            }
        }
        Err(End::Lost(error)) => debug!(name = %info.name, %error, "connection lost"),
    }
}

/// Waits until everything encoded may be written.
async fn pass_gate(session: &mut Session) {
    while !session.may_write() {
        session.waker.notified().await;
    }
}

/// Reads until `connection.close-ok` comes, the peer closes, or [`CLOSE_WAIT`] has passed.
async fn wait_for_close_ok(io: &mut Io, frame_max: u32) {
    let max_payload = frame_max as usize - frame::OVERHEAD_BYTES;
    let closed = async {
        loop {
            let mut at = 0;
            while let Ok(Some((frame, bytes))) = frame::next_frame(&io.input[at..], max_payload) {
                at += bytes;
                let method = Method::decode(frame.payload);
                if matches!(method, Ok(Method::ConnectionCloseOk {} | Method::ConnectionClose { .. })) {
                    return;
                }
            }
            // What follows an error need not be frames: it is bounded by dropping what cannot be one.
            let drop = if at == 0 && io.input.len() > frame_max as usize { io.input.len() } else { at };
            io.consume(drop);
            if io.socket.readable().await.is_err() || matches!(io.try_read(), Ok(Some(0)) | Err(_)) {
                return;
            }
        }
    };
    // Running out of time is as good an end as the answer.
    let _ = timeout(CLOSE_WAIT, closed).await;
}

/// Why a connection ended without being closed in good order.
enum End {
    Failed(Failure),
    Lost(io::Error),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

/// The loop of an open connection: read much, step, write once.
async fn drive(io: &mut Io, session: &mut Session, mut heartbeat: Heartbeat) -> Result<(), End> {
    let period = heartbeat.period().unwrap_or(QUIET_PERIOD);
    let mut beat = pin!(sleep(period));
    let mut next_beat = Instant::now() + period;
    let mut inbox = Inbox::default();
    let mut notified_at = Instant::now();
    let mut pause = Pause::default();
    loop {
        if !pause.is_on() && !session.refuses_input() {
            take_in(io, session, &mut heartbeat)?;
        }
        session.end_batch();
        pause.look(session);
        if pause.is_throttled() {
            io.read_little();
        }
        let written = flush(io, session, &mut heartbeat)?;
        if session.progress() == Progress::Closed {
            return Ok(());
        }
        if !written {
            session.suspend_consumers();
        }
        let reads = !pause.is_on() && !session.refuses_input();
        if reads && io.may_have_more {
            tokio::task::yield_now().await;
            if session.waker.has_mail() {
                session.on_inbox(&mut inbox)?;
            }
            // A busy connection never waits below, where time is looked at otherwise.
            if Instant::now() >= next_beat {
                next_beat = Instant::now() + period;
                on_beat(io, session, &mut heartbeat, reads)?;
            }
            continue;
        }
        io.rest();
        session.out.rest();
        let writes = !written && !session.out.is_empty() && session.may_write();
        tokio::select! {
            biased;
            () = session.waker.notified() => {
                // In busy times whoever else is about to run has more for this connection: it is served once for all.
                let now = Instant::now();
                if now.duration_since(notified_at) < BUSY_INTERVAL {
                    tokio::task::yield_now().await;
                }
                notified_at = now;
                session.on_inbox(&mut inbox)?;
                if inbox.room {
                    session.publisher.relieve();
                    pause.look_again(session);
                }
            }
            ready = io.socket.ready(interest(reads, writes)) => {
                let ready = ready?;
                io.may_have_more |= ready.is_readable();
                if !reads && ready.is_error() {
                    return Err(io::Error::from(io::ErrorKind::ConnectionReset).into());
                }
            }
            () = pause.over(), if pause.is_on() => {
                pause.look_again(session);
                // Readiness was not waited for meanwhile: while the log stays congested it never would be.
                io.may_have_more = true;
            }
            () = &mut beat => {
                next_beat = Instant::now() + period;
                beat.as_mut().reset(next_beat);
                on_beat(io, session, &mut heartbeat, reads)?;
            }
        }
    }
}

/// What of a socket is waited for.
fn interest(reads: bool, writes: bool) -> Interest {
    // A peer that is not read from must still be noticed when it hangs up.
    match (reads, writes) {
        (true, true) => Interest::READABLE | Interest::WRITABLE,
        (true, false) => Interest::READABLE,
        (false, true) => Interest::WRITABLE | Interest::ERROR,
        (false, false) => Interest::ERROR,
    }
}

/// Processes what the socket has.
fn take_in(io: &mut Io, session: &mut Session, heartbeat: &mut Heartbeat) -> Result<(), End> {
    // What was held back while input was refused comes first.
    step(io, session)?;
    if !io.may_have_more || session.refuses_input() {
        return Ok(());
    }
    match io.try_read()? {
        Some(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        Some(_) => {
            heartbeat.received();
            step(io, session)?;
        }
        None => {}
    }
    Ok(())
}

fn step(io: &mut Io, session: &mut Session) -> Result<(), End> {
    if io.input.is_empty() {
        return Ok(());
    }
    let bytes = session.input(&io.input, now_ms())?;
    io.consume(bytes);
    Ok(())
}

/// Writes what may be written; whether nothing is left.
fn flush(io: &mut Io, session: &mut Session, heartbeat: &mut Heartbeat) -> Result<bool, End> {
    if session.out.is_empty() {
        return Ok(true);
    }
    if !session.may_write() {
        return Ok(false);
    }
    heartbeat.sent();
    loop {
        let before = session.out.pending();
        let written = session.out.write_to(&io.socket)?;
        if io.is_write_blocked && session.out.pending() < before {
            // The peer has made room for it.
            heartbeat.taken();
        }
        io.is_write_blocked = !written;
        if !written {
            return Ok(false);
        }
        if !session.consumers.any_in_line() {
            return Ok(true);
        }
        // There is room again: those in line are served before anything new is read, up to a socket's worth.
        session.deliver();
        if session.out.is_empty() {
            return Ok(true);
        }
        if session.refuses_input() {
            return Ok(false);
        }
    }
}

fn on_beat(io: &mut Io, session: &mut Session, heartbeat: &mut Heartbeat, reads: bool) -> Result<(), End> {
    io.shrink();
    session.out.shrink();
    if session.blocked && io.hung_up() {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    if heartbeat.period().is_none() {
        return Ok(());
    }
    let ear = match reads {
        true => Ear::Open,
        false if io.is_write_blocked && session.may_write() => {
            Ear::Full { unread: ioctl_fionread(&io.socket).map_err(io::Error::from)? as usize }
        }
        false => Ear::Shut,
    };
    match heartbeat.tick(ear) {
        Beat::Rest => {}
        Beat::Send => session.out.bytes.extend_from_slice(&frame::HEARTBEAT),
        Beat::PeerGone => {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no sign of life from the peer").into());
        }
    }
    Ok(())
}
