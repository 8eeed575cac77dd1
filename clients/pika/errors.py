"""pika: what is refused, with RabbitMQ's codes and texts; a channel error leaves the connection."""

import checks
import pika
from session import channel, refused


def missing_things():
    with channel() as opened:
        connection = opened.connection
        no_queue = "NOT_FOUND - no queue 'nope' in vhost '/'"
        no_exchange = "NOT_FOUND - no exchange 'nope' in vhost '/'"
        refused(connection, 404, no_queue, lambda c: c.queue_declare("nope", passive=True))
        refused(connection, 404, no_queue, lambda c: c.basic_get("nope"))
        refused(connection, 404, no_queue, lambda c: c.basic_consume("nope", lambda *_: None))
        refused(connection, 404, no_queue, lambda c: c.queue_purge("nope"))
        refused(connection, 404, no_queue, lambda c: c.queue_bind("nope", "amq.direct", "k"))
        refused(connection, 404, no_exchange, lambda c: c.exchange_declare("nope", passive=True))
        refused(connection, 404, no_exchange, lambda c: c.basic_publish("nope", "k", b"m"))
        refused(connection, 404, no_exchange, lambda c: c.exchange_bind("amq.direct", "nope"))


def redeclaring_differently():
    with channel() as opened:
        connection = opened.connection
        queue, exchange = checks.name("q"), checks.name("e")
        opened.queue_declare(queue, durable=True)
        opened.exchange_declare(exchange, "direct")
        refused(
            connection,
            406,
            f"PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{queue}' in vhost '/': "
            "received 'false' but current is 'true'",
            lambda c: c.queue_declare(queue),
        )
        refused(
            connection,
            406,
            f"PRECONDITION_FAILED - inequivalent arg 'auto_delete' for queue '{queue}' in vhost '/': "
            "received 'true' but current is 'false'",
            lambda c: c.queue_declare(queue, durable=True, auto_delete=True),
        )
        refused(connection, 405, checks.LOCKED % queue, lambda c: c.queue_declare(queue, durable=True, exclusive=True))
        refused(
            connection,
            406,
            f"PRECONDITION_FAILED - inequivalent arg 'type' for exchange '{exchange}' in vhost '/': "
            "received 'fanout' but current is 'direct'",
            lambda c: c.exchange_declare(exchange, "fanout"),
        )
        refused(
            connection,
            406,
            f"PRECONDITION_FAILED - inequivalent arg 'durable' for exchange '{exchange}' in vhost '/': "
            "received 'true' but current is 'false'",
            lambda c: c.exchange_declare(exchange, "direct", durable=True),
        )
        opened.queue_delete(queue)
        opened.exchange_delete(exchange)


def reserved_and_predeclared_names():
    with channel() as opened:
        connection = opened.connection
        reserved = "ACCESS_REFUSED - %s name 'amq.mine' contains reserved prefix 'amq.*'"
        default = "ACCESS_REFUSED - operation not permitted on the default exchange"
        queue = opened.queue_declare("", exclusive=True).method.queue
        refused(connection, 403, reserved % "queue", lambda c: c.queue_declare("amq.mine"))
        refused(connection, 403, reserved % "exchange", lambda c: c.exchange_declare("amq.mine", "direct"))
        refused(connection, 403, default, lambda c: c.queue_bind(queue, "", "k"))
        refused(connection, 403, default, lambda c: c.exchange_delete(""))
        opened.exchange_declare("amq.direct", "direct", durable=True)  # Declaring it as it is changes nothing.


def in_use_and_not_empty():
    with channel() as opened:
        connection = opened.connection
        queue, exchange = checks.name("used"), checks.name("used")
        opened.queue_declare(queue)
        opened.exchange_declare(exchange, "fanout")
        opened.queue_bind(queue, exchange)
        opened.confirm_delivery()
        opened.basic_publish("", queue, b"m")
        where = f"'{queue}' in vhost '/'"
        not_empty = f"PRECONDITION_FAILED - queue {where} not empty"
        refused(connection, 406, not_empty, lambda c: c.queue_delete(queue, if_empty=True))
        in_use = f"PRECONDITION_FAILED - exchange {where} in use"
        refused(connection, 406, in_use, lambda c: c.exchange_delete(exchange, if_unused=True))
        opened.basic_consume(queue, lambda *_: None, exclusive=True)
        in_use = f"PRECONDITION_FAILED - queue {where} in use"
        refused(connection, 406, in_use, lambda c: c.queue_delete(queue, if_unused=True))
        in_use = f"ACCESS_REFUSED - queue {where} in exclusive use"
        refused(connection, 403, in_use, lambda c: c.basic_consume(queue, lambda *_: None))
        opened.queue_delete(queue)
        opened.exchange_delete(exchange, if_unused=True)


def bad_settlement():
    with channel() as opened:
        connection = opened.connection
        text = "PRECONDITION_FAILED - unknown delivery tag 5"
        refused(connection, 406, text, lambda c: c.basic_ack(5))
        refused(connection, 406, text, lambda c: c.basic_nack(5))
        refused(connection, 406, text, lambda c: c.basic_reject(5))
        refused(connection, 406, "PRECONDITION_FAILED - channel is not transactional", lambda c: c.tx_commit())


def bad_login_and_vhost():
    good = pika.URLParameters(checks.URI)
    bad = pika.URLParameters(checks.URI)
    bad.credentials = pika.PlainCredentials(good.credentials.username, "wrong")
    try:
        pika.BlockingConnection(bad)
    except pika.exceptions.ProbableAuthenticationError as error:
        text = (
            "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. "
            "For details see the broker logfile."
        )
        checks.true(text in str(error), f"login refusal names the reason, got {error}")
    else:
        raise checks.Failed("a wrong password was accepted")
    bad = pika.URLParameters(checks.URI)
    bad.virtual_host = "nope"
    try:
        pika.BlockingConnection(bad)
    except pika.exceptions.ProbableAccessDeniedError as error:
        checks.true("(530) 'NOT_ALLOWED - vhost nope not found'" in str(error), f"missing vhost, got {error}")
    else:
        raise checks.Failed("a missing vhost was accepted")


def connection_errors_close_the_connection():
    connection = pika.BlockingConnection(pika.URLParameters(checks.URI))
    opened = connection.channel()
    try:
        opened.basic_qos(prefetch_size=10)
    except pika.exceptions.ConnectionClosedByBroker as error:
        checks.equal((error.reply_code, error.reply_text), (540, "NOT_IMPLEMENTED - prefetch_size!=0 (10)"), "qos")
    else:
        raise checks.Failed("a prefetch size was accepted")
    checks.true(connection.is_closed, "the connection is closed")


checks.run(
    missing_things,
    redeclaring_differently,
    reserved_and_predeclared_names,
    in_use_and_not_empty,
    bad_settlement,
    bad_login_and_vhost,
    connection_errors_close_the_connection,
)
