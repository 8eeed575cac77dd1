// amqplib: time to live, by its options `messageTtl`, `expiration` and `expires`.

import assert from "node:assert/strict";
import { run, until, withChannel } from "./scenarios.mjs";

const count = async (channel, queue) => (await channel.checkQueue(queue)).messageCount;

// Messages of a queue with a time to live go when it is over.
async function messagesExpire() {
  await withChannel(async (channel) => {
    const { queue } = await channel.assertQueue("", { exclusive: true, messageTtl: 200 });
    const start = Date.now();
    for (let number = 0; number < 10; number++) channel.sendToQueue(queue, Buffer.from(`${number}`));
    await channel.waitForConfirms();
    assert.equal(await count(channel, queue), 10);
    await until(async () => (await count(channel, queue)) === 0, "all messages have expired");
    assert.ok(Date.now() - start >= 199);
  });
}

// A short-lived message does not wait behind a long-lived one.
async function shortAndLong() {
  await withChannel(async (channel) => {
    const { queue } = await channel.assertQueue("", { exclusive: true });
    channel.sendToQueue(queue, Buffer.from("long"), { expiration: 600000 });
    channel.sendToQueue(queue, Buffer.from("short"), { expiration: "50" });
    await channel.waitForConfirms();
    await until(async () => (await count(channel, queue)) === 1, "the short-lived one has expired");
    const message = await channel.get(queue, { noAck: true });
    assert.deepEqual([message.content.toString(), message.properties.expiration], ["long", "600000"]);
  });
}

// With no time at all a message is for a consumer that waits.
async function atOnceOrNever() {
  await withChannel(async (channel) => {
    const { queue } = await channel.assertQueue("", { exclusive: true, messageTtl: 0 });
    channel.sendToQueue(queue, Buffer.from("for nobody"));
    await channel.waitForConfirms();
    const got = [];
    await channel.consume(queue, (message) => got.push(message.content.toString()), { noAck: true });
    channel.sendToQueue(queue, Buffer.from("for the consumer"));
    await until(() => got.length > 0, "the delivery");
    assert.deepEqual(got, ["for the consumer"]);
  });
}

// A queue that nobody uses goes.
async function queuesExpire() {
  await withChannel(async (channel) => {
    const { queue } = await channel.assertQueue("", { expires: 200 });
    const returned = [];
    channel.on("return", (message) => returned.push(message.content.toString()));
    await until(async () => {
      channel.sendToQueue(queue, Buffer.from("?"), { mandatory: true });
      await channel.waitForConfirms();
      return returned.length > 0;
    }, "the queue is gone");
  });
}

await run([messagesExpire, shortAndLong, atOnceOrNever, queuesExpire]);
