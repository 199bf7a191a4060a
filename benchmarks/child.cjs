'use strict';
// The JavaScript child of one measurement. README.md describes the protocol.

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

// Each work plays one run of `count` messages, then calls `done`.
function echo(count, work, done) {
  let left = count;
  process.on('message', function onMessage(message) {
    process.send(message);
    left -= 1;
    if (left === 0) {
      process.removeListener('message', onMessage);
      done();
    }
  });
}

function produce(count, work, done) {
  if (work.paced) {
    producePaced(count, done);
    return;
  }
  for (let id = 0; id < count; id += 1) process.send(smallMessage(id));
  done();
}

// Waits for the callback of every message that follows a `send()` that returned false.
function producePaced(count, done) {
  let id = 0;
  (function more() {
    let room = true;
    while (room && id < count) {
      room = process.send(smallMessage(id));
      id += 1;
    }
    if (id === count) {
      done();
      return;
    }
    process.send(smallMessage(id), more);
    id += 1;
  })();
}

function consume(count, work, done) {
  let left = count;
  process.on('message', function onMessage() {
    left -= 1;
    if (left === 0) {
      process.removeListener('message', onMessage);
      done();
    }
  });
}

// Loaded in the warm-up of the works that need it: what every child loads is a part of `start`.
function handles() {
  return require('./handles.cjs');
}

function giveHandles(count, work, done) {
  handles().giveHandles(process, count, smallMessage, done);
}

function takeHandles(count, work, done) {
  const { takeHandle } = handles();
  let seen = 0;
  process.on('message', function onMessage(message, socket) {
    takeHandle(message, socket, seen);
    seen += 1;
    if (seen === count) {
      process.removeListener('message', onMessage);
      done();
    }
  });
}

const works = {
  start: null,
  'round-trip': echo,
  'round-trip-free': echo,
  'child-to-parent': produce,
  'child-to-parent-many': produce,
  'parent-to-child': consume,
  'parent-to-child-many': consume,
  'large-echo': echo,
  'handles-to-parent': giveHandles,
  'handles-to-child': takeHandles,
};

function awaitRun(work) {
  process.once('message', (message) => {
    const cpu = cpuSeconds();
    const began = seconds();
    works[work.work](message.run, work, () => {
      const report = { cpu: cpuSeconds() - cpu, seconds: seconds() - began };
      awaitRun(work);
      process.send({ report });
    });
  });
}

process.once('message', (work) => {
  if (!(work.work in works)) {
    process.send({ error: `child.cjs has no work named ${JSON.stringify(work.work)}` });
    return;
  }
  awaitRun(work);
  process.send({ ready: work.work, runtime: runtime(), cpu: cpuSeconds() });
});
