"""Queue arguments that are checked when a queue is declared."""

from . import conversation


def refused(c, **arguments):
    named = {name.replace("_", "-"): value for name, value in arguments.items()}
    channel = c.open()
    channel.call("queue.declare", queue=c.q(), durable=True, arguments=named)


@conversation
def expires_zero(c):
    refused(c, x_expires=0)


@conversation
def expires_not_a_number(c):
    refused(c, x_expires="soon")


@conversation
def message_ttl_negative(c):
    refused(c, x_message_ttl=-1)


@conversation
def max_length_negative(c):
    refused(c, x_max_length=-1)


@conversation
def max_priority_too_high(c):
    refused(c, x_max_priority=256)


@conversation
def overflow_unknown(c):
    refused(c, x_overflow="nonsense")


@conversation
def dead_letter_key_without_exchange(c):
    refused(c, x_dead_letter_routing_key="k")


@conversation
def dead_letter_exchange_of_wrong_type(c):
    refused(c, x_dead_letter_exchange=1)


@conversation
def queue_type_unknown(c):
    refused(c, x_queue_type="nonsense")


@conversation
def queue_type_classic(c):
    channel = c.open()
    for _ in range(2):
        channel.call("queue.declare", queue=c.q(), durable=True, arguments={"x-queue-type": "classic"})


@conversation
def queue_type_absent_is_classic(c):
    channel = c.open()
    channel.call("queue.declare", queue=c.q(), durable=True)
    channel.call("queue.declare", queue=c.q(), durable=True, arguments={"x-queue-type": "classic"})


@conversation
def arguments_may_use_any_table_type(c):
    channel = c.open()
    channel.call("queue.declare", queue=c.q(), arguments={"x-own": {"a": [1, None, True, b"\xff"]}, "plain": 1.5})
    channel.call("queue.declare", queue=c.q(), arguments={})


@conversation
def delivery_limit_of_a_classic_queue(c):
    refused(c, x_delivery_limit=1)


@conversation
def delivery_limit_of_wrong_type(c):
    refused(c, x_delivery_limit="few")


@conversation
def consumer_timeout_of_a_classic_queue(c):
    refused(c, x_consumer_timeout=60000)


@conversation
def consumer_timeout_of_a_consumer(c):
    channel = c.open()
    queue = c.q()
    channel.call("queue.declare", queue=queue)
    channel.call("basic.consume", queue=queue, consumer_tag="t", arguments={"x-consumer-timeout": 60000})
