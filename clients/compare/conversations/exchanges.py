"""Exchanges: declaring, deleting, binding to each other, and the alternate exchange."""

from . import conversation


@conversation
def exchange_declare_every_type(c):
    channel = c.open()
    for kind in ("direct", "fanout", "topic", "headers"):
        name = c.q(kind)
        channel.call("exchange.declare", exchange=name, type=kind, durable=True)
        channel.call("exchange.declare", exchange=name, type=kind, durable=True)
        channel.call("exchange.declare", exchange=name, type="nonsense", passive=True)
        channel.call("exchange.delete", exchange=name)
        channel.call("exchange.delete", exchange=name)


@conversation
def exchange_passive_missing(c):
    c.open().call("exchange.declare", exchange="nope", passive=True)


def redeclared(c, **changed):
    channel = c.open()
    name = c.q()
    declared = {"exchange": name, "type": "direct"}
    channel.call("exchange.declare", **declared)
    channel.call("exchange.declare", **(declared | changed))


@conversation
def exchange_redeclared_with_another_type(c):
    redeclared(c, type="fanout")


@conversation
def exchange_redeclared_durable(c):
    redeclared(c, durable=True)


@conversation
def exchange_redeclared_auto_delete(c):
    redeclared(c, auto_delete=True)


@conversation
def exchange_redeclared_internal(c):
    redeclared(c, internal=True)


@conversation
def exchange_redeclared_with_alternate(c):
    redeclared(c, arguments={"alternate-exchange": "amq.fanout"})


@conversation
def exchange_redeclared_with_unknown_argument(c):
    redeclared(c, arguments={"x-unknown": 1})


@conversation
def exchange_alternate_of_wrong_type(c):
    c.open().call("exchange.declare", exchange=c.q(), type="direct", arguments={"alternate-exchange": 1})


@conversation
def exchange_unknown_type(c):
    channel = c.open()
    channel.call("exchange.declare", exchange=c.q(), type="nosuch")
    channel.drain()


@conversation
def exchange_reserved_name(c):
    c.open().call("exchange.declare", exchange="amq.mine", type="direct")


@conversation
def exchange_predeclared_redeclared(c):
    channel = c.open()
    for name, kind in (("amq.direct", "direct"), ("amq.fanout", "fanout"), ("amq.topic", "topic"), ("amq.headers", "headers"), ("amq.match", "headers")):
        channel.call("exchange.declare", exchange=name, type=kind, durable=True)
    channel.call("exchange.declare", exchange="amq.direct", type="direct")


@conversation
def exchange_delete_predeclared(c):
    c.open().call("exchange.delete", exchange="amq.direct")


@conversation
def default_exchange_declare(c):
    c.open().call("exchange.declare", exchange="", type="direct", durable=True)


@conversation
def default_exchange_passive(c):
    c.open().call("exchange.declare", exchange="", type="direct", passive=True)


@conversation
def default_exchange_delete(c):
    c.open().call("exchange.delete", exchange="")


@conversation
def default_exchange_bind(c):
    channel = c.open()
    channel.call("queue.declare", queue=c.q())
    channel.call("queue.bind", queue=c.q(), exchange="", routing_key="k")


@conversation
def default_exchange_unbind(c):
    channel = c.open()
    channel.call("queue.declare", queue=c.q())
    channel.call("queue.unbind", queue=c.q(), exchange="", routing_key=c.q())


@conversation
def default_exchange_as_destination(c):
    c.open().call("exchange.bind", destination="", source="amq.direct", routing_key="k")


@conversation
def exchange_delete_if_unused(c):
    channel = c.open()
    exchange = c.q()
    channel.call("exchange.declare", exchange=exchange, type="direct")
    channel.call("queue.declare", queue=exchange)
    channel.call("queue.bind", queue=exchange, exchange=exchange, routing_key="k")
    channel.call("exchange.delete", exchange=exchange, if_unused=True)
    again = channel.peer.channel(2)
    again.call("queue.unbind", queue=exchange, exchange=exchange, routing_key="k")
    again.call("exchange.delete", exchange=exchange, if_unused=True)


@conversation
def exchange_auto_delete(c):
    channel = c.open()
    exchange = c.q()
    channel.call("exchange.declare", exchange=exchange, type="direct", auto_delete=True)
    channel.call("queue.declare", exclusive=True)
    channel.call("queue.bind", exchange=exchange, routing_key="a")
    channel.call("queue.bind", exchange=exchange, routing_key="b")
    channel.call("queue.unbind", exchange=exchange, routing_key="a")
    channel.call("exchange.declare", exchange=exchange, passive=True)
    channel.call("queue.unbind", exchange=exchange, routing_key="b")
    channel.call("exchange.declare", exchange=exchange, passive=True)


@conversation
def exchange_internal(c):
    channel = c.open()
    internal, outer = c.q("internal"), c.q("outer")
    channel.call("exchange.declare", exchange=internal, type="fanout", internal=True)
    channel.call("exchange.declare", exchange=outer, type="fanout")
    channel.call("exchange.bind", destination=internal, source=outer)
    channel.call("queue.declare", exclusive=True)
    channel.call("queue.bind", exchange=internal)
    channel.publish(outer, "k", b"through")
    channel.call("basic.get", no_ack=True)
    channel.publish(internal, "k", b"refused")
    channel.receive()


@conversation
def exchange_to_exchange(c):
    channel = c.open()
    source, target, queue = c.q("source"), c.q("target"), c.q("queue")
    channel.call("exchange.declare", exchange=source, type="topic")
    channel.call("exchange.declare", exchange=target, type="direct")
    channel.call("queue.declare", queue=queue)
    channel.call("queue.bind", queue=queue, exchange=target, routing_key="a.b")
    channel.call("exchange.bind", destination=target, source=source, routing_key="a.*")
    channel.call("exchange.bind", destination=source, source=target, routing_key="a.b")
    for key in ("a.b", "a.c"):
        channel.publish(source, key, key.encode())
        channel.call("basic.get", queue=queue, no_ack=True)
    channel.call("exchange.unbind", destination=target, source=source, routing_key="a.*")
    channel.publish(source, "a.b")
    channel.call("basic.get", queue=queue, no_ack=True)
    channel.call("exchange.unbind", destination=target, source=source, routing_key="a.*")


@conversation
def exchange_bind_missing_source(c):
    c.open().call("exchange.bind", destination="amq.direct", source="nope")


@conversation
def exchange_bind_missing_destination(c):
    c.open().call("exchange.bind", destination="nope", source="amq.direct")


@conversation
def alternate_exchange(c):
    channel = c.open()
    main, spare, queue = c.q("main"), c.q("spare"), c.q("queue")
    channel.call("exchange.declare", exchange=spare, type="fanout")
    channel.call("exchange.declare", exchange=main, type="direct", arguments={"alternate-exchange": spare})
    channel.call("queue.declare", queue=queue)
    channel.publish(main, "k", b"nowhere", mandatory=True)
    channel.receive()
    channel.call("queue.bind", queue=queue, exchange=spare)
    channel.publish(main, "k", b"spare", mandatory=True)
    channel.call("basic.get", queue=queue, no_ack=True)


@conversation
def alternate_exchange_loop(c):
    channel = c.open()
    one, two = c.q("one"), c.q("two")
    channel.call("exchange.declare", exchange=one, type="direct", arguments={"alternate-exchange": two})
    channel.call("exchange.declare", exchange=two, type="direct", arguments={"alternate-exchange": one})
    channel.publish(one, "k", b"round", mandatory=True)
    channel.receive()


@conversation
def exchange_names_lose_line_breaks(c):
    channel = c.open()
    name = c.q()
    channel.call("exchange.declare", exchange=name[:-1] + "\r\n" + name[-1], type="direct")
    channel.call("exchange.declare", exchange=name, passive=True)
