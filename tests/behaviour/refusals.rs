//! What RabbitMQ has and this broker does not have yet is refused: ignoring it would break a promise.

use posthouse_testkit::{Exchange, Method};

use super::{broker, unique};

const NOT_IMPLEMENTED: u16 = 540;

#[test]
fn exchange_types() {
    let broker = broker();
    let exchange = unique("e");
    for exchange_type in ["x-delayed-message", "x-federation-upstream"] {
        let mut peer = broker.peer();
        peer.send(1, &Exchange::named(&exchange, exchange_type).method());
        let close = peer.connection_closed();
        let expected = format!(
            "NOT_IMPLEMENTED - type '{exchange_type}' of exchange '{exchange}' in vhost '/' is not supported yet"
        );
        assert_eq!((close.reply_code, close.reply_text), (NOT_IMPLEMENTED, expected));
        peer.send(0, &Method::ConnectionCloseOk {});
    }
}
