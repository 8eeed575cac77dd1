//! What limits and topic permissions refuse, and what is noted about virtual hosts.

use posthouse_testkit::{
    Broker, Exchange, FieldTable, FieldValue, Handshake, Method, Options, Peer, Publish, Queue, table, text,
};

fn started() -> Broker {
    let broker = Broker::start(Options::log());
    broker.ctl(&["add_user", "lim", "pw"]);
    broker.ctl(&["set_permissions", "lim", ".*", ".*", ".*"]);
    broker
}

fn limited() -> Handshake {
    Handshake::plain("lim", "pw")
}

/// The text with which `connection.open` is refused.
#[track_caller]
fn expect_refused(broker: &Broker, handshake: &Handshake, text: &str) {
    let mut peer = Peer::connect(broker.address());
    peer.log_in(handshake);
    peer.tune(handshake);
    peer.send(0, &Method::ConnectionOpen { vhost: "/" });
    peer.expect_connection_close(530, text, (10, 40));
}

#[test]
fn connections_are_limited_per_user_and_virtual_host() {
    let mut broker = started();
    broker.ctl(&["set_user_limits", "lim", r#"{"max-connections":1}"#]);
    let first = broker.peer_with(&limited());
    let of_user = "NOT_ALLOWED - connection refused for user 'lim': user connection limit (1) is reached";
    expect_refused(&broker, &limited(), of_user);
    let guest = broker.peer();
    first.close();
    broker.peer_with(&limited()).close();
    broker.ctl(&["set_vhost_limits", r#"{"max-connections":1}"#]);
    let of_vhost = |user: &str, limit: u32| {
        format!(
            "NOT_ALLOWED - access to vhost '/' refused for user '{user}': connection limit ({limit}) is reached"
        )
    };
    expect_refused(&broker, &limited(), &of_vhost("lim", 1));
    guest.close();
    broker.ctl(&["set_vhost_limits", r#"{"max-connections":0}"#]);
    broker.restart();
    expect_refused(&broker, &Handshake::default(), &of_vhost("guest", 0));
    assert_eq!(broker.ctl(&["list_vhost_limits"]), "/\t{\"max-connections\":0}\n");
    assert_eq!(broker.ctl(&["list_user_limits"]), "lim\t{\"max-connections\":1}\n");
    broker.ctl(&["clear_vhost_limits"]);
    broker.ctl(&["clear_user_limits", "lim", "max-connections"]);
    let (one, two) = (broker.peer_with(&limited()), broker.peer_with(&limited()));
    one.close();
    two.close();
    assert_eq!(broker.ctl(&["list_vhost_limits"]) + &broker.ctl(&["list_user_limits"]), "");
}

#[test]
fn channels_are_limited_over_all_connections_of_a_user() {
    let broker = started();
    broker.ctl(&["set_user_limits", "lim", r#"{"max-channels":2}"#]);
    let mut one = broker.peer_with(&limited());
    let mut two = broker.peer_with(&limited());
    one.close_channel(1);
    two.open_channel(2);
    one.send(1, &Method::ChannelOpen {});
    let text = "NOT_ALLOWED - number of channels opened for user 'lim' has reached the maximum allowed user limit of 2";
    one.expect_connection_close(530, text, (0, 0));
    two.close();
    let mut three = broker.peer_with(&limited());
    three.open_channel(2);
}

#[test]
fn queues_are_limited_per_virtual_host() {
    let broker = started();
    broker.ctl(&["set_vhost_limits", r#"{"max-queues":1}"#]);
    let mut peer = broker.peer();
    peer.declare(1, &Queue::named("one"));
    peer.declare(1, &Queue::named("one"));
    let text = "PRECONDITION_FAILED - cannot declare queue 'two': queue limit in vhost '/' (1) is reached";
    peer.refused(1, &Queue::named("two").method(), 406, text);
    peer.delete(1, "one");
    peer.declare(1, &Queue::named("two"));
    broker.ctl(&["set_vhost_limits", r#"{"max-queues":-1}"#]);
    peer.declare(1, &Queue::named("one"));
}

#[test]
fn wrong_limits_are_refused() {
    let broker = started();
    for (words, expected) in [
        (["set_vhost_limits", r#"{"max-foo":1}"#, ""], "Unrecognised terms [{<<\"max-foo\">>,1}] in limits"),
        (
            ["set_vhost_limits", r#"{"max-queues":"x"}"#, ""],
            "max-queues should be a number, actually was <<\"x\">>",
        ),
        (
            ["set_user_limits", "lim", r#"{"max-queues":1}"#],
            "Unrecognised terms [{<<\"max-queues\">>,1}] in user-limits",
        ),
    ] {
        let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
        assert_eq!(broker.ctl_refused(&words), format!("Validation failed: {expected}"));
    }
    assert_eq!(broker.ctl_refused(&["set_user_limits", "eve", "{}"]), "user 'eve' does not exist");
    assert_eq!(broker.ctl_refused(&["set_vhost_limits", "-p", "v", "{}"]), "virtual host 'v' does not exist");
}

/// Publishes on a channel that is opened for it; the text of the refusal, if there is one.
fn publish_refusal(peer: &mut Peer, exchange: &str, key: &str) -> Option<String> {
    peer.open_channel(9);
    peer.publish(9, exchange, key, "m");
    peer.send(9, &Method::BasicQos { prefetch_size: 0, prefetch_count: 1, global: false });
    let received = peer.method(9);
    match received.get() {
        Method::ChannelClose { reply_code, reply_text, .. } => {
            assert_eq!(reply_code, 403);
            peer.send(9, &Method::ChannelCloseOk {});
            Some(reply_text.to_owned())
        }
        Method::BasicQosOk {} => {
            peer.close_channel(9);
            None
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn topic_permissions_are_about_keys_of_topic_exchanges() {
    let mut broker = started();
    let set = ["set_topic_permissions", "lim", "amq.topic", "^{username}\\.", "^r"];
    let mut peer = broker.peer_with(&limited());
    assert_eq!(publish_refusal(&mut peer, "amq.topic", "other"), None);
    broker.ctl(&set);
    broker.ctl(&["set_topic_permissions", "lim", "amq.direct", "", ""]);
    let refused = |permission: &str, key: &str| {
        format!(
            "ACCESS_REFUSED - {permission} access to topic '{key}' in exchange 'amq.topic' in vhost '/' refused for user \
             'lim'"
        )
    };
    // A key that was allowed before is remembered no longer.
    assert_eq!(publish_refusal(&mut peer, "amq.topic", "other"), Some(refused("write", "other")));
    for _ in 0..2 {
        assert_eq!(publish_refusal(&mut peer, "amq.topic", "lim.x"), None);
    }
    assert_eq!(publish_refusal(&mut peer, "amq.direct", "other"), None, "not a topic exchange");
    peer.declare_exchange(1, &Exchange { auto_delete: true, ..Exchange::named("free", "topic") });
    assert_eq!(publish_refusal(&mut peer, "free", "other"), None, "no patterns for this one");
    let queue = peer.server_named(1);
    peer.bind(1, &queue, "amq.topic", "r.#");
    let bind = Method::QueueBind {
        queue: &queue,
        exchange: "amq.topic",
        routing_key: "#",
        nowait: false,
        arguments: FieldTable::default(),
    };
    peer.refused(1, &bind, 403, &refused("read", "#"));
    broker.restart();
    let mut peer = broker.peer_with(&limited());
    assert_eq!(publish_refusal(&mut peer, "amq.topic", "other"), Some(refused("write", "other")));
    let rows = "lim\tamq.direct\t\t\nlim\tamq.topic\t^{username}\\.\t^r\n";
    assert_eq!(broker.ctl(&["list_topic_permissions"]), rows);
    broker.ctl(&["clear_topic_permissions", "lim", "amq.direct"]);
    assert_eq!(broker.ctl(&["list_user_topic_permissions", "lim"]), "/\tamq.topic\t^{username}\\.\t^r\n");
    broker.ctl(&["clear_topic_permissions", "lim"]);
    assert_eq!(publish_refusal(&mut peer, "amq.topic", "other"), None);
    assert_eq!(broker.ctl(&["list_topic_permissions"]), "");
}

#[test]
fn virtual_hosts_are_noted_about_and_protected() {
    let mut broker = started();
    broker.ctl(&[
        "add_vhost",
        "v",
        "--description",
        "My vhost",
        "--tags",
        "a,b",
        "--default-queue-type",
        "classic",
    ]);
    let refused = broker.ctl_refused(&["add_vhost", "w", "--default-queue-type", "mirrored"]);
    assert_eq!(refused, "Validation failed: unsupported queue type 'mirrored'");
    broker.ctl(&["enable_vhost_deletion_protection", "v"]);
    let protected =
        "virtual host 'v' is protected from deletion; disable_vhost_deletion_protection lifts that";
    assert_eq!(broker.ctl_refused(&["delete_vhost", "v"]), protected);
    broker.restart();
    assert_eq!(broker.ctl_refused(&["delete_vhost", "v"]), protected);
    let shown = ["list_vhosts", "name,description,tags,default_queue_type,protected_from_deletion"];
    let default = "/\tDefault virtual host\t[]\t\tfalse\n";
    assert_eq!(broker.ctl(&shown), format!("{default}v\tMy vhost\t[a, b]\tclassic\ttrue\n"));
    broker.ctl(&["update_vhost_metadata", "v", "--description", "Other"]);
    broker.ctl(&["set_vhost_tags", "v", "c"]);
    assert_eq!(broker.ctl(&shown), format!("{default}v\tOther\t[c]\tclassic\ttrue\n"));
    broker.ctl(&["disable_vhost_deletion_protection", "v"]);
    broker.ctl(&["delete_vhost", "v"]);
    assert_eq!(broker.ctl(&shown), default);
}

#[test]
fn extra_keys_are_checked_too() {
    let broker = started();
    broker.ctl(&["set_topic_permissions", "lim", "amq.topic", "^ok$", ""]);
    let mut peer = broker.peer_with(&limited());
    let mut message = Publish::to("amq.topic", "ok");
    peer.publish_with(1, &message);
    message.properties.headers = Some(table([("CC", FieldValue::Array(vec![text("secret")]))]));
    peer.publish_with(1, &message);
    let refused = "ACCESS_REFUSED - write access to topic 'secret' in exchange 'amq.topic' in vhost '/' refused for \
                   user 'lim'";
    peer.expect_channel_close(1, 403, refused, (60, 40));
}
