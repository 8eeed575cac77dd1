//! The settings, typed, and their defaults.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use posthouse_node::start::UndefinedQueues;

use super::system::Machine;
use super::units::Share;

/// Everything the broker can be told at start.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Settings {
    /// `[server]`
    pub(crate) server: Server,
    /// `[amqp]`
    pub(crate) amqp: Amqp,
    /// `[memory]`
    pub(crate) memory: Memory,
    /// `[disk]`
    pub(crate) disk: Disk,
    /// `[log]`
    pub(crate) log: Log,
    /// `[auth]`
    pub(crate) auth: Auth,
    /// `[logging]`
    pub(crate) logging: Logging,
}

/// Where durable state goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Storage {
    /// A write-ahead log and segments in the data directory.
    Log,
    /// Nowhere: no file is opened, everything is gone after a restart.
    Memory,
}

/// `[server]`
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Server {
    /// Holds everything that survives a restart. Relative to the working directory.
    pub(crate) data_dir: PathBuf,
    /// Kind of store.
    pub(crate) storage: Storage,
    /// Unix socket of `posthouse ctl`; `None` for the one in the data directory, if there is one.
    pub(crate) control_socket: Option<PathBuf>,
    /// What becomes of messages of queues that are not defined.
    pub(crate) undefined_queues: UndefinedQueues,
    /// File of definitions that every start imports; `None` for none.
    pub(crate) load_definitions: Option<PathBuf>,
    /// Virtual host of the exchange that tells what happens; `None` for none.
    pub(crate) event_exchange: Option<String>,
}

impl Server {
    /// Where the control socket is; none when everything is in memory and no path is set.
    pub(crate) fn control_path(&self) -> Option<PathBuf> {
        match (&self.control_socket, self.storage) {
            (Some(path), _) => Some(path.clone()),
            (None, Storage::Log) => Some(self.data_dir.join(posthouse_server::control::FILE_NAME)),
            (None, Storage::Memory) => None,
        }
    }
}

/// `[amqp]`
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Amqp {
    /// At least one.
    pub(crate) listeners: Vec<SocketAddr>,
    /// Largest frame offered to clients, bytes.
    pub(crate) frame_max: u32,
    /// Channels of one connection.
    pub(crate) channel_max: u16,
    /// Offered to clients, whole seconds, zero for none.
    pub(crate) heartbeat: Duration,
    /// From accept to `connection.open-ok`.
    pub(crate) handshake_timeout: Duration,
    /// Largest message body, bytes.
    pub(crate) max_message_size: u64,
    /// All listeners together.
    pub(crate) max_connections: u32,
    /// Consumers of one channel.
    pub(crate) max_consumers_per_channel: u32,
    /// `product` in the server properties.
    pub(crate) product: String,
}

/// `[memory]`
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Memory {
    /// Bytes of memory the shares below refer to.
    pub(crate) total: u64,
    /// Message bytes kept in RAM.
    pub(crate) budget: Share,
    /// Memory of messages in queues that blocks publishers.
    pub(crate) watermark: Share,
}

impl Memory {
    /// Message bytes kept in RAM before copies that are also on disk are dropped.
    pub(crate) fn budget_bytes(&self) -> u64 {
        self.budget.of(self.total)
    }

    /// Bytes of messages in queues from which publishers are blocked.
    pub(crate) fn watermark_bytes(&self) -> u64 {
        self.watermark.of(self.total)
    }
}

/// `[disk]`
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Disk {
    /// Free bytes on the data directory's file system below which publishers are blocked.
    pub(crate) free_limit: u64,
}

/// `[log]`
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Log {
    /// Bytes of one log file.
    pub(crate) file_size: u64,
    /// Log files kept and reused.
    pub(crate) files: u16,
}

/// `[auth]`
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Auth {
    /// Users who may connect from this machine only.
    pub(crate) loopback_users: Vec<String>,
    /// Whom mechanism ANONYMOUS logs in as; `None` turns it off.
    pub(crate) anonymous_user: Option<String>,
    /// Created when the user database is empty.
    pub(crate) default_user: String,
    /// Password of that user.
    pub(crate) default_pass: String,
}

/// `[logging]`
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Logging {
    /// Directives as `tracing_subscriber::EnvFilter` reads them; checked.
    pub(crate) filter: String,
}

impl Settings {
    /// The defaults on such a machine.
    pub(crate) fn new(machine: Machine) -> Self {
        Self {
            server: Server {
                data_dir: "posthouse-data".into(),
                storage: Storage::Log,
                control_socket: None,
                undefined_queues: UndefinedQueues::default(),
                load_definitions: None,
                event_exchange: None,
            },
            amqp: Amqp {
                listeners: vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5672)],
                frame_max: 131_072,
                channel_max: 2_047,
                heartbeat: Duration::from_secs(60),
                handshake_timeout: Duration::from_secs(10),
                max_message_size: 16 << 20,
                max_connections: 65_536,
                max_consumers_per_channel: 65_536,
                product: "Posthouse".into(),
            },
            memory: Memory {
                total: machine.memory,
                budget: Share::Percent(40),
                watermark: Share::Percent(60),
            },
            disk: Disk { free_limit: 50_000_000 },
            log: Log { file_size: 64 << 20, files: 8 },
            auth: Auth {
                loopback_users: vec!["guest".into()],
                anonymous_user: Some("guest".into()),
                default_user: "guest".into(),
                default_pass: "guest".into(),
            },
            logging: Logging { filter: "info".into() },
        }
    }
}
