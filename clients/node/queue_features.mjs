// amqplib: what queues do for their consumers, used as RabbitMQ's documentation shows.

import assert from "node:assert/strict";
import process from "node:process";
import { setTimeout as pause } from "node:timers/promises";
import amqp from "amqplib";

const URI = process.env.AMQP_URI ?? "amqp://guest:guest@127.0.0.1:5672/%2f";
const PATIENCE_MS = 10_000;
const name = (stem) => `check.node-queue-features.${stem}.${process.pid}`;

async function until(condition, what) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!condition()) {
    assert.ok(Date.now() < deadline, `${what}: still not so after ${PATIENCE_MS} ms`);
    await pause(10);
  }
}

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

for (const scenario of [singleActiveConsumer]) {
  try {
    await scenario();
    console.log(`ok ${scenario.name}`);
  } catch (error) {
    console.log(`FAIL ${scenario.name}: ${error.stack}`);
    process.exit(1);
  }
}
