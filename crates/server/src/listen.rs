//! Accepting connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use posthouse_amqp::tune::Tune;
use posthouse_model::errors;
use posthouse_node::broker::Broker;
use posthouse_node::clock;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tracing::{error, warn};

use crate::amqp;
use crate::tally::Tally;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// How AMQP is spoken.
#[derive(Clone, Debug)]
pub struct AmqpSettings {
    /// Limits proposed to clients.
    pub tune: Tune,
    /// From accept to `connection.open-ok`.
    pub handshake_timeout: Duration,
    /// `product` in the server properties.
    pub product: String,
    /// Sockets on all listeners together, those being opened included; more are closed unheard.
    pub max_sockets: usize,
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) broker: Arc<Broker>,
    pub(crate) settings: AmqpSettings,
    stopping: AtomicBool,
    stop_began: Notify,
    open: AtomicUsize,
    all_closed: Notify,
    turned_away: Tally,
    not_accepted: Tally,
}

impl Shared {
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Waits until the server stops.
    pub(crate) async fn stop_began(&self) {
        let notified = self.stop_began.notified();
        if !self.is_stopping() {
            notified.await;
        }
    }
}

/// Listeners and the connections they accepted.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Server {
    /// A server without listeners.
    pub fn new(broker: Arc<Broker>, settings: AmqpSettings) -> Self {
        let shared = Shared {
            broker,
            settings,
            stopping: AtomicBool::new(false),
            stop_began: Notify::new(),
            open: AtomicUsize::new(0),
            all_closed: Notify::new(),
            turned_away: Tally::default(),
            not_accepted: Tally::default(),
        };
        Self { shared: Arc::new(shared), tasks: Vec::new() }
    }

    /// Listens on an address; the address it got.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn listen(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        let socket = if address.is_ipv4() {
            tokio::net::TcpSocket::new_v4()?
        } else {
            tokio::net::TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let local = listener.local_addr()?;
        self.tasks.push(tokio::spawn(accept(listener, local, self.shared.clone())));
        Ok(local)
    }

    /// Stops accepting, closes every connection with 320 and waits until they are gone, `patience` at most.
    pub async fn stop(self, patience: Duration) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.stop_began.notify_waiters();
        for task in &self.tasks {
            task.abort();
        }
        self.shared.broker.connections().close(|_| true, &errors::broker_shutdown());
        let all_closed = async {
            loop {
                let notified = self.shared.all_closed.notified();
                if self.shared.open.load(Ordering::Acquire) == 0 {
                    return;
                }
                notified.await;
            }
        };
        if tokio::time::timeout(patience, all_closed).await.is_err() {
            warn!(open = self.shared.open.load(Ordering::Acquire), "connections did not close in time");
        }
    }
}

async fn accept(listener: TcpListener, local: SocketAddr, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => start(socket, peer, local, &shared),
            Err(problem) => {
                // Out of file descriptors or memory: what is open may end and make room.
                if let Some(times) = shared.not_accepted.count(clock::now_ms()) {
                    error!(%problem, times, "cannot accept a connection");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn start(socket: TcpStream, peer: SocketAddr, local: SocketAddr, shared: &Arc<Shared>) {
    let limit = shared.settings.max_sockets;
    if shared.open.load(Ordering::Relaxed) >= limit {
        if let Some(times) = shared.turned_away.count(clock::now_ms()) {
            warn!(%peer, times, limit, "turned away: too many sockets are open");
        }
        return;
    }
    // Without it small messages wait for acknowledgements; the connection works all the same.
    let _ = socket.set_nodelay(true);
    shared.open.fetch_add(1, Ordering::AcqRel);
    let count = OpenCount(shared.clone());
    let shared = shared.clone();
    tokio::spawn(async move {
        let _count = count;
        amqp::connection::serve(socket, peer, local, shared).await;
    });
}

/// Counts a socket as open until it is dropped, a panic of its task included.
struct OpenCount(Arc<Shared>);

impl Drop for OpenCount {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.all_closed.notify_waiters();
        }
    }
}
