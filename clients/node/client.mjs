// amqplib, RabbitMQ's client in Node, run against whatever broker AMQP_URI names.
//
// Each scenario opens its own connection; the first that fails ends the program with exit code 1.

import assert from "node:assert/strict";
import { setTimeout as pause } from "node:timers/promises";
import amqp from "amqplib";
import { URI, name, run, until, withChannel } from "./scenarios.mjs";

const QUIET_MS = 150;

async function exclusiveQueue(channel) {
  const { queue } = await channel.assertQueue("", { exclusive: true });
  assert.match(queue, /^amq\.gen-/, "server-named queue");
  return queue;
}

// Publishes each body and waits for all the confirms.
async function publishAll(channel, queue, bodies) {
  for (const body of bodies) channel.sendToQueue(queue, Buffer.from(body));
  await channel.waitForConfirms();
}

// Takes all that is in a queue: [body, redelivered] each.
async function drain(channel, queue) {
  const got = [];
  for (let message; (message = await channel.get(queue, { noAck: true })); ) {
    got.push([message.content.toString(), message.fields.redelivered]);
  }
  return got;
}

// The action must close its channel with this error and leave the connection alone.
async function refused(connection, code, text, action) {
  const victim = await connection.createChannel();
  const closed = new Promise((resolve) => victim.once("error", resolve));
  await assert.rejects(action(victim));
  const error = await closed;
  assert.equal(error.code, code);
  assert.match(error.message, new RegExp(`"${text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}"`));
  const survivor = await connection.createChannel();
  await exclusiveQueue(survivor);
  await survivor.close();
}

async function declaresAndRoutes() {
  await withChannel(async (channel) => {
    const kinds = { durable: { durable: true }, transient: { durable: false }, auto: { durable: false, autoDelete: true } };
    for (const [stem, options] of Object.entries({ ...kinds, exclusive: { exclusive: true } })) {
      const queue = name(stem);
      const declared = await channel.assertQueue(queue, options);
      assert.deepEqual(declared, { queue, messageCount: 0, consumerCount: 0 });
      assert.deepEqual(await channel.deleteQueue(queue), { messageCount: 0 });
    }
    const source = name("source");
    await channel.assertExchange(source, "fanout", { durable: false });
    const cases = [
      ["direct", "red", {}, "red", true],
      ["direct", "red", {}, "blue", false],
      ["fanout", "", {}, "anything", true],
      ["topic", "*.red.#", {}, "light.red", true],
      ["topic", "*.red.#", {}, "red", false],
      ["headers", "", { "x-match": "any", format: "pdf", pages: 3 }, "anything", true],
      ["headers", "", { "x-match": "all", format: "pdf", pages: 4 }, "anything", false],
    ];
    for (const [kind, pattern, args, key, expected] of cases) {
      const exchange = name(kind);
      await channel.assertExchange(exchange, kind, { durable: false });
      const queue = await exclusiveQueue(channel);
      await channel.bindQueue(queue, exchange, pattern, args);
      await channel.bindExchange(exchange, source, "");
      channel.publish(source, key, Buffer.from("m"), { headers: { format: "pdf", pages: 3 } });
      await channel.waitForConfirms();
      const got = await drain(channel, queue);
      assert.equal(got.length, expected ? 1 : 0, `${kind} exchange, binding ${pattern}, key ${key}`);
      await channel.unbindExchange(exchange, source, "");
      await channel.deleteExchange(exchange);
    }
    await channel.deleteExchange(source);
  });
}

async function confirmsAndReturns() {
  await withChannel(async (channel) => {
    const queue = await exclusiveQueue(channel);
    const bodies = Array.from({ length: 200 }, (_, number) => `${number}`);
    await publishAll(channel, queue, bodies);
    const got = await drain(channel, queue);
    assert.deepEqual(got.map(([body]) => body), bodies, "publishing order");
    const returned = [];
    channel.on("return", (message) => returned.push(message));
    channel.publish("amq.direct", "nobody", Buffer.from("back"), { mandatory: true, messageId: "7" });
    await channel.waitForConfirms();
    assert.equal(returned.length, 1, "the return comes before the confirm");
    const [{ fields, properties, content }] = returned;
    assert.deepEqual([fields.replyCode, fields.replyText, fields.routingKey], [312, "NO_ROUTE", "nobody"]);
    assert.deepEqual([properties.messageId, content.toString()], ["7", "back"]);
  });
}

async function prefetchAndAcks() {
  await withChannel(async (channel) => {
    const queue = await exclusiveQueue(channel);
    const bodies = Array.from({ length: 20 }, (_, number) => `${number}`);
    await publishAll(channel, queue, bodies);
    await channel.prefetch(5);
    const got = [];
    await channel.consume(queue, (message) => got.push(message));
    for (let taken = 5; taken <= 20; taken += 5) {
      await until(() => got.length >= taken, `${taken} deliveries`);
      await pause(QUIET_MS);
      assert.equal(got.length, taken, "never more than the prefetch unacknowledged");
      channel.ack(got[taken - 1], true);
    }
    assert.deepEqual(got.map((message) => message.content.toString()), bodies);
    await until(async () => (await channel.checkQueue(queue)).messageCount === 0, "nothing left");
  });
}

async function requeueAndReject() {
  await withChannel(async (channel) => {
    const queue = await exclusiveQueue(channel);
    assert.equal(await channel.get(queue), false, "get-empty");
    await publishAll(channel, queue, ["0", "1", "2", "3"]);
    const held = [];
    for (let left = 3; left >= 0; left--) {
      const message = await channel.get(queue);
      assert.deepEqual([message.fields.messageCount, message.fields.redelivered], [left, false]);
      held.push(message);
    }
    channel.ack(held[1]);
    channel.reject(held[2], false);
    channel.nack(held[3], true, true);
    const expected = [["0", true], ["3", true]];
    assert.deepEqual(await drain(channel, queue), expected, "order and redelivered after requeue");
    await publishAll(channel, queue, ["4"]);
    await channel.get(queue);
    await channel.recover();
    assert.deepEqual(await drain(channel, queue), [["4", true]], "recover");
  });
}

async function propertiesOfEveryType() {
  await withChannel(async (channel) => {
    const queue = await exclusiveQueue(channel);
    const headers = {
      text: "text \u00e9",
      bytes: Buffer.from([0, 255]),
      yes: true,
      no: false,
      byte: 100,
      short: -30_000,
      int: 2_000_000_000,
      long: 2 ** 40,
      double: 1.25,
      none: null,
      list: [1, "two", [true], { three: 3 }],
      table: { deep: { er: "x" } },
      time: { "!": "timestamp", value: 1_700_000_000 },
      decimal: { "!": "decimal", value: { digits: 314, places: 2 } },
      float: { "!": "float", value: 0.5 },
    };
    const sent = {
      contentType: "a/b", contentEncoding: "c", headers, deliveryMode: 2, priority: 3, correlationId: "d", replyTo: "e",
      messageId: "f", timestamp: 1_700_000_000, type: "g", userId: "guest", appId: "h",
    };
    channel.sendToQueue(queue, Buffer.alloc(0), sent);
    const { properties, content } = await channel.get(queue, { noAck: true });
    assert.equal(content.length, 0, "empty body");
    for (const [field, value] of Object.entries({ ...sent, headers: undefined })) {
      if (field !== "headers") assert.deepEqual(properties[field], value, field);
    }
    const plain = { ...headers, float: 0.5 };
    for (const [field, value] of Object.entries(plain)) assert.deepEqual(properties.headers[field], value, `header ${field}`);
  });
}

async function largeBodies() {
  await withChannel(async (channel) => {
    const queue = await exclusiveQueue(channel);
    for (const size of [4088, 131_063, 131_064, 131_065, 10 * 1024 * 1024]) {
      const body = Buffer.alloc(size, Buffer.from(Array.from({ length: 251 }, (_, index) => index)));
      channel.sendToQueue(queue, body);
      await channel.waitForConfirms();
      const { content } = await channel.get(queue, { noAck: true });
      assert.ok(content.equals(body), `a body of ${size} bytes is unchanged, got ${content.length}`);
    }
  });
}

async function lifeCycles() {
  await withChannel(async (channel, connection) => {
    const queue = name("cancelled");
    await channel.assertQueue(queue, { durable: false });
    const got = [];
    await channel.consume(queue, (message) => got.push(message));
    const other = await connection.createChannel();
    await other.deleteQueue(queue);
    await until(() => got.length === 1, "the cancel notification");
    assert.equal(got[0], null, "a cancelled consumer is told so");

    const exclusive = name("exclusive");
    const autoDelete = name("auto");
    await channel.assertQueue(exclusive, { exclusive: true });
    await channel.assertQueue(autoDelete, { durable: false, autoDelete: true });
    const { consumerTag } = await channel.consume(autoDelete, () => {});
    await withChannel(async (_, stranger) => {
      const locked =
        `RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '${exclusive}' in vhost '/'. It could be ` +
        "originally declared on another connection or the exclusive property value does not match that of the original declaration.";
      await refused(stranger, 405, locked, (victim) => victim.checkQueue(exclusive));
      await channel.cancel(consumerTag);
      await until(() => missing(stranger, autoDelete), "the auto-delete queue is gone");
    });
  });
}

async function missing(connection, queue) {
  const probe = await connection.createChannel();
  probe.on("error", () => {});
  try {
    await probe.checkQueue(queue);
    await probe.close();
    return false;
  } catch {
    return true;
  }
}

async function errors() {
  await withChannel(async (channel, connection) => {
    await refused(connection, 404, "NOT_FOUND - no queue 'nope' in vhost '/'", (victim) => victim.checkQueue("nope"));
    await refused(connection, 404, "NOT_FOUND - no exchange 'nope' in vhost '/'", (victim) => victim.checkExchange("nope"));
    const reserved = "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'";
    await refused(connection, 403, reserved, (victim) => victim.assertQueue("amq.mine"));
    const queue = name("durable");
    await channel.assertQueue(queue, { durable: true });
    const differs =
      `PRECONDITION_FAILED - inequivalent arg 'durable' for queue '${queue}' in vhost '/': ` +
      "received 'false' but current is 'true'";
    await refused(connection, 406, differs, (victim) => victim.assertQueue(queue, { durable: false }));
    await channel.deleteQueue(queue);
  });
  await assert.rejects(amqp.connect(URI.replace(/:[^:@/]*@/, ":wrong@")), /ACCESS_REFUSED/, "a wrong password is refused");
}

const scenarios = [
  declaresAndRoutes, confirmsAndReturns, prefetchAndAcks, requeueAndReject, propertiesOfEveryType, largeBodies, lifeCycles, errors,
];
await run(scenarios);
