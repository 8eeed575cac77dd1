"""Protocol headers, authentication, tuning, connection.open and heartbeats."""

import time

from frames import HEARTBEAT, METHOD, PROTOCOL_HEADER, Typed, frame, method_payload, table
from peer import PATIENCE_SECONDS, Channel

from . import conversation


def greeted(c):
    """A connection whose connection.start was read; only the complete handshake notes it."""
    peer = c.socket()
    peer.raw(PROTOCOL_HEADER)
    with peer.hush():
        peer.zero.receive()
    return peer


def tuned(c, **tuning):
    """Up to tune-ok with these values; whatever the broker makes of connection.open is noted."""
    peer = greeted(c)
    peer.start_ok()
    peer.zero.receive()
    peer.zero.send("connection.tune-ok", **tuning)
    peer.zero.call("connection.open", virtual_host=c.virtual_host)
    return peer


@conversation
def complete_handshake(c):
    peer = c.socket()
    peer.raw(PROTOCOL_HEADER)
    peer.zero.receive()
    peer.start_ok()
    peer.zero.receive()
    peer.zero.send("connection.tune-ok", channel_max=2047, frame_max=131072, heartbeat=0)
    peer.zero.call("connection.open", virtual_host=c.virtual_host)
    peer.zero.call("connection.close", reply_code=200, reply_text="bye")


@conversation
def old_protocol_header_is_taken_as_0_9_1(c):
    peer = c.socket()
    peer.raw(b"AMQP\x01\x01\x00\x09")
    with peer.hush():
        peer.zero.receive()
    peer.start_ok()
    peer.zero.receive()


@conversation
def newer_protocol_header(c):
    peer = c.socket()
    peer.raw(b"AMQP\x00\x00\x0a\x00")
    peer.expect_end()


@conversation
def http_request(c):
    peer = c.socket()
    peer.raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    peer.expect_end()


@conversation
def amqplain_login(c):
    peer = greeted(c)
    # The response is a field table without the length in front of it.
    response = table({"LOGIN": c.user, "PASSWORD": c.password})[4:]
    peer.start_ok(mechanism="AMQPLAIN", response=response)
    peer.zero.receive()


@conversation
def wrong_password_with_the_capability(c):
    peer = greeted(c)
    peer.start_ok(password="wrong")
    peer.expect_end()


@conversation
def wrong_password_without_the_capability(c):
    peer = greeted(c)
    peer.start_ok(password="wrong", capabilities=None)
    peer.expect_end()


@conversation
def unknown_user(c):
    peer = greeted(c)
    peer.start_ok(user="nobody")
    peer.expect_end()


@conversation
def unknown_mechanism(c):
    peer = greeted(c)
    peer.start_ok(mechanism="NOSUCH")
    peer.expect_end()


@conversation
def malformed_plain_response(c):
    peer = greeted(c)
    peer.start_ok(response="guest")
    peer.expect_end()


@conversation
def missing_virtual_host(c):
    peer = greeted(c)
    peer.start_ok()
    peer.zero.receive()
    peer.zero.send("connection.tune-ok", channel_max=0, frame_max=131072, heartbeat=0)
    peer.zero.call("connection.open", virtual_host="nope")
    peer.expect_end()


@conversation
def tune_everything_down(c):
    tuned(c, channel_max=1, frame_max=8192, heartbeat=30).channel(1).call("queue.declare", exclusive=True)


@conversation
def tune_frame_max_4096(c):
    tuned(c, channel_max=10, frame_max=4096, heartbeat=0)


@conversation
def tune_frame_max_too_small(c):
    tuned(c, channel_max=10, frame_max=4095, heartbeat=0).expect_end()


@conversation
def tune_frame_max_too_large(c):
    tuned(c, channel_max=10, frame_max=131073, heartbeat=0).expect_end()


@conversation
def tune_frame_max_unlimited(c):
    tuned(c, channel_max=10, frame_max=0, heartbeat=0).expect_end()


@conversation
def tune_channel_max_too_large(c):
    tuned(c, channel_max=2048, frame_max=131072, heartbeat=0).expect_end()


@conversation
def tune_channel_max_unlimited(c):
    tuned(c, channel_max=0, frame_max=131072, heartbeat=0).expect_end()


@conversation
def too_many_channels(c):
    peer = c.connect(channel_max=2)
    peer.channel(1).call("basic.qos")
    peer.channel(2).call("basic.qos")
    extra = Channel(peer, 3)
    extra.call("channel.open")
    peer.expect_end()


@conversation
def connection_open_twice(c):
    peer = c.connect()
    peer.zero.call("connection.open", virtual_host=c.virtual_host)
    peer.expect_end()


@conversation
def channel_method_on_channel_zero(c):
    peer = c.connect()
    peer.zero.call("queue.declare", queue="q")
    peer.expect_end()


@conversation
def connection_method_on_a_channel(c):
    channel = c.open()
    channel.call("connection.open", virtual_host=c.virtual_host)
    channel.peer.expect_end()


@conversation
def method_before_the_handshake(c):
    peer = greeted(c)
    peer.zero.send("connection.open", virtual_host=c.virtual_host)
    peer.expect_end()


@conversation
def broker_sends_heartbeats(c):
    peer = c.connect(heartbeat=1)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while peer.heartbeats < 2 and time.monotonic() < deadline:
        peer.raw(frame(HEARTBEAT, 0, b""))
        peer.pump(time.monotonic() + 0.2)
    peer.note(0, f"heartbeats: {'two or more' if peer.heartbeats >= 2 else peer.heartbeats}")


@conversation
def broker_drops_a_silent_client(c):
    peer = c.connect(heartbeat=1)
    began = time.monotonic()
    peer.expect_end()
    peer.note(0, f"ended after an interval, and soon: {1 <= time.monotonic() - began <= 10}")


@conversation
def heartbeat_on_a_channel(c):
    channel = c.open()
    channel.peer.frame(HEARTBEAT, 1, b"")
    channel.peer.expect_end()


@conversation
def update_secret(c):
    peer = c.connect()
    peer.zero.call("connection.update-secret", new_secret=c.password, reason="renewed")
    peer.channel(1).call("basic.qos")


@conversation
def client_properties_of_every_type(c):
    peer = greeted(c)
    properties = {"a": Typed("A", [1, "x", None]), "d": 1.5, "t": True, "f": {"g": Typed("s", -1)}, "connection_name": "named"}
    peer.zero.send(
        "connection.start-ok",
        client_properties=properties,
        mechanism="PLAIN",
        response=f"\0{c.user}\0{c.password}",
        locale="en_US",
    )
    peer.zero.receive()


@conversation
def close_reply_while_channels_are_open(c):
    peer = c.connect()
    peer.channel(1).send("queue.declare", queue="", exclusive=True)
    peer.channel(2)
    peer.zero.call("connection.close", reply_code=320, reply_text="going", class_id=0, method_id=0)


@conversation
def frame_octets_one_by_one(c):
    peer = c.connect()
    for octet in frame(METHOD, 1, method_payload("channel.open", {})):
        peer.raw(bytes([octet]))
    Channel(peer, 1).receive()
