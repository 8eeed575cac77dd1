"""Malformed frames, and content assembled at odd splits."""

import struct

from frames import BODY, HEADER, METHOD, Typed, header_payload, method_payload

from . import conversation

SILENCE_SECONDS = 5  # Where RabbitMQ 3.10 waits for ever.
PUBLISH = {"exchange": "", "routing_key": "nobody"}


def broken(c, kind, payload, channel=1, **options):
    opened = c.open()
    opened.peer.frame(kind, channel, payload, **options)
    opened.peer.expect_end()


@conversation
def unknown_frame_type(c):
    broken(c, 9, b"abc")


@conversation
def bad_frame_end(c):
    broken(c, METHOD, method_payload("channel.flow", {"active": True}), end=0)


@conversation
def frame_larger_than_negotiated(c):
    opened = c.open()
    opened.peer.raw(struct.pack(">BHI", BODY, 1, 140000) + bytes(140001))
    opened.peer.expect_end()


@conversation
def truncated_method(c):
    broken(c, METHOD, method_payload("basic.ack", {})[:5])


@conversation
def shortstr_not_utf8(c):
    broken(c, METHOD, method_payload("queue.declare", {"queue": b"\xff\xfe"}))


@conversation
def unknown_class(c):
    broken(c, METHOD, struct.pack(">HH", 99, 10))


@conversation
def unknown_method(c):
    broken(c, METHOD, struct.pack(">HH", 50, 99))


@conversation
def empty_method_frame(c):
    broken(c, METHOD, b"")


@conversation
def header_when_a_method_is_due(c):
    broken(c, HEADER, header_payload(0, {}))


@conversation
def body_when_a_method_is_due(c):
    broken(c, BODY, b"abc")


@conversation
def method_when_a_header_is_due(c):
    channel = c.open()
    channel.send("basic.publish", **PUBLISH)
    channel.send("basic.qos")
    channel.peer.expect_end()


@conversation
def body_when_a_header_is_due(c):
    channel = c.open()
    channel.send("basic.publish", **PUBLISH)
    channel.peer.frame(BODY, 1, b"abc")
    channel.peer.expect_end()


@conversation
def header_of_another_class(c):
    channel = c.open()
    channel.send("basic.publish", **PUBLISH)
    channel.peer.frame(HEADER, 1, header_payload(0, {}, class_id=50))
    channel.peer.expect_end()


@conversation
def method_when_a_body_is_due(c):
    channel = c.open()
    channel.send("basic.publish", **PUBLISH)
    channel.peer.frame(HEADER, 1, header_payload(3, {}))
    channel.send("basic.qos")
    channel.peer.expect_end()


@conversation
def body_longer_than_declared(c):
    channel = c.open()
    channel.send("basic.publish", **PUBLISH)
    channel.peer.frame(HEADER, 1, header_payload(3, {}))
    channel.peer.frame(BODY, 1, b"abcd")
    channel.peer.expect_end(within=SILENCE_SECONDS)


@conversation
def body_declared_beyond_any_limit(c):
    channel = c.open()
    channel.send("basic.publish", **PUBLISH)
    channel.peer.frame(HEADER, 1, header_payload(629145600, {}))
    channel.peer.expect_end(within=SILENCE_SECONDS)


@conversation
def body_of_exactly_the_frame_size(c):
    channel = c.open()
    queue = c.q()
    channel.call("queue.declare", queue=queue)
    for size in (131063, 131064, 131065):
        channel.publish("", queue, bytes(size))
        channel.call("basic.get", queue=queue, no_ack=True)


@conversation
def body_in_odd_pieces(c):
    channel = c.open()
    queue = c.q()
    channel.call("queue.declare", queue=queue)
    channel.publish("", queue, bytes(range(256)) * 40, splits=[1, 0, 4095, 2, 77, 0, 1000])
    channel.call("basic.get", queue=queue, no_ack=True)


@conversation
def empty_bodies(c):
    channel = c.open()
    queue = c.q()
    channel.call("queue.declare", queue=queue)
    channel.publish("", queue, b"")
    channel.send("basic.publish", exchange="", routing_key=queue)
    channel.peer.frame(HEADER, 1, header_payload(0, {"message_id": "second"}))
    for _ in range(2):
        channel.call("basic.get", queue=queue, no_ack=True)


@conversation
def content_interleaved_over_channels(c):
    first = c.open()
    second = first.peer.channel(2)
    queue = c.q()
    first.call("queue.declare", queue=queue)
    first.send("basic.publish", exchange="", routing_key=queue)
    second.send("basic.publish", exchange="", routing_key=queue)
    for channel, body in ((1, b"one"), (2, b"two")):
        first.peer.frame(HEADER, channel, header_payload(6, {}))
        first.peer.frame(BODY, channel, body)
    second.peer.frame(BODY, 2, b"TWO")
    second.ready(queue, 1)
    first.peer.frame(BODY, 1, b"ONE")
    for _ in range(2):
        first.call("basic.get", queue=queue, no_ack=True)


@conversation
def deliveries_obey_the_frame_size(c):
    publisher = c.open()
    queue = c.q()
    publisher.call("queue.declare", queue=queue)
    publisher.publish("", queue, bytes(range(250)) * 80)
    publisher.ready(queue, 1)
    c.open(frame_max=8192).call("basic.get", queue=queue, no_ack=True)


@conversation
def properties_keep_every_byte(c):
    channel = c.open()
    queue = c.q()
    channel.call("queue.declare", queue=queue)
    headers = {
        "S": "text", "I": Typed("I", -1), "i": Typed("i", 2**32 - 1), "l": Typed("l", -(2**63)), "s": Typed("s", -5),
        "u": Typed("u", 65535), "b": Typed("b", -128), "B": Typed("B", 255), "t": True, "d": 1.25, "f": Typed("f", 0.5),
        "T": Typed("T", 1_700_000_000), "D": Typed("D", (2, 314)), "F": {"in": {"deep": 1}}, "A": [1, "x", None, [True]],
        "x": b"\x00\xff", "V": None, "": "empty key",
    }  # fmt: skip
    everything = {
        "content_type": "a", "content_encoding": "b", "headers": headers, "delivery_mode": 2, "priority": 9,
        "correlation_id": "c", "reply_to": "d", "message_id": "e", "timestamp": 2**40, "type": "f",
        "user_id": c.user, "app_id": "g", "cluster_id": "h",
    }  # fmt: skip
    for properties in (everything, {}, {"headers": {}}, {"delivery_mode": 1}, {"content_type": ""}):
        channel.publish("", queue, b"m", **properties)
        channel.call("basic.get", queue=queue, no_ack=True)


@conversation
def delivery_mode_unknown(c):
    channel = c.open()
    queue = c.q()
    channel.call("queue.declare", queue=queue)
    channel.publish("", queue, delivery_mode=0)
    channel.call("basic.get", queue=queue, no_ack=True)
