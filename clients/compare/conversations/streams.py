"""Streams: declaration rules, reading from any offset, and what streams refuse."""

from frames import Typed

from . import conversation, kinds


def declare(c, channel, **arguments):
    """Declares a stream and returns its name."""
    return kinds.declare(c, channel, "stream", **arguments)


def filled(c, channel, count, **arguments):
    """A stream with the messages 0, 1, 2, ..., all of them confirmed."""
    queue = declare(c, channel, **arguments)
    c.fill(queue, *(b"%d" % number for number in range(count)))
    return queue


def read(channel, queue, count, prefetch=10, **arguments):
    """Consumes `count` messages of a stream."""
    channel.call("basic.qos", prefetch_count=prefetch)
    channel.call(
        "basic.consume",
        queue=queue,
        consumer_tag="t",
        arguments={name.replace("_", "-"): value for name, value in arguments.items()},
    )
    for _ in range(count):
        channel.receive()


kinds.declaration_rules("stream")


@conversation
def stream_server_named(c):
    channel = c.open()
    channel.call("queue.declare", queue="", durable=True, arguments={"x-queue-type": "stream"})


@conversation
def stream_with_all_its_arguments(c):
    channel = c.open()
    given = {
        "x_max_age": "1D",
        "x_max_length_bytes": 20_000_000,
        "x_stream_max_segment_size_bytes": 1_000_000,
        "x_initial_cluster_size": 1,
        "x_queue_leader_locator": "client-local",
    }
    declare(c, channel, **given)
    declare(c, channel, **given)


@conversation
def stream_redeclared_with_other_age(c):
    channel = c.open()
    declare(c, channel, x_max_age="1D")
    declare(c, channel, x_max_age="2D")


@conversation
def stream_redeclared_with_other_length(c):
    channel = c.open()
    declare(c, channel, x_max_length_bytes=1000)
    declare(c, channel)


@conversation
def stream_redeclared_with_other_segment_size(c):
    channel = c.open()
    declare(c, channel)
    declare(c, channel, x_stream_max_segment_size_bytes=100000)


@conversation
def stream_redeclared_with_other_cluster_size(c):
    channel = c.open()
    declare(c, channel, x_initial_cluster_size=1)
    declare(c, channel, x_initial_cluster_size=2)


kinds.declaration_arguments(
    "stream",
    [
        ("max_age_nonsense", "x_max_age", "nonsense"),
        ("max_age_without_unit", "x_max_age", "10"),
        ("max_age_zero", "x_max_age", "0s"),
        ("max_age_negative", "x_max_age", "-1D"),
        ("max_age_fraction", "x_max_age", "1.5D"),
        ("max_age_a_number", "x_max_age", 5),
        ("max_age_years", "x_max_age", "1Y"),
        ("max_age_months", "x_max_age", "1M"),
        ("max_age_unit_unknown", "x_max_age", "1x"),
        ("max_length_bytes_negative", "x_max_length_bytes", -1),
        ("max_length_bytes_zero", "x_max_length_bytes", 0),
        ("max_length_bytes_text", "x_max_length_bytes", "1"),
        ("segment_size_negative", "x_stream_max_segment_size_bytes", -1),
        ("segment_size_zero", "x_stream_max_segment_size_bytes", 0),
        ("segment_size_largest", "x_stream_max_segment_size_bytes", Typed("l", 3_000_000_000)),
        ("segment_size_too_large", "x_stream_max_segment_size_bytes", Typed("l", 3_000_000_001)),
        ("segment_size_text", "x_stream_max_segment_size_bytes", "1"),
        ("filter_size_15", "x_stream_filter_size_bytes", 15),
        ("filter_size_16", "x_stream_filter_size_bytes", 16),
        ("filter_size_255", "x_stream_filter_size_bytes", 255),
        ("filter_size_256", "x_stream_filter_size_bytes", 256),
        ("filter_size_text", "x_stream_filter_size_bytes", "16"),
        ("cluster_size_zero", "x_initial_cluster_size", 0),
        ("cluster_size_text", "x_initial_cluster_size", "1"),
        ("cluster_size_large", "x_initial_cluster_size", 3),
        ("leader_locator_unknown", "x_queue_leader_locator", "nowhere"),
        ("leader_locator_balanced", "x_queue_leader_locator", "balanced"),
        ("leader_locator_least_leaders", "x_queue_leader_locator", "least-leaders"),
        ("leader_locator_a_number", "x_queue_leader_locator", 1),
        ("with_expires", "x_expires", 1000),
        ("with_message_ttl", "x_message_ttl", 1000),
        ("with_max_length", "x_max_length", 10),
        ("with_overflow", "x_overflow", "drop-head"),
        ("with_dead_letter_exchange", "x_dead_letter_exchange", "amq.direct"),
        ("with_max_priority", "x_max_priority", 5),
        ("with_queue_mode", "x_queue_mode", "lazy"),
        ("with_queue_version", "x_queue_version", 2),
        ("with_delivery_limit", "x_delivery_limit", 2),
        ("with_single_active_consumer", "x_single_active_consumer", True),
        ("with_group_size", "x_quorum_initial_group_size", 1),
        ("with_unknown_argument", "x_own", 1),
    ],
)


@conversation
def stream_max_age_on_classic(c):
    channel = c.open()
    channel.call("queue.declare", queue=c.q(), durable=True, arguments={"x-max-age": "1D"})


@conversation
def stream_purge(c):
    channel = c.open()
    queue = filled(c, channel, 2)
    channel.call("queue.purge", queue=queue)
    channel.peer.expect_end()


@conversation
def stream_get(c):
    channel = c.open()
    queue = filled(c, channel, 2)
    channel.call("basic.get", queue=queue)
    channel.peer.expect_end()


@conversation
def stream_delete_if_unused(c):
    channel = c.open()
    queue = filled(c, channel, 1)
    read(channel, queue, 1, x_stream_offset="first")
    other = channel.peer.channel(2)
    other.call("queue.delete", queue=queue, if_unused=True)


@conversation
def stream_delete_if_empty(c):
    channel = c.open()
    queue = filled(c, channel, 1)
    channel.call("queue.delete", queue=queue, if_empty=True)


@conversation
def stream_delete_with_consumer(c):
    channel = c.open()
    queue = filled(c, channel, 1)
    read(channel, queue, 1, x_stream_offset="first")
    other = channel.peer.channel(2)
    other.call("queue.delete", queue=queue)
    channel.receive()


@conversation
def stream_passive_declare_counts(c):
    channel = c.open()
    queue = filled(c, channel, 3)
    read(channel, queue, 3, x_stream_offset="first")
    channel.ready(queue, 3)
    channel.call("queue.declare", queue=queue, passive=True)


@conversation
def stream_consume_without_prefetch(c):
    channel = c.open()
    queue = declare(c, channel)
    channel.call("basic.consume", queue=queue, consumer_tag="t")


@conversation
def stream_consume_without_acks(c):
    channel = c.open()
    queue = declare(c, channel)
    channel.call("basic.qos", prefetch_count=1)
    channel.call("basic.consume", queue=queue, consumer_tag="t", no_ack=True)
    channel.peer.expect_end()


@conversation
def stream_consume_with_global_qos(c):
    channel = c.open()
    queue = declare(c, channel)
    channel.call("basic.qos", prefetch_count=1, **{"global": True})
    channel.call("basic.consume", queue=queue, consumer_tag="t")
    channel.peer.expect_end()


@conversation
def stream_consume_exclusive(c):
    channel = c.open()
    queue = filled(c, channel, 1)
    channel.call("basic.qos", prefetch_count=1)
    channel.call(
        "basic.consume", queue=queue, consumer_tag="t", exclusive=True, arguments={"x-stream-offset": "first"}
    )
    channel.receive()
    other = channel.peer.channel(2)
    other.call("basic.qos", prefetch_count=1)
    other.call("basic.consume", queue=queue, consumer_tag="u", arguments={"x-stream-offset": "first"})
    other.receive()


def stream_offset(case, offset, count):
    def script(c):
        channel = c.open()
        queue = filled(c, channel, 4)
        read(channel, queue, count, x_stream_offset=offset)
        c.fill(queue, b"later")
        channel.receive()

    script.__name__ = f"stream_offset_{case}"
    conversation(script)


for case, offset, count in [
    ("first", "first", 4),
    ("next", "next", 0),
    ("number", Typed("l", 2), 2),
    ("int", 1, 3),
    ("at_the_end", Typed("l", 4), 0),
    ("long_ago", Typed("T", 1000), 4),
    ("in_the_future", Typed("T", 4_000_000_000), 0),
    ("interval", "1h", 4),
]:
    stream_offset(case, offset, count)


@conversation
def stream_offset_beyond_the_end(c):
    channel = c.open()
    queue = filled(c, channel, 2)
    read(channel, queue, 0, x_stream_offset=Typed("l", 4))
    c.fill(queue, b"2", b"3", b"4")
    channel.receive()


@conversation
def stream_offset_absent_is_next(c):
    channel = c.open()
    queue = filled(c, channel, 2)
    read(channel, queue, 0)
    c.fill(queue, b"later")
    channel.receive()


def bad_offset(case, offset):
    def script(c):
        channel = c.open()
        queue = declare(c, channel)
        read(channel, queue, 0, x_stream_offset=offset)

    script.__name__ = f"stream_bad_offset_{case}"
    conversation(script)


for case, offset in [
    ("word", "foo"),
    ("negative", Typed("l", -1)),
    ("bool", True),
    ("interval_without_unit", "7"),
    ("interval_unknown_unit", "7x"),
    ("void", None),
    ("double", 1.5),
]:
    bad_offset(case, offset)


@conversation
def stream_offset_on_classic(c):
    channel = c.open()
    channel.call("queue.declare", queue=c.q())
    channel.call("basic.qos", prefetch_count=1)
    channel.call("basic.consume", queue=c.q(), consumer_tag="t", arguments={"x-stream-offset": "first"})


@conversation
def stream_consumer_priority(c):
    channel = c.open()
    queue = filled(c, channel, 1)
    read(channel, queue, 1, x_stream_offset="first", x_priority=5)


@conversation
def stream_acks_are_credit(c):
    channel = c.open()
    queue = filled(c, channel, 5)
    read(channel, queue, 2, prefetch=2, x_stream_offset="first")
    for tag in (1, 2, 3):
        channel.send("basic.ack", delivery_tag=tag)
        channel.receive()


@conversation
def stream_acks_many(c):
    channel = c.open()
    queue = filled(c, channel, 6)
    read(channel, queue, 3, prefetch=3, x_stream_offset="first")
    channel.send("basic.ack", delivery_tag=3, multiple=True)
    for _ in range(3):
        channel.receive()


@conversation
def stream_cancel_and_consume_again(c):
    channel = c.open()
    queue = filled(c, channel, 3)
    read(channel, queue, 3, x_stream_offset="first")
    channel.call("basic.cancel", consumer_tag="t")
    read(channel, queue, 1, x_stream_offset=Typed("l", 2))


@conversation
def stream_two_readers(c):
    channel = c.open()
    queue = filled(c, channel, 3)
    read(channel, queue, 3, x_stream_offset="first")
    read(channel.peer.channel(2), queue, 1, x_stream_offset=Typed("l", 2))


@conversation
def stream_properties_come_through(c):
    channel = c.open()
    queue = declare(c, channel)
    other = channel.peer.channel(2)
    other.call("confirm.select")
    other.publish("", queue, b"plain")
    other.publish("", queue, b"all", content_type="a/b", content_encoding="gzip", headers={"b": 1, "z": "x"}, delivery_mode=2)
    other.publish("", queue, b"more", priority=3, correlation_id="c", message_id="m", timestamp=7, type="t", app_id="a")
    other.publish("", queue, b"again", headers={"x-stream-offset": Typed("l", 77), "k": True}, delivery_mode=1)
    other.publish("", queue, b"", headers={})
    other.confirms(5)
    read(channel, queue, 5, x_stream_offset="first")


@conversation
def stream_bound_to_exchange(c):
    channel = c.open()
    queue = declare(c, channel)
    channel.call("queue.bind", queue=queue, exchange="amq.topic", routing_key="a.#")
    other = channel.peer.channel(2)
    other.call("confirm.select")
    other.publish("amq.topic", "a.b", b"1", mandatory=True)
    other.confirms(1)
    read(channel, queue, 1, x_stream_offset="first")


@conversation
def stream_in_transaction(c):
    channel = c.open()
    queue = declare(c, channel)
    other = channel.peer.channel(2)
    other.call("tx.select")
    other.publish("", queue, b"1")
    other.call("tx.commit")
    read(channel, queue, 1, x_stream_offset="first")
