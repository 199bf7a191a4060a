'use strict';
// The JavaScript parent of one measurement: `node parent.cjs JOB` prints one line of JSON.
// README.md describes the job and the protocol.

const { fork } = require('child_process');
const handles = require('./handles.cjs');

function cpuSeconds() {
  const usage = process.cpuUsage();
  return (usage.user + usage.system) / 1e6;
}

function seconds() {
  const [whole, nano] = process.hrtime();
  return whole + nano / 1e9;
}

function smallMessage(id) {
  return { id, type: 'progress', name: 'worker', done: 0.5, final: false };
}

function runtime() {
  if (process.versions.bun) return `Bun ${process.versions.bun}`;
  if (process.versions.deno) return `Deno ${process.versions.deno}`;
  return `Node ${process.versions.node}`;
}

function show(message) {
  const text = JSON.stringify(message);
  return text.length > 200 ? `${text.slice(0, 200)}...` : text;
}

class Child {
  constructor(job) {
    this.process = fork(job.child.module, [], {
      execPath: job.child.execPath,
      execArgv: job.child.execArgv,
      serialization: job.serialization,
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    this.exited = new Promise((resolve, reject) => {
      this.process.once('exit', (code, signal) => resolve({ code, signal }));
      this.process.once('error', reject);
    });
    this.process.send(job.work);
  }

  // Waits for what `start(resolve, reject)` resolves to, or for the child's early end.
  until(start) {
    const early = this.exited.then(({ code, signal }) => {
      throw new Error(`the child ended (code ${code}, signal ${signal}) before it had answered`);
    });
    return Promise.race([new Promise(start), early]);
  }

  ready() {
    return this.until((resolve, reject) => {
      this.process.once('message', (message) => {
        if (message.error) reject(new Error(message.error));
        else if (message.ready) resolve(message);
        else reject(new Error(`expected "ready" from the child, got ${show(message)}`));
      });
    });
  }

  async close() {
    if (this.process.connected) this.process.disconnect();
    const { code, signal } = await this.exited;
    if (code !== 0) throw new Error(`the child ended with code ${code}, signal ${signal}`);
  }
}

// Ends a run: takes the messages that follow `count` others, which must be the report.
function onReport(child, count, onMessage, resolve, reject) {
  let seen = 0;
  child.on('message', function listener(message, handle) {
    if (seen < count) {
      onMessage(message, seen, handle);
      seen += 1;
      return;
    }
    child.removeListener('message', listener);
    if (message.report) resolve(message.report);
    else reject(new Error(`expected the report after ${count} messages, got ${show(message)}`));
  });
}

function ignore() {}

// Each work plays one run of `count` messages and resolves to the child's report.
function roundTrip(child, count, resolve, reject) {
  onReport(child, count, (message, seen) => {
    if (message.id !== seen) reject(new Error(`expected message ${seen}, got ${show(message)}`));
    if (seen + 1 < count) child.send(smallMessage(seen + 1));
  }, resolve, reject);
  child.send({ run: count });
  child.send(smallMessage(0));
}

function take(child, count, resolve, reject) {
  onReport(child, count, (message, seen) => {
    if (message.id !== seen) reject(new Error(`expected message ${seen}, got ${show(message)}`));
  }, resolve, reject);
  child.send({ run: count });
}

function give(child, count, resolve, reject, work) {
  onReport(child, 0, ignore, resolve, reject);
  child.send({ run: count });
  if (work.paced) {
    givePaced(child, count);
    return;
  }
  for (let id = 0; id < count; id += 1) child.send(smallMessage(id));
}

// Waits for the callback of every message that follows a `send()` that returned false.
function givePaced(child, count) {
  let id = 0;
  (function more() {
    let room = true;
    while (room && id < count) {
      room = child.send(smallMessage(id));
      id += 1;
    }
    if (id === count) return;
    child.send(smallMessage(id), more);
    id += 1;
  })();
}

let large = '';

// Made before the clock starts, and in one piece: `repeat` would leave that work to the first use.
function largeText(size) {
  if (large.length !== size) large = Buffer.alloc(size, '0123456789abcdef').toString('latin1');
  return large;
}

function largeEcho(child, count, resolve, reject, work) {
  const text = largeText(work.size);
  onReport(child, count, (message, seen) => {
    if (message !== text) reject(new Error(`the echo differs: ${show(message)}`));
    if (seen + 1 < count) child.send(text);
  }, resolve, reject);
  child.send({ run: count });
  child.send(text);
}

function takeHandles(child, count, resolve, reject) {
  onReport(child, count, (message, seen, socket) => {
    try {
      handles.takeHandle(message, socket, seen);
    } catch (error) {
      reject(error);
    }
  }, resolve, reject);
  child.send({ run: count });
}

function giveHandles(child, count, resolve, reject) {
  onReport(child, 0, ignore, resolve, reject);
  child.send({ run: count });
  handles.giveHandles(child, count, smallMessage, ignore);
}

const works = {
  'round-trip': roundTrip,
  'round-trip-free': roundTrip,
  'child-to-parent': take,
  'child-to-parent-many': take,
  'parent-to-child': give,
  'parent-to-child-many': give,
  'large-echo': largeEcho,
  'handles-to-parent': takeHandles,
  'handles-to-child': giveHandles,
};

async function measureStart(job) {
  let result = null;
  const total = { seconds: 0, parentCpu: 0, childCpu: 0 };
  for (let turn = 0; turn < job.warmup + job.count; turn += 1) {
    const cpu = cpuSeconds();
    const began = seconds();
    const child = new Child(job);
    const ready = await child.ready();
    const took = seconds() - began;
    if (turn >= job.warmup) {
      total.seconds += took;
      total.parentCpu += cpuSeconds() - cpu;
      total.childCpu += ready.cpu;
    }
    result = Object.assign({ parent: runtime(), child: ready.runtime }, total);
    await child.close();
  }
  return result;
}

async function measureRuns(job) {
  const child = new Child(job);
  const ready = await child.ready();
  const play = works[job.work.work];
  if (!play) throw new Error(`parent.cjs has no work named ${JSON.stringify(job.work.work)}`);
  const run = (count) => child.until((resolve, reject) => {
    play(child.process, count, resolve, reject, job.work);
  });
  if (job.work.size) largeText(job.work.size);
  if (job.warmup > 0) await run(job.warmup);
  const cpu = cpuSeconds();
  const began = seconds();
  const report = await run(job.count);
  const took = seconds() - began;
  const used = cpuSeconds() - cpu;
  await child.close();
  return {
    parent: runtime(),
    child: ready.runtime,
    seconds: took,
    parentCpu: used,
    childCpu: report.cpu,
  };
}

async function main() {
  const job = JSON.parse(process.argv[2]);
  const measure = job.work.work === 'start' ? measureStart : measureRuns;
  process.stdout.write(`${JSON.stringify(await measure(job))}\n`);
}

main().catch((error) => {
  // Ends the child too: it lives no longer than its channel.
  process.stderr.write(`parent.cjs: ${error.message}\n`, () => process.exit(1));
});
