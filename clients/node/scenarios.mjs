// What the programs beside have in common: the broker, names no other run uses, waiting, and running scenarios.

import assert from "node:assert/strict";
import { basename } from "node:path";
import process from "node:process";
import { setTimeout as pause } from "node:timers/promises";
import amqp from "amqplib";

export const URI = process.env.AMQP_URI ?? "amqp://guest:guest@127.0.0.1:5672/%2f";
const PATIENCE_MS = 10_000;
const PROGRAM = basename(process.argv[1], ".mjs");

// A name no other program and no other run uses.
export const name = (stem) => `check.node-${PROGRAM}.${stem}.${process.pid}`;

// Waits until a condition, which may be a promise, holds.
export async function until(condition, what) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, `${what}: still not so after ${PATIENCE_MS} ms`);
    await pause(10);
  }
}

// Runs a scenario on a channel, with confirms unless told otherwise, of a connection of its own.
export async function withChannel(scenario, { confirm = true } = {}) {
  const connection = await amqp.connect(URI);
  const channel = await (confirm ? connection.createConfirmChannel() : connection.createChannel());
  try {
    await scenario(channel, connection);
  } finally {
    await connection.close();
  }
}

// Runs scenarios in order; the first that fails ends the program with exit code 1.
export async function run(scenarios) {
  for (const scenario of scenarios) {
    try {
      await scenario();
      console.log(`ok ${scenario.name}`);
    } catch (error) {
      console.log(`FAIL ${scenario.name}: ${error.stack}`);
      process.exit(1);
    }
  }
}
