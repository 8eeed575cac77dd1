// amqplib: scheduled messages, as programs for RabbitMQ's plugin for delayed messages publish them.

import assert from "node:assert/strict";
import { name, run, until, withChannel } from "./scenarios.mjs";

const consumed = async (channel, queue, number) => {
  const got = [];
  await channel.consume(queue, (message) => got.push(message), { noAck: true });
  await until(() => got.length === number, `${number} messages`);
  return got.map((message) => [message.content.toString(), message.properties.headers["x-delay"]]);
};

// A delayed message exchange that routes as a topic exchange.
async function delayedTopic() {
  await withChannel(async (channel) => {
    const exchange = name("delayed");
    const options = { durable: false, autoDelete: true, arguments: { "x-delayed-type": "topic" } };
    await channel.assertExchange(exchange, "x-delayed-message", options);
    const { queue } = await channel.assertQueue("", { exclusive: true });
    await channel.bindQueue(queue, exchange, "orders.*");
    for (const delay of [500, 100, 300, 200, 400]) {
      channel.publish(exchange, "orders.new", Buffer.from(`${delay}`), { headers: { "x-delay": delay } });
    }
    channel.publish(exchange, "other", Buffer.from("nowhere"), { headers: { "x-delay": 50 } });
    await channel.waitForConfirms();
    const expected = [100, 200, 300, 400, 500].map((delay) => [`${delay}`, -delay]);
    assert.deepEqual(await consumed(channel, queue, 5), expected);
  });
}

// Straight to a queue; what has no delay, or a wrong one, does not wait.
async function straightToAQueue() {
  await withChannel(async (channel) => {
    const { queue } = await channel.assertQueue("", { exclusive: true });
    const start = Date.now();
    channel.sendToQueue(queue, Buffer.from("waits"), { headers: { "x-delay": "250" } });
    channel.sendToQueue(queue, Buffer.from("0"), { headers: { "x-delay": 0 } });
    channel.sendToQueue(queue, Buffer.from("negative"), { headers: { "x-delay": -5 } });
    await channel.waitForConfirms();
    assert.deepEqual(await consumed(channel, queue, 3), [["0", 0], ["negative", -5], ["waits", -250]]);
    assert.ok(Date.now() - start >= 248);
  });
}

await run([delayedTopic, straightToAQueue]);
