//! What a connection tells of itself where events are wanted.

use posthouse_auth::authorities::{Identity, Refusal};
use posthouse_model::field::FieldValue;
use posthouse_node::NODE_NAME;
use posthouse_node::broker::Broker;
use posthouse_node::connections::ConnectionInfo;
use posthouse_node::events::{self, Fields};

use super::consumer::Consumer;
use super::session::Session;

/// The two addresses of a connection's name.
fn addresses(fields: Fields, name: &str) -> Fields {
    let (peer, local) = name.split_once(" -> ").unwrap_or((name, ""));
    let split = |address: &str| match address.rsplit_once(':') {
        Some((host, port)) => (host.to_owned(), port.parse::<u64>().unwrap_or_default()),
        None => (address.to_owned(), 0),
    };
    let ((peer_host, peer_port), (host, port)) = (split(peer), split(local));
    let fields = fields.text("peer_host", &peer_host).number("peer_port", peer_port);
    fields.text("host", &host).number("port", port)
}

/// Somebody has logged in, or was refused.
pub(super) fn login(
    broker: &Broker,
    connection: &str,
    mechanism: &str,
    outcome: Result<&Identity, &Refusal>,
) {
    let key = if outcome.is_ok() { "user.authentication.success" } else { "user.authentication.failure" };
    broker.events().emit(key, |fields| {
        let fields = match outcome {
            Ok(identity) => fields.text("name", &identity.user),
            Err(refusal) => fields.text("error", &refusal.to_string()),
        };
        let fields = fields
            .text("connection_name", connection)
            .text("connection_type", "network")
            .text("auth_mechanism", mechanism)
            .text("protocol", "AMQP 0-9-1")
            .flag("ssl", false);
        addresses(fields, connection)
    });
}

/// A connection has ended.
pub(super) fn connection_closed(broker: &Broker, info: &ConnectionInfo) {
    broker.events().emit("connection.closed", |fields| {
        fields
            .text("name", &info.name)
            .text("pid", &info.id.to_string())
            .text("node", NODE_NAME)
            .with("client_properties", FieldValue::Table(info.client_properties.clone()))
    });
}

impl Session {
    /// Something has happened on behalf of the connection's user.
    fn tell(&self, key: &'static str, fields: impl FnOnce(Fields) -> Fields) {
        let events = self.broker.events();
        if events.are_wanted() {
            events::acting(&self.peer.identity.user, || events.emit(key, fields));
        }
    }

    /// The connection is open.
    pub(super) fn tell_connection_created(&self, heartbeat: u16) {
        let (info, peer) = (&self.peer.info, &self.peer);
        self.tell("connection.created", |fields| {
            let fields = fields
                .text("name", &info.name)
                .text("pid", &info.id.to_string())
                .text("node", NODE_NAME)
                .text("type", "network")
                .text("protocol", info.protocol)
                .text("user", &info.user)
                .text("vhost", &info.vhost)
                .number("channel_max", peer.channel_max.into())
                .number("frame_max", peer.frame_max.into())
                .number("timeout", heartbeat.into())
                .number("connected_at", info.connected_at_ms)
                .flag("ssl", false)
                .with("client_properties", FieldValue::Table(info.client_properties.clone()));
            addresses(fields, &info.name)
        });
    }

    fn channel_pid(&self, number: u16) -> String {
        format!("{}.{number}", self.peer.info.id)
    }

    /// A channel is open.
    pub(super) fn tell_channel_created(&self, number: u16) {
        self.tell("channel.created", |fields| {
            let info = &self.peer.info;
            fields
                .text("name", &format!("{} ({number})", info.name))
                .text("pid", &self.channel_pid(number))
                .text("connection", &info.id.to_string())
                .number("number", number.into())
                .text("user", &info.user)
                .text("vhost", &info.vhost)
        });
    }

    /// A channel has ended.
    pub(super) fn tell_channel_closed(&self, number: u16) {
        self.tell("channel.closed", |fields| fields.text("pid", &self.channel_pid(number)));
    }

    /// A consumer has started.
    pub(super) fn tell_consumer_created(&self, consumer: &Consumer, exclusive: bool) {
        self.tell("consumer.created", |fields| {
            self.consumer_fields(fields, consumer)
                .flag("exclusive", exclusive)
                .flag("ack_required", !consumer.no_ack)
                .number("prefetch_count", consumer.prefetch.into())
                .with("arguments", FieldValue::Table(consumer.arguments.clone()))
        });
    }

    /// A consumer has ended.
    pub(super) fn tell_consumer_deleted(&self, consumer: &Consumer) {
        self.tell("consumer.deleted", |fields| self.consumer_fields(fields, consumer));
    }

    fn consumer_fields(&self, fields: Fields, consumer: &Consumer) -> Fields {
        fields
            .text("consumer_tag", &consumer.tag)
            .text("channel", &self.channel_pid(consumer.channel))
            .text("queue", &consumer.queue.definition.name)
            .text("vhost", &self.peer.info.vhost)
    }
}
