// amqplib's opt-in recovery while the broker is killed and started again (run by lib/restarting.py).

import assert from "node:assert/strict";
import { once } from "node:events";
import { createInterface } from "node:readline";
import amqp from "amqplib";
import { URI, name, run, until } from "./scenarios.mjs";

const MESSAGES = 20;

// Has the broker killed; resolves when it is back, which says nothing about the client.
async function restarted() {
  const input = createInterface({ input: process.stdin });
  console.log("kill the broker");
  const [line] = await once(input, "line");
  input.close();
  assert.equal(line, "started again");
}

async function consumersAndMessagesComeBack() {
  const queue = name("kept");
  const exchange = name("transient");
  const got = [];
  let publisher;
  // Called after each connecting, as the library wants it: topology and consumers are made here.
  const setup = async (model) => {
    publisher = await model.createConfirmChannel();
    await publisher.assertExchange(exchange, "direct", { durable: false });
    await publisher.assertQueue(queue, { durable: true });
    await publisher.bindQueue(queue, exchange, "");
    const consumer = await model.createChannel();
    await consumer.prefetch(MESSAGES);
    await consumer.consume(queue, (message) => got.push([message, consumer]));
  };
  const connection = await amqp.connect(URI, { recovery: { initialDelay: 50, maxDelay: 200, setup } });
  connection.on("error", () => {}); // That the broker went away; "disconnect" says so, too.
  for (let number = 0; number < MESSAGES; number++) {
    publisher.publish(exchange, "", Buffer.from(`${number}`), { persistent: true, mandatory: true });
  }
  await publisher.waitForConfirms();
  await until(() => got.length === MESSAGES, "deliveries before the kill");

  // Not events.once(), which would fail at the "error".
  const connected = new Promise((resolve) => connection.once("disconnect", () => connection.once("connect", resolve)));
  got.length = 0;
  await restarted();
  await within(20_000, connected, "the connection comes back");
  await until(() => got.length === MESSAGES, "deliveries after the kill");
  const bodies = got.map(([message]) => message.content.toString());
  assert.deepEqual(bodies, Array.from({ length: MESSAGES }, (_, number) => `${number}`), "all, in order");
  assert.ok(got.every(([message]) => message.fields.redelivered), "all of them redelivered");
  const [last, consumer] = got.at(-1);
  consumer.ack(last, true);
  publisher.publish(exchange, "", Buffer.from("after"), { persistent: true });
  await publisher.waitForConfirms();
  await until(() => got.length > MESSAGES, "a delivery by the exchange that was made again");
  const [after, channel] = got.at(-1);
  assert.deepEqual([after.content.toString(), after.fields.redelivered], ["after", false]);
  channel.ack(after);
  await channel.close();
  assert.deepEqual(await publisher.deleteQueue(queue), { messageCount: 0 });
  await publisher.deleteExchange(exchange);
  await connection.close();
}

async function within(milliseconds, promise, what) {
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error(`${what}: not within ${milliseconds} ms`)), milliseconds).unref());
  return Promise.race([promise, late]);
}

await run([consumersAndMessagesComeBack]);
