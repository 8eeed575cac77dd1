"""pika: time to live of messages and queues, as RabbitMQ's documentation shows it."""

import time

import checks
import pika
from session import channel, count, refused, take


def declared(opened, **arguments):
    named = {"x-" + name.replace("_", "-"): value for name, value in arguments.items()}
    return opened.queue_declare("", exclusive=True, arguments=named).method.queue


def the_messages_of_a_queue_expire():
    with channel() as opened:
        opened.confirm_delivery()
        queue = declared(opened, message_ttl=200)
        start = time.monotonic()
        opened.basic_publish("", queue, b"short-lived")
        checks.equal(count(opened, queue), 1, "messages at first")
        checks.until(lambda: count(opened, queue) == 0, "the message has expired")
        checks.true(time.monotonic() - start >= 0.199, "and not too early")


def one_message_expires_before_another():
    with channel() as opened:
        opened.confirm_delivery()
        queue = declared(opened)
        for text, expiration in (("long", "600000"), ("short", "60"), ("for ever", None)):
            opened.basic_publish("", queue, text.encode(), pika.BasicProperties(expiration=expiration))
        checks.until(lambda: count(opened, queue) == 2, "the second message has expired")
        _, properties, content = take(opened, queue)
        checks.equal((content, properties.expiration), (b"long", "600000"), "the first message")
        checks.equal(take(opened, queue)[2], b"for ever", "the third message")


def expired_messages_are_dead_lettered():
    with channel() as opened:
        opened.confirm_delivery()
        dead = declared(opened)
        queue = declared(opened, message_ttl=50, dead_letter_exchange="", dead_letter_routing_key=dead)
        opened.basic_publish("", queue, b"late", pika.BasicProperties(expiration="60000"))
        checks.until(lambda: count(opened, dead) == 1, "the message is dead-lettered")
        _, properties, _ = take(opened, dead)
        death = properties.headers["x-death"][0]
        told = (death["reason"], death["queue"], death["original-expiration"], properties.expiration)
        checks.equal(told, ("expired", queue, "60000", None), "death")


def a_queue_nobody_uses_expires():
    with channel() as opened:
        queue = declared(opened, expires=1000)
        witness = declared(opened, expires=200)
        opened.confirm_delivery()

        def gone():
            try:
                opened.basic_publish("", witness, b"?", mandatory=True)
            except pika.exceptions.UnroutableError:
                return True
            return False

        checks.until(gone, "the other queue has expired")
        checks.equal(count(opened, queue), 0, "messages of the queue that is there")
        text = f"NOT_FOUND - no queue '{witness}' in vhost '/'"
        refused(opened.connection, 404, text, lambda victim: victim.queue_declare(witness, passive=True))


def times_are_checked():
    with channel() as opened:
        bad = pika.BasicProperties(expiration="soon")
        text = "PRECONDITION_FAILED - invalid expiration 'soon': no_integer"
        refused(opened.connection, 406, text, lambda victim: victim.basic_publish("", "any", b"x", bad))
        name = checks.name("bad")
        text = f"PRECONDITION_FAILED - invalid arg 'x-expires' for queue '{name}' in vhost '/': {{value_zero,0}}"
        refused(opened.connection, 406, text, lambda victim: victim.queue_declare(name, arguments={"x-expires": 0}))


checks.run(
    the_messages_of_a_queue_expire,
    one_message_expires_before_another,
    expired_messages_are_dead_lettered,
    a_queue_nobody_uses_expires,
    times_are_checked,
)
