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

await run([singleActiveConsumer]);
