'use strict';
// Plays one side of a case of the conformance suite, and reports what it observes: conformance/README.md
// says what a plan, a step and an observation are.
//
//   node conformance-peer.cjs PLAN
//
// Ends with status 0, 3 after a step that it cannot play, 4 when the peer itself failed, and 1 when
// the implementation threw outside a call, which is what a program that catches nothing does.

const childProcess = require('child_process');
const fs = require('fs');
const handles = require('./conformance-handles.cjs');
const values = require('./conformance-values.cjs');

const VARIABLES = ['NODE_CHANNEL_FD', 'NODE_CHANNEL_SERIALIZATION_MODE', 'NODE_UNIQUE_ID'];
const UNSUPPORTED = 3;
const FAILED = 4;
// How long a callback or a message may take that is still to come after the end of the channel.
const GRACE = 1000;

process.on('unhandledRejection', fail);

function fail(error) {
  console.error(error);
  process.exit(FAILED);
}

// What goes wrong in the peer must not look like a fault of the implementation that calls it.
function guarded(call) {
  return (...args) => {
    try {
      return call(...args);
    } catch (error) {
      return fail(error);
    }
  };
}

function codeOf(error) {
  if (error && typeof error.code === 'string') return error.code;
  return error && error.constructor ? error.constructor.name : String(error);
}

// ------------------------------------------------------------------------------------- the report

const plan = guarded(() => JSON.parse(fs.readFileSync(process.argv[process.argv.length - 1], 'utf8')))();
const isParent = plan.role === 'parent';
const report = guarded(() => fs.openSync(plan.report, 'a'))();

let counting = false;
let total = 0;
let reported = 0;

function append(what) {
  fs.writeSync(report, `${JSON.stringify(what)}\n`);
}

function tellCount() {
  if (total === reported) return;
  reported = total;
  append({ counted: total });
}

function observe(what) {
  tellCount();
  append(what);
}

process.on('exit', guarded(tellCount));

process.on('uncaughtException', guarded((error) => {
  observe({ error: codeOf(error) });
  console.error(error);
  process.exit(1);
}));

function unsupported(step, error) {
  if (error) console.error(error.message);
  observe({ unsupported: step });
  process.exit(UNSUPPORTED);
}

// ---------------------------------------------------------------------------------- the other side

function start({ how, command, module, args, exec_path: execPath, exec_argv: execArgv, env }) {
  const options = { env: Object.assign({}, process.env, env), serialization: plan.mode };
  if (how === 'fork') {
    return childProcess.fork(module, args, Object.assign(options, { execPath, execArgv }));
  }
  if (how !== 'spawn') throw new Error(`start.how is ${how}, neither spawn nor fork`);
  options.stdio = ['inherit', 'inherit', 'inherit', 'ipc'];
  return childProcess.spawn(command, args, options);
}

const target = isParent ? guarded(start)(plan.start) : process;
const labels = new Set();
let messages = 0;
let received = 0;
let disconnected = false;
let exited = false;
let callbacks = 0;

function isNext(message) {
  if (message === total) return !Object.is(message, -0);
  if (message === null || typeof message !== 'object' || message.n !== total) return false;
  return Object.keys(message).length === 1;
}

const onMessage = guarded((message, handle) => {
  messages += 1;
  const bare = handle === undefined || handle === null;
  if (counting && bare && isNext(message)) {
    total += 1;
  } else {
    const seen = { message: values.encode(message) };
    if (!bare) {
      received += 1;
      seen.handle = handles.adopt(`in${received}`, handle);
    }
    observe(seen);
  }
  goOn();
});

const onDisconnect = guarded(() => {
  disconnected = true;
  observe('disconnect');
  goOn();
  giveUp();
});

const onExit = guarded((code, signal) => {
  exited = true;
  observe({ exit: signal || code });
  goOn();
});

// --------------------------------------------------------------------------------------- the steps

function send(step) {
  const times = step.times === undefined ? 1 : step.times;
  const label = step.callback;
  let left = times;
  let failure;
  const done = guarded((error) => {
    left -= 1;
    failure = failure || error;
    if (left > 0) return;
    if (left === 0) callbacks -= 1;
    labels.add(label);
    const seen = { sent: label };
    if (failure) seen.error = codeOf(failure);
    observe(seen);
    goOn();
  });
  if (label !== undefined) callbacks += 1;
  for (let n = 0; n < times; n += 1) {
    const args = [values.decode(step.send, n)];
    if (step.handle !== undefined) args.push(handles.sendable(step.handle));
    if (step.keep_open) args.push({ keepOpen: true });
    if (label !== undefined) args.push(done);
    try {
      target.send(...args);
    } catch (error) {
      if (label !== undefined) callbacks -= 1;
      observe({ threw: codeOf(error) });
      return;
    }
  }
}

function waitFor({ wait }) {
  if (wait === 'disconnect') return () => disconnected;
  if (wait === 'exit' && isParent) return () => exited;
  if (wait && wait.messages !== undefined) return () => messages >= wait.messages;
  if (wait && wait.sent !== undefined) return () => labels.has(wait.sent);
  return null;
}

function inEnvironment() {
  return VARIABLES.filter((name) => process.env[name] !== undefined);
}

function inherited() {
  const script = `for name in ${VARIABLES.join(' ')}; do
    eval "[ -z \\"\\\${$name+set}\\" ] || echo $name"
  done`;
  const { error, status, stdout, stderr } = childProcess.spawnSync('/bin/sh', ['-c', script]);
  if (error) throw error;
  if (status !== 0) throw new Error(`the grandchild ended with ${status}: ${stderr}`);
  return String(stdout).split('\n').filter(Boolean);
}

const facts = {
  connected: () => target.connected,
  channel: () => Boolean(target.channel),
  env: inEnvironment,
  inherited,
};

function sleep(ms) {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

let marked;

async function checkDescriptors() {
  const deadline = Date.now() + 2000;
  let more = await handles.descriptors() - marked;
  while (more > 0 && Date.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    more = await handles.descriptors() - marked;
  }
  // Fewer are no leak: the channel may have ended meanwhile.
  observe({ fds: Math.max(0, more) });
}

const simple = {
  send,
  disconnect() {
    try {
      target.disconnect();
    } catch (error) {
      observe({ threw: codeOf(error) });
    }
  },
  exit: (step) => process.exit(step.exit),
  kill: (step) => target.kill(step.kill),
  busy: (step) => sleep(step.busy),
  say: (step) => observe({ said: step.say }),
  tell: (step) => observe({ is: { [step.tell]: values.encode(facts[step.tell]()) } }),
  count() { counting = true; },
};

// These take a while, and what they raise is observed.
const lasting = {
  open: (step) => handles.open(step.open),
  async serve(step) {
    await handles.serve(step.serve, values.decode(step.reply));
    observe({ served: step.serve });
  },
  async dial(step) {
    observe({ read: { [step.dial]: values.encode(await handles.dial(step.dial)) } });
  },
  write: (step) => handles.write(step.write, values.decode(step.text)),
  async read(step) {
    observe({ read: { [step.read]: values.encode(await handles.read(step.read)) } });
  },
  close: (step) => handles.close(step.close),
  async connections(step) {
    observe({ is: { connections: await handles.connections(step.connections) } });
  },
  async mark_fds() {
    await handles.warmUp();
    marked = await handles.descriptors();
  },
  check_fds: checkDescriptors,
};

// What may stand beside a step: another word there is a step that this peer does not know.
const OPTIONS = {
  send: ['handle', 'keep_open', 'times', 'callback'],
  serve: ['reply'],
  write: ['text'],
};
const OPENING = ['name', 'kind', 'of', 'counted'];

function hasOnly(step, name) {
  if (typeof step === 'string') return true;
  const allowed = (OPTIONS[name] || []).concat(name);
  if (!Object.keys(step).every((key) => allowed.includes(key))) return false;
  return name !== 'open' || Object.keys(step.open).every((key) => OPENING.includes(key));
}

function isOne(table, name) {
  return Object.prototype.hasOwnProperty.call(table, name);
}

// -------------------------------------------------------------------------------------- the course

let next = 0;
let waiting = null;
let played = false;
let ending = false;

// Messages that are waited for may never come.
function giveUp() {
  const { wait } = plan.steps[next - 1] || {};
  if (!waiting || !disconnected || !wait || wait.messages === undefined) return;
  const hopeless = waiting;
  setTimeout(guarded(() => {
    if (waiting !== hopeless) return;
    throw new Error(`waited for ${wait.messages} messages, but the channel ended after ${messages}`);
  }), GRACE);
}

// At once when it happens, before anything else is observed.
function goOn() {
  if (waiting && waiting()) {
    waiting = null;
    play();
  }
  end();
}

const play = guarded(() => {
  while (next < plan.steps.length) {
    const step = plan.steps[next];
    next += 1;
    if (isLast(step)) return;
  }
  played = true;
  end();
});

// Whether the steps stop here, for now or for good.
function isLast(step) {
  const name = typeof step === 'string' ? step : Object.keys(step)[0];
  if (!hasOnly(step, name)) unsupported(step);
  try {
    if (name === 'wait') {
      const condition = waitFor(step);
      if (!condition) unsupported(step);
      if (condition()) return false;
      waiting = condition;
      giveUp();
      return true;
    }
    if (name === 'end') {
      // The listeners keep a child alive.
      target.removeListener('message', onMessage);
      target.removeListener('disconnect', onDisconnect);
      if (isParent) target.removeListener('exit', onExit);
      return true;
    }
    if (name === 'die') {
      tellCount();
      process.kill(process.pid, step.die);
      return true;
    }
    if (isOne(lasting, name)) {
      lasting[name](step).catch((error) => raised(step, error)).then(play);
      return true;
    }
    const known = isOne(simple, name) && (name !== 'tell' || isOne(facts, step.tell));
    if (!known || (name === 'kill' && !isParent)) unsupported(step);
    simple[name](step);
  } catch (error) {
    raised(step, error);
  }
  return false;
}

function raised(step, error) {
  if (error instanceof handles.Unsupported || error instanceof values.Unsupported) {
    unsupported(step, error);
  }
  if (error instanceof values.WrongPlan) fail(error);
  observe({ threw: codeOf(error) });
}

// A callback may come after the end of the channel that it is about.
function end() {
  if (!played || ending || !disconnected || (isParent && !exited)) return;
  ending = true;
  const deadline = Date.now() + GRACE;
  let turns = 0;
  const turn = guarded(() => {
    turns += 1;
    if (turns < 3) setImmediate(turn);
    else if (callbacks > 0 && Date.now() < deadline) setTimeout(turn, 10);
    else process.exit(0);
  });
  setImmediate(turn);
}

target.on('error', guarded((error) => observe({ error: codeOf(error) })));
target.on('message', onMessage);
target.on('disconnect', onDisconnect);
if (isParent) {
  target.on('exit', onExit);
  if (target.pid === undefined) target.once('error', fail);
} else if (!process.send) {
  fail(new Error('this process has no channel'));
}
play();
