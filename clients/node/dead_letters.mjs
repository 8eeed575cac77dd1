// amqplib: dead letters, by its options `deadLetterExchange` and `deadLetterRoutingKey`.

import assert from "node:assert/strict";
import { name, run, until, withChannel } from "./scenarios.mjs";

async function arrives(channel, queue) {
  let message = false;
  await until(async () => (message = await channel.get(queue, { noAck: true })), `a message in ${queue}`);
  return message;
}

// What a worker does not want goes to the dead-letter exchange and tells why.
async function rejectedByAWorker() {
  await withChannel(async (channel) => {
    const exchange = name("dlx");
    await channel.assertExchange(exchange, "fanout", { autoDelete: true });
    const { queue: dead } = await channel.assertQueue("", { exclusive: true });
    await channel.bindQueue(dead, exchange, "");
    const { queue } = await channel.assertQueue("", { exclusive: true, deadLetterExchange: exchange });
    for (const body of ["good", "bad", "good"]) channel.sendToQueue(queue, Buffer.from(body));
    await channel.waitForConfirms();
    let seen = 0;
    await new Promise((resolve) =>
      channel.consume(queue, (message) => {
        if (message.content.toString() === "bad") channel.nack(message, false, false);
        else channel.ack(message);
        if (++seen === 3) resolve();
      }),
    );
    const letter = await arrives(channel, dead);
    assert.equal(letter.content.toString(), "bad");
    assert.equal(letter.fields.routingKey, queue);
    const [death] = letter.properties.headers["x-death"];
    assert.deepEqual([death.queue, death.reason, death.count], [queue, "rejected", 1]);
    assert.deepEqual(death["routing-keys"], [queue]);
  });
}

// A short queue hands on what has no room, with another key.
async function beyondMaxLength() {
  await withChannel(async (channel) => {
    const { queue: dead } = await channel.assertQueue("", { exclusive: true });
    const options = { exclusive: true, maxLength: 1, deadLetterExchange: "", deadLetterRoutingKey: dead };
    const { queue } = await channel.assertQueue("", options);
    for (const body of ["old", "new"]) channel.sendToQueue(queue, Buffer.from(body), { persistent: true });
    await channel.waitForConfirms();
    const letter = await arrives(channel, dead);
    assert.equal(letter.content.toString(), "old");
    assert.equal(letter.properties.headers["x-first-death-reason"], "maxlen");
    assert.equal((await arrives(channel, queue)).content.toString(), "new");
  });
}

await run([rejectedByAWorker, beyondMaxLength]);
