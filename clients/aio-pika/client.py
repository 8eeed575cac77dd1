"""aio-pika: the asyncio client, with publisher confirms on as it has them by default."""

import asyncio
import datetime

import aio_pika
import aiormq.exceptions
import checks
from aio_pika import ExchangeType, Message

MEBIBYTE = 1024 * 1024


async def connection():
    return await aio_pika.connect(checks.URI)


async def fill(channel, queue, count):
    """Publishes the messages 0, 1, 2, ..., each of them confirmed."""
    for number in range(count):
        await channel.default_exchange.publish(Message(b"%d" % number), queue.name)


async def drain(queue):
    """Takes all that is in a queue: (body, redelivered) each."""
    got = []
    while message := await queue.get(no_ack=True, fail=False):
        got.append((message.body, message.redelivered))
    return got


async def settled(check, what):
    """Polls for something that happens a moment later."""
    for _ in range(500):
        if await check():
            return
        await asyncio.sleep(0.02)
    raise checks.Failed(f"{what}: still not so after 10 s")


async def refused(link, error, text, action):
    """The action must close its own channel with this error, and leave the connection alone."""
    victim = await link.channel()
    try:
        await action(victim)
    except error as refusal:
        checks.true(text in str(refusal), f"expected {text!r}, got {refusal}")
    else:
        raise checks.Failed(f"expected {text!r}, got no error")
    survivor = await link.channel()
    await survivor.declare_queue(exclusive=True)
    await survivor.close()


async def declares_and_routes():
    async with await connection() as link, await link.channel() as channel:
        kinds = {"durable": {"durable": True}, "transient": {}, "exclusive": {"exclusive": True}, "auto": {"auto_delete": True}}
        for kind, flags in kinds.items():
            queue = await channel.declare_queue(checks.name(kind), **flags)
            counts = queue.declaration_result
            checks.equal((counts.message_count, counts.consumer_count), (0, 0), kind)
            await queue.delete()
        source = await channel.declare_exchange(checks.name("source"), ExchangeType.FANOUT)
        cases = [
            (ExchangeType.DIRECT, "red", None, "red", 1),
            (ExchangeType.DIRECT, "red", None, "blue", 0),
            (ExchangeType.FANOUT, "", None, "anything", 1),
            (ExchangeType.TOPIC, "*.red.#", None, "light.red", 1),
            (ExchangeType.TOPIC, "*.red.#", None, "red", 0),
            (ExchangeType.HEADERS, "", {"x-match": "any", "format": "pdf", "pages": 4}, "", 1),
            (ExchangeType.HEADERS, "", {"x-match": "all", "format": "pdf", "pages": 4}, "", 0),
        ]
        for kind, pattern, arguments, key, expected in cases:
            exchange = await channel.declare_exchange(checks.name(kind.value), kind)
            queue = await channel.declare_queue(exclusive=True)
            await queue.bind(exchange, pattern, arguments=arguments)
            await exchange.bind(source, "")
            message = Message(b"m", headers={"format": "pdf", "pages": 3})
            await source.publish(message, key, mandatory=False)
            checks.equal(len(await drain(queue)), expected, f"{kind.value} binding {pattern!r} key {key!r}")
            await exchange.delete()
        await source.delete()


async def confirms_and_returns():
    async with await connection() as link, await link.channel(on_return_raises=True) as channel:
        queue = await channel.declare_queue(exclusive=True)
        publishes = (channel.default_exchange.publish(Message(b"%d" % number), queue.name) for number in range(100))
        for confirmation in await asyncio.gather(*publishes):
            checks.equal(type(confirmation).__name__, "Ack", "confirmation")
        checks.equal([body for body, _ in await drain(queue)], [b"%d" % number for number in range(100)], "order")
        direct = await channel.get_exchange("amq.direct")
        try:
            await direct.publish(Message(b"back", message_id="7"), "nobody")
        except aio_pika.exceptions.PublishError as error:
            returned = error.message
            got = (returned.delivery.reply_code, returned.delivery.reply_text, returned.body, returned.header.properties.message_id)
            checks.equal(got, (312, "NO_ROUTE", b"back", "7"), "basic.return")
        else:
            raise checks.Failed("an unroutable mandatory message was taken")


async def prefetch_and_acks():
    async with await connection() as link, await link.channel() as channel:
        queue = await channel.declare_queue(exclusive=True)
        await fill(channel, queue, 20)
        await channel.set_qos(prefetch_count=5)
        got = []
        await queue.consume(lambda message: _keep(got, message))
        for taken in range(5, 21, 5):
            await settled(lambda: _true(len(got) >= taken), f"{taken} deliveries")
            await asyncio.sleep(0.1)
            checks.equal(len(got), taken, "unacknowledged deliveries stay within the prefetch")
            await got[taken - 1].ack(multiple=True)
        checks.equal([message.body for message in got], [b"%d" % number for number in range(20)], "order")


async def _keep(got, message):
    got.append(message)


async def _true(condition):
    return condition


async def requeue_and_reject():
    async with await connection() as link, await link.channel() as channel:
        queue = await channel.declare_queue(exclusive=True)
        checks.equal(await queue.get(fail=False), None, "get-empty")
        await fill(channel, queue, 4)
        held = [await queue.get() for _ in range(4)]
        checks.equal([message.redelivered for message in held], [False] * 4, "first delivery")
        await held[1].ack()
        await held[2].reject(requeue=False)
        await held[3].nack(multiple=True, requeue=True)
        checks.equal(await drain(queue), [(b"0", True), (b"3", True)], "order after requeue")


async def properties_of_every_type():
    async with await connection() as link, await link.channel() as channel:
        queue = await channel.declare_queue(exclusive=True)
        time = datetime.datetime(2026, 11, 20, 12, 0, 0, tzinfo=datetime.timezone.utc)
        sent = {
            "headers": {
                "text": "text \u00e9", "bytes": bytearray(b"\x00\xff"), "yes": True, "small": 1, "large": 2**40, "double": 1.25,
                "none": None, "list": [1, "two", [True]], "table": {"deep": {"er": "x"}}, "time": time,
            },
            "content_type": "a/b", "content_encoding": "c", "delivery_mode": 2, "priority": 3, "correlation_id": "d",
            "reply_to": "e", "message_id": "f", "timestamp": time, "type": "g", "user_id": "guest", "app_id": "h",
        }  # fmt: skip
        await channel.default_exchange.publish(Message(b"", **sent), queue.name)
        got = await queue.get(no_ack=True)
        for field, value in sent.items():
            checks.equal(getattr(got, field), value, f"property {field}")
        checks.equal(got.body, b"", "empty body")


async def large_bodies():
    async with await connection() as link, await link.channel() as channel:
        queue = await channel.declare_queue(exclusive=True)
        for size in (131063, 131064, 131065, 10 * MEBIBYTE):
            await channel.default_exchange.publish(Message(checks.body(size)), queue.name)
            got = await queue.get(no_ack=True)
            checks.true(got.body == checks.body(size), f"a body of {size} bytes is unchanged, got {len(got.body)}")


async def transactions():
    async with await connection() as link, await link.channel(publisher_confirms=False) as channel:
        queue = await channel.declare_queue(exclusive=True)
        async with channel.transaction():
            await channel.default_exchange.publish(Message(b"kept"), queue.name)
        transaction = channel.transaction()
        await transaction.select()
        await channel.default_exchange.publish(Message(b"forgotten"), queue.name)
        await transaction.rollback()
        checks.equal(await drain(queue), [(b"kept", False)], "after commit and rollback")


async def life_cycles():
    async with await connection() as link, await connection() as stranger:
        channel = await link.channel()
        queue = await channel.declare_queue(checks.name("auto"), auto_delete=True)
        tag = await queue.consume(lambda message: _keep([], message))
        await queue.cancel(tag)
        await settled(lambda: missing(stranger, queue.name), "the auto-delete queue is gone")
        queue = await channel.declare_queue(checks.name("exclusive"), exclusive=True)
        locked = aiormq.exceptions.ChannelLockedResource
        await refused(stranger, locked, checks.LOCKED % queue.name, lambda victim: victim.declare_queue(queue.name, passive=True))
        await link.close()
        await settled(lambda: missing(stranger, queue.name), "the exclusive queue is gone")


async def missing(link, name):
    channel = await link.channel()
    try:
        await channel.declare_queue(name, passive=True)
    except aiormq.exceptions.ChannelNotFoundEntity:
        return True
    except aiormq.exceptions.ChannelLockedResource:
        return False
    await channel.close()
    return False


async def deleting_a_queue_cancels_its_consumer():
    async with await connection() as link, await link.channel() as channel:
        queue = await channel.declare_queue(checks.name("cancelled"))
        await queue.consume(lambda message: _keep([], message))
        underlay = await channel.get_underlay_channel()
        checks.equal(len(underlay.consumers), 1, "consumers")
        other = await link.channel()
        await (await other.get_queue(queue.name)).delete(if_unused=False, if_empty=False)
        await settled(lambda: _true(not underlay.consumers), "basic.cancel from the broker")
        await channel.declare_queue(exclusive=True)


async def errors():
    async with await connection() as link, await link.channel() as channel:
        queue = await channel.declare_queue(checks.name("durable"), durable=True)
        not_found = aiormq.exceptions.ChannelNotFoundEntity
        access = aiormq.exceptions.ChannelAccessRefused
        precondition = aiormq.exceptions.ChannelPreconditionFailed
        no_queue = "NOT_FOUND - no queue 'nope' in vhost '/'"
        await refused(link, not_found, no_queue, lambda victim: victim.get_queue("nope"))
        reserved = "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'"
        await refused(link, access, reserved, lambda victim: victim.declare_queue("amq.mine"))
        differs = f"inequivalent arg 'durable' for queue '{queue.name}' in vhost '/': received 'false' but current is 'true'"
        await refused(link, precondition, differs, lambda victim: victim.declare_queue(queue.name))
        await queue.delete()


def scenario(coroutine):
    """A scenario for `checks.run` that runs in an event loop of its own."""

    def run():
        asyncio.run(asyncio.wait_for(coroutine(), 30))

    run.__name__ = coroutine.__name__
    return run


checks.run(
    scenario(declares_and_routes),
    scenario(confirms_and_returns),
    scenario(prefetch_and_acks),
    scenario(requeue_and_reject),
    scenario(properties_of_every_type),
    scenario(large_bodies),
    scenario(transactions),
    scenario(life_cycles),
    scenario(deleting_a_queue_cancels_its_consumer),
    scenario(errors),
)
