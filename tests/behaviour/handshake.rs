//! From the protocol header to `connection.open-ok`.

use posthouse_amqp::protocol_header::AMQP_0_9_1;
use posthouse_amqp::sasl::plain_response;
use posthouse_testkit::{FieldTable, FieldValue, Handshake, Method, Peer, expect_method, table, text};

use super::{broker, unique};

const LOGIN_REFUSED: &str = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. \
                             For details see the broker logfile.";

#[test]
fn other_protocols_are_told_which_one_is_spoken() {
    let broker = broker();
    for header in [b"AMQP\x00\x00\x0a\x00", b"AMQP\x00\x01\x00\x00", b"AMQP\x03\x01\x00\x00", b"GET / HT"] {
        let mut peer = broker.socket();
        peer.send_bytes(header);
        assert_eq!(peer.bytes(8), AMQP_0_9_1, "{header:?}");
        peer.expect_end();
    }
}

#[test]
fn the_header_of_the_first_0_9_is_taken_for_0_9_1() {
    let mut peer = broker().socket();
    peer.send_bytes(b"AMQP\x01\x01\x00\x09");
    expect_method!(peer, 0, Method::ConnectionStart { version_major: 0, version_minor: 9, .. });
}

#[test]
fn the_server_says_what_it_is_and_can() {
    let broker = broker();
    let (properties, mechanisms, locales) = broker.socket().start();
    let mut mechanisms: Vec<&str> = mechanisms.split(' ').collect();
    mechanisms.sort_unstable();
    assert_eq!(mechanisms, ["AMQPLAIN", "ANONYMOUS", "PLAIN"]);
    assert_eq!(locales, "en_US");
    for property in ["cluster_name", "copyright", "information", "platform", "product", "version"] {
        let value = properties.get(property);
        assert!(
            matches!(value, Some(FieldValue::LongStr(text)) if !text.is_empty()),
            "{property}: {value:?}"
        );
    }
    let Some(FieldValue::Table(capabilities)) = properties.get("capabilities") else {
        panic!("expected capabilities, got {properties:?}")
    };
    for capability in [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ] {
        assert_eq!(capabilities.get(capability), Some(&FieldValue::Bool(true)), "{capability}");
    }
}

#[test]
fn the_proposal_is_rabbitmqs() {
    let mut peer = broker().socket();
    peer.log_in(&Handshake::default());
    let proposal = peer.proposal();
    assert_eq!((proposal.channel_max, proposal.frame_max, proposal.heartbeat), (2047, 131_072, 60));
}

#[test]
fn every_offered_mechanism_lets_guest_in() {
    let mut login = Vec::new();
    table([("LOGIN", text("guest")), ("PASSWORD", text("guest"))]).encode(&mut login);
    let rows = [
        ("PLAIN", plain_response("guest", b"guest")),
        ("PLAIN", b"guest\0guest\0guest".to_vec()),
        // The entries without the length of the table.
        ("AMQPLAIN", login.split_off(4)),
        ("ANONYMOUS", b"somebody@example.org".to_vec()),
        ("ANONYMOUS", Vec::new()),
    ];
    let broker = broker();
    for (mechanism, response) in rows {
        let handshake = Handshake { mechanism: mechanism.into(), response, ..Handshake::default() };
        broker.peer_with(&handshake).close();
    }
}

/// All are sent before any is waited for, because the broker takes its time.
#[test]
fn logins_that_are_refused_without_a_word() {
    let plain = plain_response("guest", b"guest");
    let rows: [(&str, &[u8], bool); 6] = [
        ("PLAIN", b"\0guest\0wrong", false),
        ("PLAIN", b"\0nobody\0guest", false),
        ("PLAIN", b"guest", true),
        ("AMQPLAIN", b"\x05LOGIN", true),
        ("EXTERNAL", b"", true),
        ("NO-SUCH", &plain, true),
    ];
    let broker = broker();
    let peers: Vec<Peer> = rows
        .iter()
        .map(|&(mechanism, response, capable)| {
            let handshake = Handshake {
                mechanism: mechanism.into(),
                response: response.to_vec(),
                ..Handshake::default()
            };
            let handshake = if capable { handshake } else { handshake.without_capabilities() };
            let mut peer = broker.socket();
            peer.log_in(&handshake);
            peer
        })
        .collect();
    for mut peer in peers {
        peer.expect_end();
    }
}

#[test]
fn a_wrong_password_is_told_to_clients_that_want_it() {
    let broker = broker();
    for (user, password) in [("guest", "wrong"), ("nobody", "guest")] {
        let mut peer = broker.socket();
        peer.log_in(&Handshake::plain(user, password));
        let close = peer.connection_closed();
        assert_eq!(
            (close.reply_code, close.reply_text.as_str(), close.class_id, close.method_id),
            (403, LOGIN_REFUSED, 0, 0)
        );
        peer.send(0, &Method::ConnectionCloseOk {});
        drop(peer);
    }
}

#[test]
fn limits_within_the_proposal_are_accepted() {
    let broker = broker();
    for (channel_max, frame_max) in [(1, 4096), (2047, 131_072), (100, 8192), (7, 4097)] {
        let handshake =
            Handshake { channel_max: Some(channel_max), frame_max: Some(frame_max), ..Handshake::default() };
        broker.peer_with(&handshake).close();
    }
}

/// RabbitMQ says nothing either, and closes the socket after 3 s.
#[test]
fn limits_outside_the_proposal_end_the_connection() {
    let broker = broker();
    let rows = [(0, 131_072), (2048, 131_072), (2047, 0), (2047, 131_073), (2047, 4095), (2047, 1)];
    let peers: Vec<Peer> = rows
        .into_iter()
        .map(|(channel_max, frame_max)| {
            let mut peer = broker.socket();
            peer.log_in(&Handshake::default());
            peer.proposal();
            peer.send(0, &Method::ConnectionTuneOk { channel_max, frame_max, heartbeat: 0 });
            peer
        })
        .collect();
    for mut peer in peers {
        peer.expect_end();
    }
}

#[test]
fn a_virtual_host_that_does_not_exist() {
    let mut peer = broker().socket();
    let handshake = Handshake::default();
    peer.log_in(&handshake);
    peer.tune(&handshake);
    let vhost = unique("nope");
    peer.send(0, &Method::ConnectionOpen { vhost: &vhost });
    let text = format!("NOT_ALLOWED - vhost {vhost} not found");
    peer.expect_connection_close(530, &text, (10, 40));
}

#[test]
fn steps_out_of_order() {
    let mut peer = broker().socket();
    peer.start();
    peer.send(0, &Method::ConnectionOpen { vhost: "/" });
    let close = peer.connection_closed();
    assert_eq!((close.reply_code, close.class_id, close.method_id), (504, 10, 40));
}

#[test]
fn a_client_may_hang_up_before_it_is_open() {
    let mut peer = broker().socket();
    peer.log_in(&Handshake::default());
    peer.proposal();
    peer.send(0, &Method::ConnectionClose { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 });
    expect_method!(peer, 0, Method::ConnectionCloseOk {});
    peer.expect_end();
}

#[test]
fn a_client_needs_no_properties() {
    let handshake = Handshake { properties: FieldTable::default(), ..Handshake::default() };
    broker().peer_with(&handshake).close();
}

#[test]
fn the_whole_handshake_may_come_in_one_piece() {
    use posthouse_amqp::method::write_method;
    let handshake = Handshake::default();
    let start_ok = Method::ConnectionStartOk {
        client_properties: handshake.properties.clone(),
        mechanism: "PLAIN",
        response: &handshake.response,
        locale: "en_US",
    };
    let mut bytes = AMQP_0_9_1.to_vec();
    write_method(&mut bytes, 0, &start_ok);
    write_method(&mut bytes, 0, &Method::ConnectionTuneOk { channel_max: 10, frame_max: 8192, heartbeat: 0 });
    write_method(&mut bytes, 0, &Method::ConnectionOpen { vhost: "/" });
    write_method(&mut bytes, 3, &Method::ChannelOpen {});
    let mut peer = broker().socket();
    peer.send_bytes(&bytes);
    expect_method!(peer, 0, Method::ConnectionStart { .. });
    expect_method!(peer, 0, Method::ConnectionTune { .. });
    expect_method!(peer, 0, Method::ConnectionOpenOk {});
    expect_method!(peer, 3, Method::ChannelOpenOk {});
}

#[test]
fn a_new_secret_is_checked() {
    let broker = broker();
    let mut peer = broker.peer();
    peer.send(0, &Method::ConnectionUpdateSecret { new_secret: b"guest", reason: "rotated" });
    expect_method!(peer, 0, Method::ConnectionUpdateSecretOk {});
    peer.send(0, &Method::ConnectionUpdateSecret { new_secret: b"wrong", reason: "" });
    let text = "NOT_ALLOWED - New secret was refused by one of the backends";
    peer.expect_connection_close(530, text, (10, 70));
}
