"""pika: publishing with confirms, returns, basic.get, properties, large bodies and transactions."""

import datetime
import decimal

import checks
import pika
from pika.exceptions import UnroutableError
from session import channel, count, take

MEBIBYTE = 1024 * 1024

# pika writes no floating-point fields; the py-amqp program and the differential test do.
HEADERS = {
    "string": "text \u00e9",
    "empty string": "",
    "binary": b"\x00\xff\xfe",
    "true": True,
    "false": False,
    "small": 7,
    "negative": -7,
    "32 bits": 2**31 - 1,
    "64 bits": 2**63 - 1,
    "lowest": -(2**63),
    "decimal": decimal.Decimal("3.14"),
    "time": datetime.datetime(2026, 11, 20, 12, 0, 0, tzinfo=datetime.timezone.utc),
    "void": None,
    "list": [1, "two", None, [3], {"four": 4}],
    "table": {"inner": {"deep": "x"}, "list": []},
    "empty table": {},
}


def confirms_each_publish():
    with channel() as opened:
        opened.confirm_delivery()
        queue = checks.name("confirmed")
        opened.queue_declare(queue, durable=True)
        for number in range(20):  # Returns only after basic.ack; raises on nack.
            opened.basic_publish("", queue, b"%d" % number, pika.BasicProperties(delivery_mode=2))
        checks.equal(count(opened, queue), 20, "all confirmed messages are there")
        for number in range(20):
            checks.equal(take(opened, queue)[2], b"%d" % number, "publishing order")
        opened.queue_delete(queue)


def returns_the_unroutable():
    with channel() as opened:
        opened.confirm_delivery()
        try:
            opened.basic_publish("amq.direct", "nobody", b"back", pika.BasicProperties(message_id="7"), mandatory=True)
        except UnroutableError as error:
            returned = error.messages[0]
            method = returned.method
            got = (method.reply_code, method.reply_text, method.exchange, method.routing_key)
            checks.equal(got, (312, "NO_ROUTE", "amq.direct", "nobody"), "basic.return")
            checks.equal((returned.properties.message_id, returned.body), ("7", b"back"), "returned content")
        else:
            raise checks.Failed("a mandatory unroutable message came back as confirmed only")
        opened.basic_publish("amq.direct", "nobody", b"dropped")  # Not mandatory: confirmed, dropped.


def gets_one_by_one():
    with channel() as opened:
        opened.confirm_delivery()
        queue = opened.queue_declare("", exclusive=True).method.queue
        checks.equal(opened.basic_get(queue), (None, None, None), "get-empty")
        for content in (b"one", b"two", b"three"):
            opened.basic_publish("", queue, content)
        method, _, content = take(opened, queue, auto_ack=False)
        checks.equal((content, method.redelivered, method.message_count), (b"one", False, 2), "first get")
        checks.equal((method.exchange, method.routing_key), ("", queue), "where it was published")
        checks.equal(count(opened, queue), 2, "an unacknowledged message is not ready")
        opened.basic_nack(method.delivery_tag, requeue=True)
        method, _, content = take(opened, queue, auto_ack=False)
        checks.equal((content, method.redelivered, method.message_count), (b"one", True, 2), "get after requeue")
        opened.basic_ack(method.delivery_tag)
        checks.equal([take(opened, queue)[2] for _ in range(2)], [b"two", b"three"], "the rest in order")


def keeps_properties_and_headers():
    with channel() as opened:
        queue = opened.queue_declare("", exclusive=True).method.queue
        sent = pika.BasicProperties(
            content_type="text/plain",
            content_encoding="identity",
            headers=HEADERS,
            delivery_mode=2,
            priority=5,
            correlation_id="correlation",
            reply_to="answers",
            message_id="message",
            timestamp=1_700_000_000,
            type="kind",
            user_id="guest",
            app_id="checks",
            cluster_id="cluster",
        )
        for properties in (sent, pika.BasicProperties(), pika.BasicProperties(headers={})):
            opened.basic_publish("", queue, b"", properties)
        for properties in (sent, pika.BasicProperties(), pika.BasicProperties(headers={})):
            got = take(opened, queue)
            checks.equal(got[2], b"", "empty body")
            for field, value in vars(properties).items():
                checks.equal(getattr(got[1], field), value, f"property {field}")


def carries_large_bodies():
    with channel() as opened:
        opened.confirm_delivery()
        queue = opened.queue_declare("", exclusive=True).method.queue
        # Around one frame's payload (131072 - 8), then 10 MiB.
        sizes = [0, 1, 131063, 131064, 131065, 262128, 10 * MEBIBYTE]
        for size in sizes:
            opened.basic_publish("", queue, checks.body(size))
        for size in sizes:
            content = take(opened, queue)[2]
            checks.equal(len(content), size, "body length")
            checks.true(content == checks.body(size), f"the body of {size} bytes is unchanged")


def commits_and_rolls_back():
    with channel() as opened:
        queue = checks.name("tx")
        opened.queue_declare(queue, exclusive=True)
        opened.tx_select()
        opened.basic_publish("", queue, b"kept")
        checks.equal(count(opened, queue), 0, "before commit")
        opened.tx_commit()
        checks.equal(count(opened, queue), 1, "after commit")
        opened.basic_publish("", queue, b"forgotten")
        opened.tx_rollback()
        checks.equal(count(opened, queue), 1, "after rollback")
        method, _, _ = take(opened, queue, auto_ack=False)
        opened.basic_ack(method.delivery_tag)
        opened.tx_commit()
        checks.equal(opened.queue_delete(queue).method.message_count, 0, "acknowledged in the transaction")


checks.run(
    confirms_each_publish,
    returns_the_unroutable,
    gets_one_by_one,
    keeps_properties_and_headers,
    carries_large_bodies,
    commits_and_rolls_back,
)
