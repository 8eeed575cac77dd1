"""pika: scheduled messages, as the README of RabbitMQ's plugin for delayed messages shows them, and beyond."""

import time

import checks
import pika
from session import channel, refused


def delayed(milliseconds):
    return pika.BasicProperties(headers={"x-delay": milliseconds})


def consumed(opened, queue, number):
    """The next messages of a queue, with their headers."""
    got = []
    for _, properties, content in opened.consume(queue, auto_ack=True, inactivity_timeout=20):
        checks.true(content is not None, f"{queue} gets a message")
        got.append((content.decode(), properties.headers))
        if len(got) == number:
            break
    opened.cancel()
    return got


def the_plugins_example():
    with channel() as opened:
        exchange = checks.name("delayed")
        arguments = {"x-delayed-type": "direct"}
        opened.exchange_declare(exchange, "x-delayed-message", auto_delete=True, arguments=arguments)
        queue = opened.queue_declare("", exclusive=True).method.queue
        opened.queue_bind(queue, exchange, "")
        opened.basic_publish(exchange, "", b"delayed payload", delayed(500))
        opened.basic_publish(exchange, "", b"more delayed payload", delayed(100))
        opened.basic_publish(exchange, "", b"not delayed")
        expected = [
            ("not delayed", None),
            ("more delayed payload", {"x-delay": -100}),
            ("delayed payload", {"x-delay": -500}),
        ]
        checks.equal(consumed(opened, queue, 3), expected, "in the order of their times")


def without_a_special_exchange():
    with channel() as opened:
        opened.confirm_delivery()
        queue = opened.queue_declare("", exclusive=True).method.queue
        start = time.time()
        opened.basic_publish("", queue, b"later", delayed(300), mandatory=True)
        at = int((start + 0.1) * 1000)
        opened.basic_publish("", queue, b"then", pika.BasicProperties(headers={"x-deliver-at": at}))
        checks.equal([content for content, _ in consumed(opened, queue, 2)], ["then", "later"], "order")
        checks.true(time.time() - start >= 0.298, "not too early")


def the_inner_type_must_be_known():
    connection = pika.BlockingConnection(pika.URLParameters(checks.URI))

    def declare(arguments):
        return lambda opened: opened.exchange_declare(
            checks.name("delayed"), "x-delayed-message", arguments=arguments
        )

    text = "PRECONDITION_FAILED - Invalid argument, 'x-delayed-type' must be an existing exchange type"
    refused(connection, 406, text, declare({}))
    text = "PRECONDITION_FAILED - Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'"
    refused(connection, 406, text, declare({"x-delayed-type": "x-delayed-message"}))
    connection.close()


checks.run(the_plugins_example, without_a_special_exchange, the_inner_type_must_be_known)
