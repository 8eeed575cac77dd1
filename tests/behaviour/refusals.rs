//! What RabbitMQ has and this broker does not have yet is refused: ignoring it would break a promise.

use posthouse_testkit::{Exchange, FieldValue, Method, Queue, table};

use super::{broker, unique};

const NOT_IMPLEMENTED: u16 = 540;

#[test]
fn queue_arguments() {
    let broker = broker();
    let queue = unique("q");
    let argument = "x-delivery-limit";
    let mut peer = broker.peer();
    let arguments = table([(argument, FieldValue::I32(1000))]);
    peer.send(1, &Queue { arguments, ..Queue::durable(&queue) }.method());
    let text = format!(
        "NOT_IMPLEMENTED - argument '{argument}' of queue '{queue}' in vhost '/' is not supported yet"
    );
    peer.expect_connection_close(NOT_IMPLEMENTED, &text, (50, 10));
    // None was declared.
    let text = format!("NOT_FOUND - no queue '{queue}' in vhost '/'");
    broker.peer().refused(1, &Queue::passive(&queue).method(), 404, &text);
}

#[test]
fn exchange_types() {
    let broker = broker();
    let exchange = unique("e");
    for exchange_type in ["x-delayed-message", "x-jms-topic"] {
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
