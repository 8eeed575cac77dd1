"""aio-pika's robust connection while the broker is killed and started again (run by lib/restarting.py)."""

import asyncio
import sys

import aio_pika
import checks
from aio_pika import DeliveryMode, ExchangeType, Message


async def restarted():
    """Has the broker killed; returns when it is back, which says nothing about the client."""
    print("kill the broker", flush=True)
    line = await asyncio.to_thread(sys.stdin.readline)
    checks.equal(line, "started again\n", "what the supervisor says")


async def within(seconds, awaitable, what):
    try:
        return await asyncio.wait_for(awaitable, seconds)
    except asyncio.TimeoutError:
        raise checks.Failed(f"{what}: not within {seconds} s") from None


async def topology_and_consumers_come_back():
    """What was declared on a robust channel, transient things too, is declared again, and consumers go on."""
    link = await aio_pika.connect_robust(checks.URI, reconnect_interval=0.2)
    reconnected = asyncio.Event()
    link.reconnect_callbacks.add(lambda *_: reconnected.set())
    channel = await link.channel()
    await channel.set_qos(prefetch_count=10)
    exchange = await channel.declare_exchange(checks.name("transient"), ExchangeType.TOPIC, durable=False)
    kept = await channel.declare_queue(checks.name("kept"), durable=True)
    fleeting = await channel.declare_queue(checks.name("fleeting"), exclusive=True)
    await kept.bind(exchange, "kept.#")
    await fleeting.bind(exchange, "#")
    got = {kept.name: asyncio.Queue(), fleeting.name: asyncio.Queue()}
    for queue in (kept, fleeting):
        await queue.consume(got[queue.name].put)

    for number in range(30):
        await exchange.publish(Message(b"%d" % number, delivery_mode=DeliveryMode.PERSISTENT), "kept.before")
    held = [await within(10, got[kept.name].get(), "a delivery") for _ in range(10)]
    await held[4].ack(multiple=True)
    # Another five come for those five; so the acknowledgement has reached the broker.
    held += [await within(10, got[kept.name].get(), "a delivery") for _ in range(5)]

    await restarted()
    await within(20, reconnected.wait(), "the connection comes back")
    again = [await within(10, got[kept.name].get(), "a delivery after the kill") for _ in range(10)]
    first = int(again[0].body)
    # An acknowledgement that was on its way to the disk may be lost, a message never.
    checks.true(first <= 5, f"nothing that was not acknowledged is lost; the first is {first}")
    checks.equal([int(message.body) for message in again], list(range(first, first + 10)), "the order after the kill")
    checks.true(all(message.redelivered for message in again if int(message.body) < 15), "what came before comes redelivered")
    await again[-1].ack(multiple=True)
    seen = first + 10
    while seen < 30:
        message = await within(10, got[kept.name].get(), "the rest")
        checks.equal(int(message.body), seen, "the order of the rest")
        await message.ack()
        seen += 1

    while not got[fleeting.name].empty():
        got[fleeting.name].get_nowait()
    await exchange.publish(Message(b"after"), "kept.after")
    for queue in (kept, fleeting):
        message = await within(10, got[queue.name].get(), f"a delivery by the restored bindings of {queue.name}")
        checks.equal(message.body, b"after", "published after the kill")
        await message.ack()
    await kept.delete(if_unused=False)
    await exchange.delete()
    await link.close()


async def what_was_confirmed_is_there():
    """A publisher that goes on through a kill: what was confirmed is in the queue, in order, what was not at most once more."""
    link = await aio_pika.connect_robust(checks.URI, reconnect_interval=0.2)
    channel = await link.channel()
    queue = await channel.declare_queue(checks.name("confirmed"), durable=True)
    confirmed = []
    attempts = 0
    kill = None
    while len(confirmed) < 400:
        if len(confirmed) == 100 and kill is None:
            kill = asyncio.create_task(restarted())
        body = b"%d" % len(confirmed)
        try:
            attempts += 1
            message = Message(body, delivery_mode=DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, queue.name, timeout=5)
            confirmed.append(body)
        except (ConnectionError, asyncio.TimeoutError, aio_pika.exceptions.AMQPError, RuntimeError):
            await asyncio.sleep(0.05)
    await kill
    got = []
    while message := await queue.get(no_ack=True, fail=False):
        got.append(message.body)
    checks.equal(sorted(set(got), key=int), confirmed, "every confirmed message")
    checks.true(len(got) <= attempts, f"{len(got)} messages of {attempts} attempts")
    checks.equal(got, sorted(got, key=int), "their order")
    await queue.delete()
    await link.close()


def scenario(coroutine):
    def run():
        asyncio.run(asyncio.wait_for(coroutine(), 50))

    run.__name__ = coroutine.__name__
    return run


checks.run(scenario(topology_and_consumers_come_back), scenario(what_was_confirmed_is_there))
