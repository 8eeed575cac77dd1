// amqplib: queues with priorities, declared by its option `maxPriority`.

import assert from "node:assert/strict";
import { run, withChannel } from "./scenarios.mjs";

const send = (channel, queue, priority) => channel.sendToQueue(queue, Buffer.from(`${priority}`), { priority });

// A hundred messages of ten priorities come sorted, each priority in its order.
async function sortedByPriority() {
  await withChannel(async (channel) => {
    const { queue } = await channel.assertQueue("", { exclusive: true, maxPriority: 9 });
    const sent = Array.from({ length: 100 }, (_, number) => ({ number, priority: (number * 7) % 10 }));
    for (const { number, priority } of sent) channel.sendToQueue(queue, Buffer.from(`${number}`), { priority });
    await channel.waitForConfirms();
    const got = [];
    await new Promise((resolve) =>
      channel.consume(queue, (message) => {
        got.push([message.properties.priority, Number(message.content)]);
        if (got.length === sent.length) resolve();
      }, { noAck: true }),
    );
    const expected = sent.map(({ number, priority }) => [priority, number]);
    expected.sort(([a, x], [b, y]) => b - a || x - y);
    assert.deepEqual(got, expected);
  });
}

// A worker that takes one at a time is given what is most urgent at that moment.
async function urgentOvertakes() {
  await withChannel(async (channel) => {
    const { queue } = await channel.assertQueue("", { exclusive: true, maxPriority: 2 });
    for (const priority of [0, 0, 1]) send(channel, queue, priority);
    await channel.waitForConfirms();
    await channel.prefetch(1);
    const got = [];
    await new Promise((resolve, reject) => {
      const work = async (message) => {
        got.push(message.content.toString());
        if (got.length === 1) {
          send(channel, queue, 2);
          await channel.waitForConfirms();
        }
        channel.ack(message);
        if (got.length === 4) resolve();
      };
      channel.consume(queue, (message) => work(message).catch(reject));
    });
    assert.deepEqual(got, ["1", "2", "0", "0"]);
  });
}

await run([sortedByPriority, urgentOvertakes]);
