"""Publishing: confirms, returns, refused properties, CC and BCC, transactions."""

from frames import Typed

from . import conversation
from .consuming import filled


def confirming(c):
    channel = c.open()
    channel.call("confirm.select")
    return channel


@conversation
def confirm_each_publish(c):
    channel = confirming(c)
    channel.call("confirm.select")
    queue = c.q()
    channel.call("queue.declare", queue=queue)
    for _ in range(3):
        channel.publish("", queue)
    channel.confirms(3)
    channel.call("queue.purge", queue=queue)


@conversation
def confirm_select_nowait(c):
    channel = c.open()
    channel.send("confirm.select", nowait=True)
    channel.publish("amq.direct", "nobody")
    channel.confirms(1)


@conversation
def confirm_many_and_persistent(c):
    channel = confirming(c)
    queue = c.q()
    channel.call("queue.declare", queue=queue, durable=True)
    with channel.peer.hush():
        for number in range(50):
            channel.publish("", queue, b"%d" % number, delivery_mode=2)
    channel.confirms(50)
    channel.ready(queue, 50)


@conversation
def confirm_the_unroutable(c):
    channel = confirming(c)
    channel.publish("amq.direct", "nobody")
    channel.publish("", "nobody")
    channel.confirms(2)


@conversation
def return_comes_before_its_confirm(c):
    channel = confirming(c)
    channel.publish("amq.direct", "nobody", b"back", mandatory=True, message_id="7", headers={"h": 1})
    channel.receive()
    channel.confirms(1)


@conversation
def return_without_confirms(c):
    channel = c.open()
    channel.publish("", "nobody", bytes(200_000), mandatory=True)
    channel.receive()
    channel.barrier()


@conversation
def mandatory_and_routable(c):
    channel = confirming(c)
    queue = c.q()
    channel.call("queue.declare", queue=queue)
    channel.publish("", queue, mandatory=True)
    channel.confirms(1)


@conversation
def publish_immediate(c):
    channel = c.open()
    channel.publish("", "nobody", immediate=True)
    channel.peer.expect_end()


@conversation
def publish_to_a_missing_exchange(c):
    channel = confirming(c)
    channel.publish("nope", "k")
    channel.publish("", "k")
    channel.receive()
    channel.drain()
    channel.call("channel.open")


@conversation
def expiration_is_delivered(c):
    channel = c.open()
    queue = c.q()
    channel.call("queue.declare", queue=queue)
    channel.publish("", queue, expiration="600000")
    channel.call("basic.get", queue=queue, no_ack=True)


@conversation
def publish_with_bad_expirations(c):
    peer = c.connect()
    for number, expiration in enumerate(["abc", "-1", "10.5", "", "315360000001"], 1):
        channel = peer.channel(number)
        channel.publish("amq.direct", "nobody", expiration=expiration)
        channel.call("basic.qos")


@conversation
def publish_as_another_user(c):
    channel = c.open()
    channel.publish("amq.direct", "nobody", user_id=c.user)
    channel.barrier()
    channel.publish("amq.direct", "nobody", user_id="bob")
    channel.receive()


@conversation
def cc_and_bcc(c):
    channel = c.open()
    names = [c.q(stem) for stem in ("to", "cc", "bcc")]
    for name in names:
        channel.call("queue.declare", queue=name)
    headers = {"CC": [names[1], names[0]], "BCC": [names[2]], "other": 1}
    channel.publish("", names[0], headers=headers)
    for name in names:
        channel.call("basic.get", queue=name, no_ack=True)
        channel.call("basic.get", queue=name, no_ack=True)


@conversation
def cc_of_wrong_type(c):
    channel = c.open()
    channel.publish("amq.direct", "k", headers={"CC": "not an array"})
    channel.receive()


@conversation
def cc_with_wrong_elements(c):
    channel = c.open()
    channel.publish("amq.direct", "k", headers={"BCC": [1]})
    channel.call("basic.qos")


@conversation
def tx_commit(c):
    channel = c.open()
    queue = c.q()
    channel.call("queue.declare", queue=queue)
    channel.call("tx.select")
    for _ in range(2):
        channel.publish("", queue)
    channel.barrier()
    channel.call("queue.declare", queue=queue, passive=True)
    channel.call("tx.commit")
    channel.ready(queue, 2)
    channel.call("basic.get", queue=queue)
    channel.send("basic.ack", delivery_tag=1)
    channel.call("tx.commit")
    channel.call("tx.select")


@conversation
def tx_rollback(c):
    channel = c.open()
    queue = filled(c, channel, 1)
    channel.call("tx.select")
    channel.publish("", queue, b"forgotten")
    channel.call("basic.get", queue=queue)
    channel.send("basic.ack", delivery_tag=1)
    channel.call("tx.rollback")
    channel.ready(queue, 0)
    channel.send("basic.ack", delivery_tag=1)
    channel.call("tx.commit")
    channel.ready(queue, 0)
    channel.call("basic.recover", requeue=True)
    channel.ready(queue, 0)


@conversation
def tx_returns_on_commit(c):
    channel = c.open()
    channel.call("tx.select")
    channel.publish("amq.direct", "nobody", b"back", mandatory=True)
    channel.drain()
    channel.send("tx.commit")
    channel.gather("basic.return", "tx.commit-ok")


@conversation
def tx_not_selected(c):
    peer = c.connect()
    peer.channel(1).call("tx.commit")
    peer.channel(2).call("tx.rollback")


@conversation
def tx_then_confirm(c):
    channel = c.open()
    channel.call("tx.select")
    channel.call("confirm.select")


@conversation
def confirm_then_tx(c):
    confirming(c).call("tx.select")


@conversation
def tx_publish_to_a_missing_exchange(c):
    channel = c.open()
    channel.call("tx.select")
    channel.publish("nope", "k")
    channel.receive()


@conversation
def tx_unknown_ack(c):
    channel = c.open()
    channel.call("tx.select")
    channel.call("basic.ack", delivery_tag=1)


@conversation
def message_headers_in_a_table_type(c):
    channel = c.open()
    queue = filled(c, channel, 0)
    channel.publish("", queue, headers={"deep": {"er": {"est": [Typed("l", 1), {"x": None}]}}})
    channel.call("basic.get", queue=queue, no_ack=True)
