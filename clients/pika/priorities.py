"""pika: queues with priorities, as RabbitMQ's documentation shows them."""

import checks
import pika
from session import channel, count, refused, take


def declared(opened, maximum, **more):
    arguments = {"x-max-priority": maximum, **more}
    return opened.queue_declare("", exclusive=True, arguments=arguments).method.queue


def publish(opened, queue, *priorities):
    """A message for each priority; its body says it."""
    for priority in priorities:
        properties = pika.BasicProperties(priority=priority)
        opened.basic_publish("", queue, str(priority).encode(), properties)


def drained(opened, queue):
    return [take(opened, queue)[2].decode() for _ in range(count(opened, queue))]


def higher_priorities_overtake():
    with channel() as opened:
        opened.confirm_delivery()
        queue = declared(opened, 10)
        publish(opened, queue, 0, None, 5, 10, 200, 1)
        checks.equal(drained(opened, queue), ["10", "200", "5", "1", "0", "None"], "order")


def a_consumer_with_prefetch_gets_the_highest_next():
    with channel() as opened:
        opened.confirm_delivery()
        queue = declared(opened, 5)
        publish(opened, queue, 1, 2, 3)
        opened.basic_qos(prefetch_count=1)
        got = []
        for method, _, content in opened.consume(queue, inactivity_timeout=10):
            checks.true(method is not None, "a delivery within 10 s")
            got.append(content.decode())
            if len(got) == 1:
                publish(opened, queue, 5, 4)
            opened.basic_ack(method.delivery_tag)
            if len(got) == 5:
                break
        opened.cancel()
        checks.equal(got, ["3", "5", "4", "2", "1"], "deliveries")


def a_rejected_message_keeps_its_place():
    with channel() as opened:
        opened.confirm_delivery()
        queue = declared(opened, 5)
        publish(opened, queue, 3, 3)
        method, _, _ = take(opened, queue, auto_ack=False)
        publish(opened, queue, 3, 4)
        opened.basic_nack(method.delivery_tag, requeue=True)
        checks.until(lambda: count(opened, queue) == 4, "the message is back")
        order = [take(opened, queue) for _ in range(4)]
        flags = [(content.decode(), method.redelivered) for method, _, content in order]
        checks.equal(flags, [("4", False), ("3", True), ("3", False), ("3", False)], "order and flags")


def arguments_are_checked():
    with channel() as opened:
        queue = checks.name("checked")
        opened.queue_declare(queue, exclusive=True, arguments={"x-max-priority": 3})
        text = f"PRECONDITION_FAILED - inequivalent arg 'x-max-priority' for queue '{queue}' in vhost '/': "
        text += "received '4' but current is '3'"
        refused(
            opened.connection,
            406,
            text,
            lambda victim: victim.queue_declare(queue, exclusive=True, arguments={"x-max-priority": 4}),
        )
        other = checks.name("other")
        text = f"PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue '{other}' in vhost '/': "
        text += "{max_value_exceeded,256}"
        refused(
            opened.connection,
            406,
            text,
            lambda victim: victim.queue_declare(other, arguments={"x-max-priority": 256}),
        )


checks.run(
    higher_priorities_overtake,
    a_consumer_with_prefetch_gets_the_highest_next,
    a_rejected_message_keeps_its_place,
    arguments_are_checked,
)
