// amqplib: what queues do for their consumers, used as RabbitMQ's documentation shows.

import assert from "node:assert/strict";
import amqp from "amqplib";
import { URI, name, run, until } from "./scenarios.mjs";

// Two connections consume; the second gets what the first had and has not acknowledged, then everything.
async function singleActiveConsumer() {
  const connections = await Promise.all([amqp.connect(URI), amqp.connect(URI)]);
  const [first, second] = await Promise.all(connections.map((connection) => connection.createChannel()));
  const queue = name("single-active");
  await first.assertQueue(queue, { durable: true, arguments: { "x-single-active-consumer": true } });
  const got = { first: [], second: [] };
  const note = (who) => (message) => got[who].push([message.content.toString(), message.fields.redelivered]);
  await first.consume(queue, note("first"));
  const { consumerTag } = await second.consume(queue, note("second"));
  for (const body of ["1", "2"]) second.sendToQueue(queue, Buffer.from(body));
  await until(() => got.first.length === 2, "the first consumer's deliveries");
  assert.deepEqual(got.second, []);
  await connections[0].close();
  second.sendToQueue(queue, Buffer.from("3"));
  await until(() => got.second.length === 3, "the second consumer's deliveries");
  assert.deepEqual(got.second, [["1", true], ["2", true], ["3", false]]);
  await second.cancel(consumerTag);
  await second.deleteQueue(queue);
  await connections[1].close();
}

// A message that no consumer can deal with: channels die of it, until the queue gives it up.
async function deliveryLimit() {
  const connection = await amqp.connect(URI);
  const channel = await connection.createConfirmChannel();
  const queue = name("delivery-limit");
  await channel.assertQueue(queue, { durable: true, arguments: { "x-delivery-limit": 2 } });
  channel.sendToQueue(queue, Buffer.from("poison"), { persistent: true, headers: { mine: 1 } });
  await channel.waitForConfirms();
  const seen = [];
  for (let attempt = 0; attempt < 3; attempt++) {
    const victim = await connection.createChannel();
    const message = await victim.get(queue);
    seen.push([message.properties.headers["x-delivery-count"], message.properties.headers["x-acquired-count"]]);
    assert.equal(message.properties.headers.mine, 1);
    await victim.close();
  }
  assert.deepEqual(seen, [[undefined, undefined], [1, 1], [2, 2]]);
  assert.equal(await channel.get(queue), false, "it has left");
  await channel.deleteQueue(queue);
  await connection.close();
}

// A consumer's own time limit: amqplib tells of the cancellation with a message that is null.
async function consumerTimeout() {
  const connection = await amqp.connect(URI);
  const channel = await connection.createChannel();
  const { queue } = await channel.assertQueue("", { exclusive: true });
  const got = [];
  await channel.consume(queue, (message) => got.push(message), { arguments: { "x-consumer-timeout": 300 } });
  channel.sendToQueue(queue, Buffer.from("job"));
  await until(() => got.length === 2, "the delivery and the cancellation");
  assert.equal(got[1], null);
  channel.ack(got[0]);
  const again = await channel.get(queue);
  assert.deepEqual([again.content.toString(), again.fields.redelivered], ["job", true]);
  channel.ack(again);
  await connection.close();
}

await run([singleActiveConsumer, deliveryLimit, consumerTimeout]);
