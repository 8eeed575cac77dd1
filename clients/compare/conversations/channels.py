"""Opening and closing channels, channel.flow, access.request and errors that close one or all."""

from peer import Channel

from . import conversation


@conversation
def channel_opens_and_closes(c):
    peer = c.connect()
    channel = Channel(peer, 1)
    channel.call("channel.open")
    channel.call("channel.close", reply_code=200, reply_text="done")
    channel.call("channel.open")


@conversation
def channel_open_twice(c):
    channel = c.open()
    channel.call("channel.open")
    channel.peer.expect_end()


@conversation
def method_on_a_channel_never_opened(c):
    peer = c.connect()
    Channel(peer, 7).call("basic.qos")
    peer.expect_end()


@conversation
def method_on_a_closed_channel(c):
    channel = c.open()
    channel.call("channel.close", reply_code=200, reply_text="done")
    channel.call("basic.qos")
    channel.peer.expect_end()


@conversation
def channel_error_leaves_other_channels(c):
    first = c.open()
    second = first.peer.channel(2)
    first.call("queue.declare", queue="nope", passive=True)
    second.call("basic.qos")
    first.call("channel.open")
    first.call("basic.qos")


@conversation
def methods_after_an_error_are_dropped(c):
    channel = c.open()
    channel.send("queue.declare", queue="nope", passive=True)
    channel.send("basic.qos", prefetch_count=1)
    channel.send("queue.declare", queue="", exclusive=True)
    channel.receive()
    channel.drain()
    channel.call("channel.open")


@conversation
def nowait_does_not_hide_errors(c):
    channel = c.open()
    channel.call("queue.purge", queue="nope", nowait=True)


@conversation
def flow_on_and_off(c):
    channel = c.open()
    channel.call("channel.flow", active=True)
    channel.call("channel.flow", active=False)
    channel.peer.expect_end()


@conversation
def access_request(c):
    c.open().call("access.request", realm="/data", active=True, read=True, write=True)


@conversation
def client_sends_a_broker_method(c):
    channel = c.open()
    channel.call("basic.consume-ok", consumer_tag="t")
    channel.peer.expect_end()


@conversation
def client_sends_channel_close_ok_unasked(c):
    channel = c.open()
    # Nothing may follow: whether RabbitMQ's reader or its channel sees that first is chance.
    channel.call("channel.close-ok")
    channel.peer.expect_end()


@conversation
def highest_channel_number(c):
    c.connect().channel(2047).call("basic.qos")


@conversation
def channel_number_above_the_maximum(c):
    peer = c.connect(channel_max=10)
    Channel(peer, 11).call("channel.open")
