"""Queues: declaring, naming, binding, purging, deleting, and who may touch an exclusive one."""

from . import conversation


@conversation
def queue_declare_every_kind(c):
    channel = c.open()
    kinds = {"durable": {"durable": True}, "transient": {}, "exclusive": {"exclusive": True}, "auto": {"auto_delete": True}}
    for kind, flags in kinds.items():
        name = c.q(kind)
        channel.call("queue.declare", queue=name, **flags)
        channel.call("queue.declare", queue=name, **flags)
        channel.call("queue.declare", queue=name, passive=True)
        channel.call("queue.delete", queue=name)
        channel.call("queue.delete", queue=name)


@conversation
def queue_server_named(c):
    channel = c.open()
    channel.call("queue.declare", exclusive=True)
    channel.publish("amq.direct", "", b"not bound yet")
    channel.call("queue.bind", exchange="amq.direct", routing_key="k")
    channel.publish("amq.direct", "k", b"bound")
    channel.call("basic.get", no_ack=True)
    channel.call("queue.purge")
    channel.call("queue.delete")


@conversation
def queue_empty_name_without_declaration(c):
    channel = c.open()
    for number, (method, fields) in enumerate(
        [("queue.bind", {"exchange": "amq.direct"}), ("basic.get", {}), ("basic.consume", {}), ("queue.purge", {}), ("queue.delete", {})], 2
    ):
        channel.peer.channel(number).call(method, **fields)


@conversation
def queue_nowait(c):
    channel = c.open()
    queue = c.q()
    channel.send("queue.declare", queue=queue, nowait=True)
    channel.send("queue.bind", queue=queue, exchange="amq.direct", routing_key=queue, nowait=True)
    channel.publish("amq.direct", queue, b"m")
    channel.ready(queue, 1)
    channel.send("queue.purge", queue=queue, nowait=True)
    channel.ready(queue, 0)
    channel.send("queue.delete", queue=queue, nowait=True)
    channel.call("queue.declare", queue=queue, passive=True)


@conversation
def queue_passive_missing(c):
    c.open().call("queue.declare", queue="nope", passive=True)


@conversation
def queue_passive_ignores_properties(c):
    channel = c.open()
    channel.call("queue.declare", queue=c.q(), durable=True)
    channel.call("queue.declare", queue=c.q(), passive=True, auto_delete=True, arguments={"x-expires": 1})


def redeclared(c, first=None, **changed):
    channel = c.open()
    declared = {"queue": c.q(), "durable": True} | (first or {})
    channel.call("queue.declare", **declared)
    channel.call("queue.declare", **(declared | changed))


@conversation
def queue_redeclared_transient(c):
    redeclared(c, durable=False)


@conversation
def queue_redeclared_auto_delete(c):
    redeclared(c, auto_delete=True)


@conversation
def queue_redeclared_exclusive(c):
    redeclared(c, exclusive=True)


@conversation
def queue_redeclared_not_exclusive(c):
    redeclared(c, first={"exclusive": True}, exclusive=False)


@conversation
def queue_redeclared_with_unknown_argument(c):
    redeclared(c, arguments={"x-unknown": 1})


@conversation
def queue_durable_and_exclusive(c):
    redeclared(c, first={"exclusive": True}, durable=True)


@conversation
def queue_reserved_name(c):
    c.open().call("queue.declare", queue="amq.mine")


@conversation
def queue_names_lose_line_breaks(c):
    channel = c.open()
    name = c.q()
    channel.call("queue.declare", queue=name[:-1] + "\r\n" + name[-1])
    channel.call("queue.declare", queue=name, passive=True)


@conversation
def queue_bind_missing_queue(c):
    c.open().call("queue.bind", queue="nope", exchange="amq.direct", routing_key="k")


@conversation
def queue_bind_missing_exchange(c):
    channel = c.open()
    channel.call("queue.declare", queue=c.q())
    channel.call("queue.bind", queue=c.q(), exchange="nope", routing_key="k")


@conversation
def queue_unbind_missing_things(c):
    channel = c.open()
    channel.call("queue.declare", queue=c.q())
    channel.call("queue.unbind", queue=c.q(), exchange="amq.direct", routing_key="never")
    channel.call("queue.unbind", queue=c.q(), exchange="nope", routing_key="k")
    channel.peer.channel(2).call("queue.unbind", queue="nope", exchange="amq.direct", routing_key="k")


@conversation
def queue_bind_is_idempotent(c):
    channel = c.open()
    queue = c.q()
    channel.call("queue.declare", queue=queue)
    for _ in range(2):
        channel.call("queue.bind", queue=queue, exchange="amq.direct", routing_key=queue)
    channel.publish("amq.direct", queue)
    channel.ready(queue, 1)
    channel.call("queue.unbind", queue=queue, exchange="amq.direct", routing_key=queue)
    channel.publish("amq.direct", queue, mandatory=True)
    channel.receive()


@conversation
def queue_bind_with_empty_names(c):
    channel = c.open()
    queue = c.q()
    channel.call("queue.declare", queue=queue)
    channel.call("queue.bind", exchange="amq.direct")
    channel.publish("amq.direct", queue, b"bound by its own name")
    channel.call("basic.get", no_ack=True)


@conversation
def queue_purge_and_counts(c):
    channel = c.open()
    queue = c.q()
    channel.call("queue.declare", queue=queue)
    c.fill(queue, b"0", b"1", b"2")
    channel.call("basic.get", queue=queue)
    channel.call("queue.declare", queue=queue)
    channel.call("queue.purge", queue=queue)
    channel.send("basic.reject", delivery_tag=1, requeue=True)
    channel.ready(queue, 1)
    channel.call("queue.delete", queue=queue)


@conversation
def queue_purge_missing(c):
    c.open().call("queue.purge", queue="nope")


@conversation
def queue_delete_if_empty(c):
    channel = c.open()
    queue = c.q()
    channel.call("queue.declare", queue=queue)
    channel.publish("", queue)
    channel.call("queue.delete", queue=queue, if_empty=True)
    again = channel.peer.channel(2)
    again.call("queue.purge", queue=queue)
    again.call("queue.delete", queue=queue, if_empty=True)


@conversation
def queue_delete_if_unused(c):
    channel = c.open()
    queue = c.q()
    channel.call("queue.declare", queue=queue)
    channel.call("basic.consume", queue=queue, consumer_tag="t")
    other = channel.peer.channel(2)
    other.call("queue.delete", queue=queue, if_unused=True)
    channel.call("basic.cancel", consumer_tag="t")
    channel.call("queue.delete", queue=queue, if_unused=True)


@conversation
def queue_exclusive_to_another_connection(c):
    owner = c.open()
    queue = c.q()
    owner.call("queue.declare", queue=queue, exclusive=True)
    stranger = c.connect()
    attempts = [
        ("queue.declare", {}),
        ("queue.declare", {"exclusive": True}),
        ("queue.declare", {"passive": True}),
        ("queue.bind", {"exchange": "amq.direct"}),
        ("queue.unbind", {"exchange": "amq.direct"}),
        ("queue.purge", {}),
        ("queue.delete", {}),
        ("basic.get", {}),
        ("basic.consume", {}),
    ]
    for number, (method, fields) in enumerate(attempts, 1):
        stranger.channel(number).call(method, queue=queue, **fields)
    publisher = stranger.channel(99)
    publisher.call("confirm.select")
    publisher.publish("", queue, b"allowed")
    publisher.confirms(1)
    owner.call("basic.get", queue=queue, no_ack=True)


@conversation
def queue_exclusive_dies_with_its_connection(c):
    owner = c.open()
    queue = c.q()
    owner.call("queue.declare", queue=queue, exclusive=True)
    owner.peer.zero.call("connection.close", reply_code=200, reply_text="bye")
    c.connect().gone(queue)


@conversation
def queue_auto_delete(c):
    channel = c.open()
    queue = c.q()
    channel.call("queue.declare", queue=queue, auto_delete=True)
    channel.call("basic.consume", queue=queue, consumer_tag="a")
    channel.call("basic.consume", queue=queue, consumer_tag="b")
    channel.call("basic.cancel", consumer_tag="a")
    channel.call("queue.declare", queue=queue, passive=True)
    channel.call("basic.cancel", consumer_tag="b")
    channel.peer.gone(queue)


@conversation
def queue_name_of_255_bytes(c):
    channel = c.open()
    name = c.q("x" * (255 - len(c.q(""))))
    channel.call("queue.declare", queue=name)
    channel.call("queue.declare", queue=name, durable=True)
