// amqplib: streams, used as RabbitMQ's documentation shows for AMQP 0-9-1 clients, and groups with one active consumer.

import assert from "node:assert/strict";
import amqp from "amqplib";
import { URI, name as uniqueName, run, until } from "./scenarios.mjs";

// A stream with the messages 0, 1, ..., and the channel they were published on.
async function stream(stem, messages) {
  const connection = await amqp.connect(URI);
  const channel = await connection.createConfirmChannel();
  const name = uniqueName(stem);
  await channel.assertQueue(name, { durable: true, arguments: { "x-queue-type": "stream" } });
  for (let number = 0; number < messages; number += 1) channel.sendToQueue(name, Buffer.from(String(number)));
  await channel.waitForConfirms();
  const end = async () => {
    await channel.deleteQueue(name);
    await connection.close();
  };
  return { name, channel, end };
}

async function consumer(name, args, { prefetch = 100, acknowledge = true } = {}) {
  const connection = await amqp.connect(URI);
  const channel = await connection.createChannel();
  await channel.prefetch(prefetch);
  const got = [];
  const onMessage = (message) => {
    got.push([message.content.toString(), message.properties.headers["x-stream-offset"]]);
    if (acknowledge) channel.ack(message);
  };
  await channel.consume(name, onMessage, { arguments: args });
  // The channel first: the connection's end could overtake acknowledgements.
  const close = async () => {
    await channel.close();
    await connection.close();
  };
  return { got, close };
}

const numbers = (first, end) =>
  Array.from({ length: end - first }, (_, index) => [String(first + index), first + index]);

async function everyoneReadsEverything() {
  const { name, end } = await stream("everyone", 50);
  for (const [offset, first] of [["first", 0], [30, 30], ["last", 49]]) {
    const reader = await consumer(name, { "x-stream-offset": offset });
    await until(() => reader.got.length >= 50 - first, `deliveries from ${offset}`);
    assert.deepEqual(reader.got, numbers(first, 50));
    await reader.close();
  }
  await end();
}

// Two connections are of one group; the second goes on where the first has acknowledged.
async function oneOfAGroupIsActive() {
  const { name, channel, end } = await stream("group", 10);
  const group = { "x-stream-consumer-name": "group", "x-single-active-consumer": true, "x-stream-offset": "first" };
  const first = await consumer(name, group);
  const second = await consumer(name, group);
  await until(() => first.got.length === 10, "the first consumer's deliveries");
  assert.deepEqual(second.got, []);
  await first.close();
  channel.sendToQueue(name, Buffer.from("10"));
  await until(() => second.got.length >= 1, "the second consumer's deliveries");
  assert.deepEqual(second.got, numbers(10, 11));
  await second.close();
  await end();
}

// A super stream that the client declares itself; two consumers of one group share its partitions out.
async function partitionsBehindAnExchange() {
  const connection = await amqp.connect(URI);
  const channel = await connection.createConfirmChannel();
  const name = uniqueName("super");
  const partitions = ["0", "1"].map((key) => ({ key, queue: `${name}-${key}` }));
  await channel.assertExchange(name, "direct", { durable: true, arguments: { "x-super-stream": true } });
  for (const [order, { key, queue }] of partitions.entries()) {
    await channel.assertQueue(queue, { durable: true, arguments: { "x-queue-type": "stream" } });
    await channel.bindQueue(queue, name, key, { "x-stream-partition-order": order });
  }
  const group = { "x-stream-consumer-name": "group", "x-single-active-consumer": true, "x-stream-offset": "first" };
  const readers = [];
  for (let number = 0; number < 2; number += 1) {
    readers.push([await consumer(partitions[0].queue, group), await consumer(partitions[1].queue, group)]);
  }
  for (const { key } of partitions) channel.publish(name, key, Buffer.from(key));
  await channel.waitForConfirms();
  await until(() => readers[0][0].got.length === 1 && readers[1][1].got.length === 1, "a delivery to each");
  assert.deepEqual([readers[0][1].got, readers[1][0].got], [[], []]);
  for (const reader of readers.flat()) await reader.close();
  for (const { queue } of partitions) await channel.deleteQueue(queue);
  await channel.deleteExchange(name);
  await connection.close();
}

await run([everyoneReadsEverything, oneOfAGroupIsActive, partitionsBehindAnExchange]);
