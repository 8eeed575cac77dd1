"""pika: dead-letter exchanges, as RabbitMQ's documentation shows them."""

import contextlib

import checks
import pika
from session import channel, count, refused, take


@contextlib.contextmanager
def dead_lettering(**more):
    """A channel, the queue `some-queue` of the documentation, and the queue its dead letters go to."""
    with channel() as opened:
        exchange = checks.name("some.exchange.name")
        opened.exchange_declare(exchange, exchange_type="direct", auto_delete=True)
        dead = opened.queue_declare("", exclusive=True).method.queue
        opened.queue_bind(dead, exchange, routing_key="some-routing-key")
        arguments = {
            "x-dead-letter-exchange": exchange,
            "x-dead-letter-routing-key": "some-routing-key",
            **more,
        }
        queue = opened.queue_declare("", exclusive=True, arguments=arguments).method.queue
        opened.confirm_delivery()
        yield opened, queue, dead, exchange


def arrives(opened, queue):
    checks.until(lambda: count(opened, queue) > 0, f"a message in {queue}")
    return take(opened, queue)


def the_rejected_go_to_the_exchange():
    with dead_lettering() as (opened, queue, dead, exchange):
        properties = pika.BasicProperties(delivery_mode=2, correlation_id="7", headers={"mine": 1})
        opened.basic_publish("", queue, b"unwanted", properties)
        method, _, _ = take(opened, queue, auto_ack=False)
        opened.basic_nack(method.delivery_tag, requeue=False)
        method, properties, content = arrives(opened, dead)
        checks.equal(content, b"unwanted", "body")
        checks.equal((method.exchange, method.routing_key), (exchange, "some-routing-key"), "route")
        checks.equal((properties.correlation_id, properties.headers["mine"]), ("7", 1), "properties")
        (death,) = properties.headers["x-death"]
        checks.equal((death["queue"], death["reason"], death["count"]), (queue, "rejected", 1), "x-death")
        checks.equal((death["exchange"], death["routing-keys"]), ("", [queue]), "where it was published to")
        checks.true(death["time"].year > 2000, "the time of the death")
        checks.equal(properties.headers["x-first-death-queue"], queue, "x-first-death-queue")


def what_is_too_much_goes_there():
    with dead_lettering(**{"x-max-length": 2}) as (opened, queue, dead, _):
        for body in (b"1", b"2", b"3"):
            opened.basic_publish("", queue, body)
        _, properties, content = arrives(opened, dead)
        checks.equal((content, properties.headers["x-death"][0]["reason"]), (b"1", "maxlen"), "dead letter")
        checks.equal([take(opened, queue)[2] for _ in range(2)], [b"2", b"3"], "what stays")


def a_worker_gives_up_after_some_attempts():
    """Attempts are counted by x-death: the queue dead-letters into itself."""
    with channel() as opened:
        queue = checks.name("work")
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue}
        opened.queue_declare(queue, exclusive=True, arguments=arguments)
        opened.basic_publish("", queue, b"poison")
        attempts = 0
        for method, properties, _ in opened.consume(queue, inactivity_timeout=10):
            checks.true(method is not None, "a delivery within 10 s")
            attempts += 1
            deaths = (properties.headers or {}).get("x-death", [{"count": 0}])
            checks.equal(deaths[0]["count"], attempts - 1, "attempts so far")
            if attempts == 4:
                opened.basic_ack(method.delivery_tag)
                break
            opened.basic_nack(method.delivery_tag, requeue=False)
        opened.cancel()
        checks.equal(count(opened, queue), 0, "nothing is left")


def a_key_needs_an_exchange():
    with channel() as opened:
        queue = checks.name("keyed")
        text = f"PRECONDITION_FAILED - invalid arg 'x-dead-letter-routing-key' for queue '{queue}' in vhost '/': "
        text += "routing_key_but_no_dlx_defined"
        arguments = {"x-dead-letter-routing-key": "k"}
        refused(opened.connection, 406, text, lambda victim: victim.queue_declare(queue, arguments=arguments))


checks.run(
    the_rejected_go_to_the_exchange,
    what_is_too_much_goes_there,
    a_worker_gives_up_after_some_attempts,
    a_key_needs_an_exchange,
)
