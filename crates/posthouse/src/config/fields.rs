//! The table of settings: name, meaning, how it is read, how it is shown.

use std::net::SocketAddr;
use std::time::Duration;

use posthouse_node::start::UndefinedQueues;

use super::settings::{Settings, Storage};
use super::units::{Given, Share, show_duration, show_size};

/// One setting.
pub(super) struct Field {
    /// Table of the configuration file.
    pub(super) section: &'static str,
    /// Key in that table.
    pub(super) key: &'static str,
    /// One sentence for `posthouse config`.
    pub(super) doc: &'static str,
    /// Whether its value must not be printed.
    pub(super) secret: bool,
    /// Takes the value over, or says what was expected.
    pub(super) set: fn(&mut Settings, &Given) -> Result<(), String>,
    /// The value as TOML.
    pub(super) show: fn(&Settings) -> String,
}

impl Field {
    /// `section.key`
    pub(super) fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }
}

/// Makes a [`Field`]: the assignment's target is what is shown, so the two cannot differ.
macro_rules! field {
    ($section:ident . $key:ident, $doc:literal, |$given:ident| $parse:expr, |$value:ident| $show:expr) => {
        field!($section.$key, $doc, false, |$given| $parse, |$value| $show)
    };
    ($section:ident . $key:ident, $doc:literal, $secret:literal, |$given:ident| $parse:expr, |$value:ident| $show:expr) => {
        Field {
            section: stringify!($section),
            key: stringify!($key),
            doc: $doc,
            secret: $secret,
            set: |settings, $given| {
                settings.$section.$key = $parse?;
                Ok(())
            },
            show: |settings| {
                let $value = &settings.$section.$key;
                $show
            },
        }
    };
}

/// All settings, in the order they are printed; fields of one section stand together.
pub(super) const FIELDS: &[Field] = &[
    field!(
        server.data_dir,
        "everything that survives a restart",
        |g| filled(g, "a directory").map(Into::into),
        |v| quoted(&v.to_string_lossy())
    ),
    field!(server.storage, "\"log\" or \"memory\"", |g| storage(g), |v| quoted(storage_name(*v))),
    field!(
        server.control_socket,
        "Unix socket of posthouse ctl, \"default\" for the one in data_dir",
        |g| filled(g, "a path or \"default\"").map(|path| (path != "default").then(|| path.into())),
        |v| quoted(&v.as_deref().map_or("default".into(), |path| path.to_string_lossy()))
    ),
    field!(
        server.undefined_queues,
        "\"refuse\" to start or \"discard\" messages of queues that meta.redb does not define",
        |g| undefined_queues(g),
        |v| quoted(undefined_queues_name(*v))
    ),
    field!(
        server.event_exchange,
        "virtual host with the exchange amq.rabbitmq.event, \"none\" for no events",
        |g| filled(g, "a virtual host or \"none\"").map(|name| Some(name).filter(|name| name != "none")),
        |v| quoted(v.as_deref().unwrap_or("none"))
    ),
    field!(
        server.load_definitions,
        "file of definitions that every start imports, \"none\" for none",
        |g| filled(g, "a path or \"none\"").map(|path| (path != "none").then(|| path.into())),
        |v| quoted(&v.as_deref().map_or("none".into(), |path| path.to_string_lossy()))
    ),
    field!(amqp.listeners, "addresses to listen on", |g| listeners(g), |v| list(
        v.iter().map(SocketAddr::to_string)
    )),
    field!(amqp.frame_max, "bytes, largest frame offered", |g| small(g, 4_096, 16 << 20), |v| v.to_string()),
    field!(amqp.channel_max, "channels of a connection", |g| small(g, 1, 65_535), |v| v.to_string()),
    field!(amqp.heartbeat, "offered interval, whole seconds, 0s for none", |g| heartbeat(g), |v| duration(
        *v
    )),
    field!(
        amqp.handshake_timeout,
        "from accept to an open connection",
        |g| g.duration(Duration::from_millis(100)..=Duration::from_secs(600)),
        |v| duration(*v)
    ),
    field!(amqp.max_message_size, "largest message body", |g| g.size(1..=512 << 20), |v| size(*v)),
    field!(amqp.max_connections, "on all listeners together", |g| small(g, 1, 10_000_000), |v| v.to_string()),
    field!(amqp.max_consumers_per_channel, "then 530", |g| small(g, 1, 10_000_000), |v| v.to_string()),
    field!(amqp.product, "name in the server properties", |g| filled(g, "a name"), |v| quoted(v)),
    field!(memory.budget, "message bytes kept in RAM", |g| Share::parse(g), |v| quoted(&v.to_string())),
    field!(memory.watermark, "memory use that blocks publishers", |g| Share::parse(g), |v| quoted(
        &v.to_string()
    )),
    field!(disk.free_limit, "free disk space that blocks publishers", |g| g.size(0..=1 << 50), |v| size(*v)),
    field!(log.file_size, "one log file", |g| log_file_size(g), |v| size(*v)),
    field!(log.files, "log files kept and reused", |g| small(g, 4, LOG_FILES_MAX), |v| v.to_string()),
    field!(
        auth.loopback_users,
        "users who may connect from this machine only",
        |g| Ok::<_, String>(g.list().into_iter().map(str::to_owned).collect()),
        |v| list(v.iter())
    ),
    field!(
        auth.anonymous_user,
        "whom ANONYMOUS logs in as, \"none\" to refuse it",
        |g| filled(g, "a user name or \"none\"").map(|name| Some(name).filter(|name| name != "none")),
        |v| quoted(v.as_deref().unwrap_or("none"))
    ),
    field!(auth.default_user, "created in an empty user database", |g| filled(g, "a user name"), |v| quoted(
        v
    )),
    field!(auth.default_pass, "its password", true, |g| filled(g, "a password"), |v| quoted(v)),
    field!(logging.filter, "what to log", |g| filter(g), |v| quoted(v)),
];

fn filled(given: &Given, expected: &str) -> Result<String, String> {
    Ok(given.text(expected)?.to_owned())
        .and_then(|t| if t.is_empty() { Err(expected.to_owned()) } else { Ok(t) })
}

fn storage(given: &Given) -> Result<Storage, String> {
    const EXPECTED: &str = "\"log\" or \"memory\"";
    match given.text(EXPECTED)? {
        "log" => Ok(Storage::Log),
        "memory" => Ok(Storage::Memory),
        _ => Err(EXPECTED.to_owned()),
    }
}

fn undefined_queues(given: &Given) -> Result<UndefinedQueues, String> {
    const EXPECTED: &str = "\"refuse\" or \"discard\"";
    match given.text(EXPECTED)? {
        "refuse" => Ok(UndefinedQueues::Refuse),
        "discard" => Ok(UndefinedQueues::Discard),
        _ => Err(EXPECTED.to_owned()),
    }
}

fn undefined_queues_name(policy: UndefinedQueues) -> &'static str {
    match policy {
        UndefinedQueues::Refuse => "refuse",
        UndefinedQueues::Discard => "discard",
    }
}

fn storage_name(storage: Storage) -> &'static str {
    match storage {
        Storage::Log => "log",
        Storage::Memory => "memory",
    }
}

fn listeners(given: &Given) -> Result<Vec<SocketAddr>, String> {
    let expected = || "IP:PORT like \"127.0.0.1:5672\" or \"[::]:5672\"".to_owned();
    let parsed: Result<Vec<_>, _> = given.list().into_iter().map(str::parse).collect();
    parsed.ok().filter(|listeners| !listeners.is_empty()).ok_or_else(expected)
}

fn small<T: TryFrom<u64>>(given: &Given, low: u64, high: u64) -> Result<T, String> {
    T::try_from(given.integer(low..=high)?).map_err(|_| format!("a whole number from {low} to {high}"))
}

fn heartbeat(given: &Given) -> Result<Duration, String> {
    let duration = given.duration(Duration::ZERO..=Duration::from_secs(65_535))?;
    if duration.subsec_millis() == 0 { Ok(duration) } else { Err("whole seconds, like \"60s\"".to_owned()) }
}

/// Writes to the log are aligned to this, and so must the ends of its files be.
const LOG_ALIGN: u64 = 4_096;

/// The log pauses publishing at one file more.
const LOG_FILES_MAX: u64 = 63;

fn log_file_size(given: &Given) -> Result<u64, String> {
    let bytes = given.size(1 << 20..=2 << 30)?;
    if bytes.is_multiple_of(LOG_ALIGN) {
        Ok(bytes)
    } else {
        Err(format!("a multiple of {}, like \"64MiB\"", show_size(LOG_ALIGN)))
    }
}

fn filter(given: &Given) -> Result<String, String> {
    const EXPECTED: &str = "log directives like \"info\" or \"warn,posthouse_node=debug\"";
    let text = filled(given, EXPECTED)?;
    match text.parse::<tracing_subscriber::EnvFilter>() {
        Ok(_) => Ok(text),
        Err(_) => Err(EXPECTED.to_owned()),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn size(bytes: u64) -> String {
    quoted(&show_size(bytes))
}

fn duration(duration: Duration) -> String {
    quoted(&show_duration(duration))
}

fn list(items: impl Iterator<Item = impl AsRef<str>>) -> String {
    let items: Vec<String> = items.map(|item| quoted(item.as_ref())).collect();
    format!("[{}]", items.join(", "))
}
