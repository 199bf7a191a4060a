'use strict';
// The Node parent of `nodecompat demo`: node parent.cjs PYTHON CHILD. It forks a Python child,
// talks with it, and reports what it saw as JSON lines on stdout.

const assert = require('assert');
const { fork } = require('child_process');

const [python, program] = process.argv.slice(2);
const ROUND_TRIPS = 1000;

function report(event) {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

// stdout is the report's, so the child gets stderr for both.
const child = fork(program, [], {
  execPath: python,
  execArgv: [],
  stdio: ['ignore', 2, 2, 'ipc'],
});

const arrived = [];
const waiting = [];
let ended = null;

child.on('message', (message) => {
  if (waiting.length > 0) waiting.shift().resolve(message);
  else arrived.push(message);
});
child.on('disconnect', () => {
  ended = new Error('the Python child disconnected');
  for (const { reject } of waiting.splice(0)) reject(ended);
});
child.on('error', (error) => {
  ended = new Error(`the Python child cannot be started: ${error.message}`);
  for (const { reject } of waiting.splice(0)) reject(ended);
});
const exited = new Promise((resolve) => {
  child.on('exit', (code, signal) => resolve({ code, signal }));
});

function receive() {
  if (arrived.length > 0) return Promise.resolve(arrived.shift());
  if (ended) return Promise.reject(ended);
  return new Promise((resolve, reject) => waiting.push({ resolve, reject }));
}

async function ask(message) {
  child.send(message);
  report({ event: 'sent', message });
  const reply = await receive();
  report({ event: 'received', message: reply });
  return reply;
}

async function talk() {
  report({ event: 'forked', pid: child.pid });
  const introduced = await ask({ do: 'introduce' });
  assert.strictEqual(introduced.pid, child.pid);

  const summary = await ask({ do: 'statistics', numbers: [3, 1, 4, 1, 5, 9, 2, 6] });
  assert.deepStrictEqual(summary, { mean: 3.875, median: 3.5 });

  const value = { text: 'Grüße, 世界 🐍', nested: [null, true, -0.5, { empty: [] }] };
  assert.deepStrictEqual(await ask({ do: 'echo', value }), value);

  for (let number = 0; number < ROUND_TRIPS; number += 1) {
    child.send({ do: 'echo', value: number });
  }
  for (let number = 0; number < ROUND_TRIPS; number += 1) {
    assert.strictEqual(await receive(), number);
  }
  report({ event: 'note', text: `${ROUND_TRIPS} more messages there and back, in order` });

  child.disconnect();
  const { code, signal } = await exited;
  assert.deepStrictEqual({ code, signal }, { code: 0, signal: null });
  report({ event: 'note', text: 'Node disconnected, Python ended with status 0' });
  report({ event: 'done' });
}

talk().catch(async (error) => {
  let why = error.message;
  if (child.pid !== undefined) {
    // A child that disconnected is about to end: its own status says more than our signal.
    if (ended) setTimeout(() => child.kill('SIGKILL'), 2000).unref();
    else child.kill('SIGKILL');
    const { code, signal } = await exited;
    if (ended) why += ` and ended with ${signal || `status ${code}`}`;
  }
  report({ event: 'failed', why });
  process.exitCode = 1;
});
