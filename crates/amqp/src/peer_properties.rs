//! What server and client say of themselves in `connection.start` and `connection.start-ok`.

use posthouse_model::field::{FieldTable, FieldValue};

/// The RabbitMQ version whose behaviour is followed. It is sent as `version`, because clients compare that to decide
/// what a server can do; our own version goes beside it as `posthouse_version`.
pub const COMPATIBLE_VERSION: &str = "4.3.0";

/// What the server can do beyond the specification; RabbitMQ's list.
const SERVER_CAPABILITIES: [&str; 9] = [
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
];

/// What our client role asks for.
const CLIENT_CAPABILITIES: [&str; 6] = [
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "authentication_failure_close",
];

/// The server's properties. `version` is the broker's own.
pub fn server_properties(cluster_name: &str, version: &str) -> FieldTable {
    let text = |key: &str, value: &str| (key.to_owned(), FieldValue::string(value));
    FieldTable(vec![
        ("capabilities".into(), capabilities(&SERVER_CAPABILITIES)),
        text("cluster_name", cluster_name),
        text("copyright", "Copyright (c) the Posthouse authors"),
        text("information", "Licensed under the Apache License 2.0"),
        text("platform", "Rust"),
        text("product", "Posthouse"),
        text("version", COMPATIBLE_VERSION),
        text("posthouse_version", version),
    ])
}

/// The properties our client role sends. `connection_name` is what the server shows the connection as.
pub fn client_properties(connection_name: &str, version: &str) -> FieldTable {
    let text = |key: &str, value: &str| (key.to_owned(), FieldValue::string(value));
    FieldTable(vec![
        ("capabilities".into(), capabilities(&CLIENT_CAPABILITIES)),
        text("product", "Posthouse"),
        text("version", version),
        text("platform", "Rust"),
        text("connection_name", connection_name),
    ])
}

/// What of a client's properties changes how it is served.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClientTraits {
    /// Wants `connection.blocked` and `connection.unblocked`.
    pub connection_blocked: bool,
    /// Wants `basic.cancel` when its consumer ends.
    pub consumer_cancel_notify: bool,
    /// Wants `connection.close` when its login is refused.
    pub authentication_failure_close: bool,
    /// Understands `basic.nack` as a negative confirm.
    pub basic_nack: bool,
    /// Takes `basic.qos` without `global` to change the prefetch of consumers that have started, too, as the
    /// specification has it: py-amqp, whose users (kombu, Celery) ask only a broker named RabbitMQ for what else does that.
    pub qos_of_specification: bool,
    /// What the client calls this connection.
    pub connection_name: Option<String>,
}

impl ClientTraits {
    /// Reads the client's properties; what is missing or of another type is off.
    pub fn read(properties: &FieldTable) -> Self {
        let can = |name: &str| match properties.get("capabilities") {
            Some(FieldValue::Table(list)) => list.get(name) == Some(&FieldValue::Bool(true)),
            _ => false,
        };
        Self {
            connection_blocked: can("connection.blocked"),
            consumer_cancel_notify: can("consumer_cancel_notify"),
            authentication_failure_close: can("authentication_failure_close"),
            basic_nack: can("basic.nack"),
            qos_of_specification: properties.get("product").and_then(FieldValue::as_str) == Some("py-amqp"),
            connection_name: properties
                .get("connection_name")
                .and_then(FieldValue::as_str)
                .map(str::to_owned),
        }
    }
}

fn capabilities(names: &[&str]) -> FieldValue {
    FieldValue::Table(FieldTable(
        names.iter().map(|name| ((*name).to_owned(), FieldValue::Bool(true))).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_compares_versions_is_satisfied() {
        let table = server_properties("posthouse@host", "0.1.0");
        let text = |key| table.get(key).and_then(FieldValue::as_str);
        assert_eq!((text("product"), text("version")), (Some("Posthouse"), Some("4.3.0")));
        assert_eq!(
            (text("posthouse_version"), text("cluster_name")),
            (Some("0.1.0"), Some("posthouse@host"))
        );
        let Some(FieldValue::Table(capabilities)) = table.get("capabilities") else {
            panic!("no capabilities")
        };
        assert_eq!(capabilities.0.len(), 9);
        assert!(capabilities.0.iter().all(|(_, value)| *value == FieldValue::Bool(true)));
    }

    #[test]
    fn reads_what_a_client_asks_for() {
        let traits = ClientTraits::read(&client_properties("bench", "0.1.0"));
        assert!(traits.connection_blocked && traits.consumer_cancel_notify && traits.basic_nack);
        assert!(traits.authentication_failure_close);
        assert_eq!(traits.connection_name.as_deref(), Some("bench"));
        assert!(!traits.qos_of_specification);
        let python = FieldTable(vec![("product".into(), FieldValue::string("py-amqp"))]);
        assert!(ClientTraits::read(&python).qos_of_specification);
        assert_eq!(ClientTraits::read(&FieldTable::default()), ClientTraits::default());
        let wrong = FieldTable(vec![("capabilities".into(), FieldValue::I32(1))]);
        assert_eq!(ClientTraits::read(&wrong), ClientTraits::default());
    }
}
