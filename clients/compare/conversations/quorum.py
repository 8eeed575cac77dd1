"""Quorum queues: declaration rules, and what is done with their messages."""

from . import conversation


def declare(c, channel, stem="q", durable=True, exclusive=False, auto_delete=False, **arguments):
    """Declares a quorum queue and returns its name."""
    named = {"x-queue-type": "quorum"} | {name.replace("_", "-"): value for name, value in arguments.items()}
    queue = c.q(stem)
    channel.call(
        "queue.declare",
        queue=queue,
        durable=durable,
        exclusive=exclusive,
        auto_delete=auto_delete,
        arguments=named,
    )
    return queue


@conversation
def quorum_declared_twice(c):
    channel = c.open()
    declare(c, channel)
    declare(c, channel)


@conversation
def quorum_redeclared_as_classic(c):
    channel = c.open()
    queue = declare(c, channel)
    channel.call("queue.declare", queue=queue, durable=True)


@conversation
def classic_redeclared_as_quorum(c):
    channel = c.open()
    channel.call("queue.declare", queue=c.q(), durable=True)
    declare(c, channel)


@conversation
def quorum_not_durable(c):
    declare(c, c.open(), durable=False)


@conversation
def quorum_exclusive(c):
    declare(c, c.open(), exclusive=True)


@conversation
def quorum_auto_delete(c):
    declare(c, c.open(), auto_delete=True)


@conversation
def quorum_redeclared_with_other_length(c):
    channel = c.open()
    declare(c, channel, x_max_length=1000)
    declare(c, channel)


def quorum_argument(name, script_name, value):
    def script(c):
        declare(c, c.open(), **{name: value})

    script.__name__ = f"quorum_{script_name}"
    conversation(script)


for case, argument, value in [
    ("group_size_zero", "x_quorum_initial_group_size", 0),
    ("group_size_negative", "x_quorum_initial_group_size", -1),
    ("group_size_text", "x_quorum_initial_group_size", "1"),
    ("group_size_large", "x_quorum_initial_group_size", 5),
    ("max_length", "x_max_length", 10),
    ("max_length_negative", "x_max_length", -1),
    ("overflow_reject_publish", "x_overflow", "reject-publish"),
    ("overflow_unknown", "x_overflow", "nonsense"),
    ("single_active_consumer", "x_single_active_consumer", True),
    ("max_in_memory_length", "x_max_in_memory_length", 10),
    ("max_in_memory_bytes", "x_max_in_memory_bytes", 10),
    ("leader_locator_unknown", "x_queue_leader_locator", "nowhere"),
    ("leader_locator_balanced", "x_queue_leader_locator", "balanced"),
    ("with_queue_mode", "x_queue_mode", "lazy"),
    ("with_queue_version", "x_queue_version", 2),
    ("with_max_age", "x_max_age", "1D"),
    ("with_segment_size", "x_stream_max_segment_size_bytes", 1000),
    ("with_initial_cluster_size", "x_initial_cluster_size", 1),
    ("with_unknown_argument", "x_own", 1),
]:
    quorum_argument(argument, case, value)


@conversation
def quorum_get_and_acknowledge(c):
    channel = c.open()
    queue = declare(c, channel)
    c.fill(queue, b"a", b"b")
    channel.call("basic.get", queue=queue, no_ack=False)
    channel.call("basic.get", queue=queue, no_ack=True)
    channel.call("basic.get", queue=queue, no_ack=True)
    channel.call("queue.purge", queue=queue)


@conversation
def quorum_delete(c):
    channel = c.open()
    queue = declare(c, channel)
    c.fill(queue, b"a", b"b")
    channel.call("queue.delete", queue=queue)


@conversation
def quorum_delete_if_empty(c):
    channel = c.open()
    queue = declare(c, channel)
    channel.call("queue.delete", queue=queue, if_empty=True)


@conversation
def quorum_delete_if_unused(c):
    channel = c.open()
    queue = declare(c, channel)
    channel.call("queue.delete", queue=queue, if_unused=True)
