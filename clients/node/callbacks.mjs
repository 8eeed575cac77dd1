// amqplib's other half: the callback API, confirms told one by one, and writing against back-pressure.

import assert from "node:assert/strict";
import { once } from "node:events";
import { promisify } from "node:util";
import callbackApi from "amqplib/callback_api";
import promiseApi from "amqplib";
import { URI, name, run, until } from "./scenarios.mjs";

// Everything by callbacks: connect, declare, bind, publish with confirms, consume, cancel, close.
async function callbackApiRoundTrip() {
  const connection = await promisify(callbackApi.connect)(URI);
  const channel = await promisify(connection.createConfirmChannel.bind(connection))();
  const call = (method, ...args) => promisify(channel[method].bind(channel))(...args);
  const exchange = name("topic");
  assert.deepEqual(await call("assertExchange", exchange, "topic", { durable: false, autoDelete: true }), { exchange });
  const { queue } = await call("assertQueue", "", { exclusive: true });
  await call("bindQueue", queue, exchange, "*.warning", {});
  const got = [];
  const consuming = (options) =>
    new Promise((resolve, reject) =>
      channel.consume(queue, (message) => got.push(message), options, (error, ok) => (error ? reject(error) : resolve(ok))),
    );
  const { consumerTag } = await consuming({ consumerTag: "mine" });
  assert.equal(consumerTag, "mine");
  const confirmed = [];
  for (let number = 0; number < 10; number++) {
    const key = number % 2 ? "kern.warning" : "kern.info";
    channel.publish(exchange, key, Buffer.from(`${number}`), {}, (error) => confirmed.push([number, error]));
  }
  await call("waitForConfirms");
  confirmed.sort(([left], [right]) => left - right); // A broker may confirm the unroutable ones first.
  assert.deepEqual(confirmed, Array.from({ length: 10 }, (_, number) => [number, null]), "one callback per message");
  await until(() => got.length === 5, "five deliveries");
  assert.deepEqual(got.map((message) => message.content.toString()), ["1", "3", "5", "7", "9"]);
  channel.ackAll();
  await call("cancel", consumerTag);
  const { messageCount, consumerCount } = await call("checkQueue", queue);
  assert.deepEqual([messageCount, consumerCount], [0, 0]);
  await promisify(channel.close.bind(channel))();
  await promisify(connection.close.bind(connection))();
}

// A callback error and an "error" event for a channel that the broker closes; the connection goes on.
async function callbackApiErrors() {
  const connection = await promisify(callbackApi.connect)(URI);
  const victim = await promisify(connection.createChannel.bind(connection))();
  const closed = once(victim, "error");
  const error = await new Promise((resolve) => victim.checkQueue(name("nowhere"), (failure) => resolve(failure)));
  assert.match(error.message, /404 \(NOT-FOUND\).*NOT_FOUND - no queue/);
  const [event] = await closed;
  assert.equal(event.code, 404);
  const survivor = await promisify(connection.createChannel.bind(connection))();
  await promisify(survivor.assertQueue.bind(survivor))("", { exclusive: true });
  await promisify(connection.close.bind(connection))();
}

// Persistent messages to a durable queue, each with its own callback, far more than one write buffer holds.
async function confirmsUnderBackPressure() {
  const connection = await promiseApi.connect(URI);
  const channel = await connection.createConfirmChannel();
  const queue = name("durable");
  await channel.assertQueue(queue, { durable: true });
  const count = 3000;
  const body = Buffer.alloc(4096, "x");
  const confirmed = [];
  let drains = 0;
  for (let number = 0; number < count; number++) {
    const room = channel.sendToQueue(queue, body, { persistent: true, messageId: `${number}` }, (error) =>
      confirmed.push(error === null ? number : error),
    );
    if (!room) {
      drains += 1;
      await once(channel, "drain");
    }
  }
  await channel.waitForConfirms();
  assert.ok(drains > 0, "12 MB at once meet back-pressure");
  confirmed.sort((left, right) => left - right);
  assert.deepEqual(confirmed, Array.from({ length: count }, (_, number) => number), "every message once");
  assert.deepEqual(await channel.purgeQueue(queue), { messageCount: count });
  await channel.deleteQueue(queue);
  await connection.close();
}

// Unroutable mandatory messages come back before their own confirm, also between messages that are routed.
async function returnsComeBeforeTheirConfirms() {
  const connection = await promiseApi.connect(URI);
  const channel = await connection.createConfirmChannel();
  const { queue } = await channel.assertQueue("", { exclusive: true });
  const seen = [];
  channel.on("return", (message) => seen.push(`returned ${message.properties.messageId}`));
  for (let number = 0; number < 6; number++) {
    const key = number % 3 === 1 ? name("nobody") : queue;
    channel.sendToQueue(key, Buffer.from("m"), { mandatory: true, messageId: `${number}` }, () => seen.push(`confirmed ${number}`));
  }
  await channel.waitForConfirms();
  for (const number of [1, 4]) {
    const [returned, confirmed] = [seen.indexOf(`returned ${number}`), seen.indexOf(`confirmed ${number}`)];
    assert.ok(returned >= 0 && returned < confirmed, `${number} is returned, then confirmed: ${seen}`);
  }
  assert.equal(seen.length, 8, `${seen}`);
  await connection.close();
}

// Two hundred channels of one connection at once, each with a consumer of its own.
async function manyChannels() {
  const connection = await promiseApi.connect(URI);
  const echo = async (number) => {
    const channel = await connection.createChannel();
    const { queue } = await channel.assertQueue("", { exclusive: true });
    const got = new Promise((resolve) => channel.consume(queue, resolve, { noAck: true }));
    channel.sendToQueue(queue, Buffer.from(`${number}`));
    assert.equal((await got).content.toString(), `${number}`);
    await channel.close();
  };
  await Promise.all(Array.from({ length: 200 }, (_, number) => echo(number)));
  await connection.close();
}

const scenarios = [
  callbackApiRoundTrip, callbackApiErrors, confirmsUnderBackPressure, returnsComeBeforeTheirConfirms, manyChannels,
];
await run(scenarios);
