//! What RabbitMQ has and this broker does not have yet is refused: ignoring it would break a promise.

use posthouse_testkit::{Exchange, Method};

use super::{broker, unique};

const NOT_IMPLEMENTED: u16 = 540;

#[test]
fn exchange_types() {
    let exchange = unique("e");
    let mut peer = broker().peer();
    peer.send(1, &Exchange::named(&exchange, "x-federation-upstream").method());
    let close = peer.connection_closed();
    let expected = format!(
        "NOT_IMPLEMENTED - type 'x-federation-upstream' of exchange '{exchange}' in vhost '/' is not supported yet"
    );
    assert_eq!((close.reply_code, close.reply_text), (NOT_IMPLEMENTED, expected));
    peer.send(0, &Method::ConnectionCloseOk {});
}
