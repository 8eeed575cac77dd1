"""py-amqp, kombu's own transport, by itself: field types, confirms, returns and transactions."""

import datetime
import decimal
import urllib.parse

import amqp
import checks

HEADERS = {
    "text": "text \u00e9",
    "yes": True,
    "no": False,
    "small": 7,
    "large": 2**40,
    "lowest": -(2**63),
    "double": -1.25,
    "decimal": decimal.Decimal("3.14"),
    "time": datetime.datetime(2026, 11, 20, 12, 0, 0),
    "none": None,
    "list": [1, "two", [True], {"three": 3.5}],
    "table": {"deep": {"er": "x"}, "empty": {}},
}


def connect():
    uri = urllib.parse.urlsplit(checks.URI)
    link = amqp.Connection(
        host=f"{uri.hostname}:{uri.port or 5672}",
        userid=urllib.parse.unquote(uri.username),
        password=urllib.parse.unquote(uri.password),
        virtual_host=urllib.parse.unquote(uri.path[1:]) or "/",
        confirm_publish=True,
    )
    link.connect()
    return link


def take(channel, queue):
    message = channel.basic_get(queue, no_ack=True)
    checks.true(message is not None, f"{queue} has a message")
    return message


def properties_of_every_type():
    with connect() as link:
        channel = link.channel()
        queue = channel.queue_declare(exclusive=True).queue
        sent = {
            "content_type": "a/b", "content_encoding": "c", "application_headers": HEADERS, "delivery_mode": 2, "priority": 3,
            "correlation_id": "d", "reply_to": "e", "message_id": "f",
            "timestamp": 1_700_000_000, "type": "g", "user_id": "guest", "app_id": "h", "cluster_id": "i",
        }  # fmt: skip
        channel.basic_publish_confirm(amqp.Message(b"", **sent), routing_key=queue)
        got = take(channel, queue)
        for field, value in sent.items():
            checks.equal(got.properties[field], value, f"property {field}")
        channel.basic_publish_confirm(amqp.Message(b"bare"), routing_key=queue)
        checks.equal(take(channel, queue).properties, {}, "no properties")


def returns_the_unroutable():
    with connect() as link:
        channel = link.channel()
        returned = []
        channel.events["basic_return"].add(lambda *arguments: returned.append(arguments))
        channel.basic_publish_confirm(amqp.Message(b"back"), exchange="amq.direct", routing_key="nobody", mandatory=True)
        checks.equal(len(returned), 1, "the return comes before the confirm")
        error, exchange, key, message = returned[0]
        checks.equal((error.reply_code, exchange, key, message.body), (312, "amq.direct", "nobody", b"back"), "basic.return")
        checks.true("NO_ROUTE" in str(error), f"the reply text is NO_ROUTE, got {error}")


def binds_exchanges():
    with connect() as link:
        channel = link.channel()
        source, target = checks.name("source"), checks.name("target")
        for exchange in (source, target):
            channel.exchange_declare(exchange, "direct", auto_delete=False)
        queue = channel.queue_declare(exclusive=True).queue
        channel.queue_bind(queue, target, "k")
        channel.exchange_bind(target, source, "k")
        channel.basic_publish_confirm(amqp.Message(b"through"), exchange=source, routing_key="k")
        checks.equal(take(channel, queue).body, b"through", "through two exchanges")
        channel.exchange_unbind(target, source, "k")
        channel.basic_publish_confirm(amqp.Message(b"lost"), exchange=source, routing_key="k")
        checks.equal(channel.basic_get(queue), None, "after exchange.unbind")
        for exchange in (source, target):
            channel.exchange_delete(exchange)


def recovers():
    with connect() as link:
        channel = link.channel()
        queue = channel.queue_declare(exclusive=True).queue
        for body in (b"0", b"1"):
            channel.basic_publish_confirm(amqp.Message(body), routing_key=queue)
        checks.equal([channel.basic_get(queue).body for _ in range(2)], [b"0", b"1"], "first delivery")
        channel.basic_recover(requeue=True)
        again = [take(channel, queue) for _ in range(2)]
        got = [(message.body, message.delivery_info["redelivered"]) for message in again]
        checks.equal(got, [(b"0", True), (b"1", True)], "after recover")


def transactions():
    with connect() as link:
        link.confirm_publish = False
        channel = link.channel()
        queue = channel.queue_declare(exclusive=True).queue
        channel.tx_select()
        channel.basic_publish(amqp.Message(b"kept"), routing_key=queue)
        checks.equal(channel.basic_get(queue), None, "before commit")
        channel.tx_commit()
        channel.basic_publish(amqp.Message(b"forgotten"), routing_key=queue)
        channel.tx_rollback()
        checks.equal(take(channel, queue).body, b"kept", "after commit")
        checks.equal(channel.basic_get(queue), None, "after rollback")


def errors():
    with connect() as link:
        for action, code, text in [
            (lambda c: c.queue_declare("nope", passive=True), 404, "NOT_FOUND - no queue 'nope' in vhost '/'"),
            (lambda c: c.basic_consume("nope"), 404, "NOT_FOUND - no queue 'nope' in vhost '/'"),
            (lambda c: c.exchange_delete("amq.direct"), 403, "deletion of system exchange 'amq.direct' in vhost '/' not allowed"),
            (lambda c: c.basic_publish_confirm(amqp.Message(b""), exchange="nope"), 404, "no exchange 'nope' in vhost '/'"),
        ]:
            try:
                action(link.channel())
            except amqp.exceptions.ChannelError as error:
                checks.equal(error.reply_code, code, "reply code")
                checks.true(text in str(error), f"expected {text!r}, got {error}")
            else:
                raise checks.Failed(f"expected {text!r}, got no error")
        link.channel().queue_declare(exclusive=True)


checks.run(properties_of_every_type, returns_the_unroutable, binds_exchanges, recovers, transactions, errors)
