//! Tests of the method table.

use posthouse_model::field::FieldValue;
use proptest::prelude::*;

use super::*;

/// Ids and names copied by hand from the documentation, not from the table under test.
const EXPECTED: &str = "\
10.10 connection.start 10.11 connection.start-ok 10.20 connection.secure 10.21 connection.secure-ok \
10.30 connection.tune 10.31 connection.tune-ok 10.40 connection.open 10.41 connection.open-ok \
10.50 connection.close 10.51 connection.close-ok 10.60 connection.blocked 10.61 connection.unblocked \
10.70 connection.update-secret 10.71 connection.update-secret-ok \
20.10 channel.open 20.11 channel.open-ok 20.20 channel.flow 20.21 channel.flow-ok \
20.40 channel.close 20.41 channel.close-ok 30.10 access.request 30.11 access.request-ok \
40.10 exchange.declare 40.11 exchange.declare-ok 40.20 exchange.delete 40.21 exchange.delete-ok \
40.30 exchange.bind 40.31 exchange.bind-ok 40.40 exchange.unbind 40.51 exchange.unbind-ok \
50.10 queue.declare 50.11 queue.declare-ok 50.20 queue.bind 50.21 queue.bind-ok 50.30 queue.purge \
50.31 queue.purge-ok 50.40 queue.delete 50.41 queue.delete-ok 50.50 queue.unbind 50.51 queue.unbind-ok \
60.10 basic.qos 60.11 basic.qos-ok 60.20 basic.consume 60.21 basic.consume-ok 60.30 basic.cancel \
60.31 basic.cancel-ok 60.40 basic.publish 60.50 basic.return 60.60 basic.deliver 60.70 basic.get \
60.71 basic.get-ok 60.72 basic.get-empty 60.80 basic.ack 60.90 basic.reject 60.100 basic.recover-async \
60.110 basic.recover 60.111 basic.recover-ok 60.120 basic.nack 85.10 confirm.select 85.11 confirm.select-ok \
90.10 tx.select 90.11 tx.select-ok 90.20 tx.commit 90.21 tx.commit-ok 90.30 tx.rollback 90.31 tx.rollback-ok";

#[test]
fn ids_and_names_are_those_of_the_specification() {
    let table: Vec<String> =
        ALL.iter().map(|(class, method, name)| format!("{class}.{method} {name}")).collect();
    assert_eq!(table.join(" "), EXPECTED);
    assert_eq!(name_of(60, 40), Some("basic.publish"));
    assert_eq!(name_of(60, 41), None);
}

fn bytes_of(method: &Method<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    method.encode_into(&mut out);
    out
}

#[test]
fn bits_are_packed_from_the_lowest() {
    let arguments = FieldTable(vec![("x".into(), FieldValue::Bool(true))]);
    let declare = Method::QueueDeclare {
        queue: "q",
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: true,
        nowait: true,
        arguments,
    };
    let expected = b"\0\x32\0\x0a\0\0\x01q\x1a\0\0\0\x04\x01xt\x01";
    assert_eq!(bytes_of(&declare), expected);
    assert_eq!(Method::decode(expected), Ok(declare));
}

#[test]
fn whole_frames() {
    let mut out = Vec::new();
    write_method(&mut out, 3, &Method::BasicAck { delivery_tag: 5, multiple: true });
    assert_eq!(out, b"\x01\0\x03\0\0\0\x0d\0\x3c\0\x50\0\0\0\0\0\0\0\x05\x01\xce");
}

#[test]
fn errors_read_as_rabbitmq_writes_them() {
    let rows: [(&[u8], &str, (u16, u16)); 5] = [
        (b"\0\x32\0\x0a\0", "501 cannot decode <<0>>", (50, 10)),
        (b"\0\x14\0\x0a\x01\xff", "501 Malformed UTF-8 in shortstr", (0, 0)),
        (b"\0\x3c\0\x29", "540 unknown method 60.41", (60, 41)),
        (b"\0\x3c", "501 cannot decode <<0,60>>", (0, 0)),
        (b"\0\x5a\0\x0aabc", "501 cannot decode <<\"abc\">>", (90, 10)),
    ];
    for (payload, expected, ids) in rows {
        let error = Method::decode(payload).unwrap_err();
        assert_eq!((error.reply().to_string().as_str(), error.ids()), (expected, ids));
    }
}

/// A payload with random fields for the method of that index, made by hand-written rules per byte: decoding may
/// refuse it, but what it accepts must survive a round trip.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..9),
        "[a-z.]{0,9}".prop_map(|text| [&[text.len() as u8], text.as_bytes()].concat()),
        Just(vec![0; 4]),
        Just(vec![0, 0, 0, 3, 1, b'k', b'V']),
        Just(vec![0, 0]),
    ];
    (0..ALL.len(), prop::collection::vec(field, 0..6)).prop_map(|(index, fields)| {
        let (class, method, _) = ALL[index];
        let mut bytes = [class.to_be_bytes(), method.to_be_bytes()].concat();
        fields.iter().for_each(|field| bytes.extend_from_slice(field));
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn what_decodes_round_trips(bytes in payload()) {
        if let Ok(method) = Method::decode(&bytes) {
            let again = bytes_of(&method);
            prop_assert_eq!(Method::decode(&again), Ok(method));
        }
    }

    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = Method::decode(&bytes);
    }
}

/// Every method with fields that differ from each other, so that a swapped field would show.
fn every_method() -> Vec<Method<'static>> {
    let table = || FieldTable(vec![("k".into(), FieldValue::I32(1))]);
    ALL.iter()
        .map(|&(class, method, name)| {
            let mut bytes = [class.to_be_bytes(), method.to_be_bytes()].concat();
            fields_of(name, &mut bytes, &table());
            Method::decode(bytes.leak()).unwrap_or_else(|error| panic!("{name}: {error}"))
        })
        .collect()
}

/// Appends fields by a second, independent description of the layouts: b octet, h u16, w u32, q u64, s short string,
/// l long string, t table, and `1` one octet of bits.
fn fields_of(name: &str, out: &mut Vec<u8>, table: &FieldTable) {
    let layout = match name {
        "connection.start" => "bbtll",
        "connection.start-ok" => "tsls",
        "connection.secure" | "connection.secure-ok" | "channel.open-ok" => "l",
        "connection.tune" | "connection.tune-ok" => "hwh",
        "connection.open" => "ss1",
        "connection.open-ok" | "channel.open" | "connection.blocked" | "basic.consume-ok" => "s",
        "basic.cancel-ok" | "basic.get-empty" => "s",
        "connection.close" | "channel.close" => "hshh",
        "connection.update-secret" => "ls",
        "channel.flow" | "channel.flow-ok" | "confirm.select" | "basic.recover" | "basic.recover-async" => {
            "1"
        }
        "access.request" | "basic.cancel" => "s1",
        "access.request-ok" => "h",
        "exchange.declare" => "hss1t",
        "exchange.delete" | "queue.purge" | "queue.delete" | "basic.get" => "hs1",
        "exchange.bind" | "exchange.unbind" | "queue.bind" => "hsss1t",
        "queue.declare" => "hs1t",
        "queue.declare-ok" => "sww",
        "queue.purge-ok" | "queue.delete-ok" => "w",
        "queue.unbind" => "hssst",
        "basic.qos" => "wh1",
        "basic.consume" => "hss1t",
        "basic.publish" => "hss1",
        "basic.return" => "hsss",
        "basic.deliver" => "sq1ss",
        "basic.get-ok" => "q1ssw",
        "basic.ack" | "basic.reject" | "basic.nack" => "q1",
        _ => "",
    };
    for (i, code) in layout.bytes().enumerate() {
        let n = i as u8 + 1;
        match code {
            b'b' => out.push(n),
            b'h' => out.extend_from_slice(&[0, n]),
            b'w' => out.extend_from_slice(&[0, 0, 1, n]),
            b'q' => out.extend_from_slice(&[0, 0, 0, 0, 0, 0, 2, n]),
            b's' => out.extend_from_slice(&[2, b's', b'0' + n]),
            b'l' => out.extend_from_slice(&[0, 0, 0, 2, b'l', b'0' + n]),
            b't' => table.encode(out),
            _ => out.push(1),
        }
    }
}

#[test]
fn every_method_round_trips() {
    for method in every_method() {
        let bytes = bytes_of(&method);
        assert_eq!(Method::decode(&bytes), Ok(method.clone()), "{}", method.name());
        for cut in 4..bytes.len() {
            assert!(Method::decode(&bytes[..cut]).is_err(), "{} cut at {cut}", method.name());
        }
    }
}

#[test]
fn fields_are_in_wire_order() {
    let methods = every_method();
    let deliver = methods.iter().find(|method| method.name() == "basic.deliver").unwrap();
    let expected = Method::BasicDeliver {
        consumer_tag: "s1",
        delivery_tag: 0x202,
        redelivered: true,
        exchange: "s4",
        routing_key: "s5",
    };
    assert_eq!(deliver, &expected);
}
