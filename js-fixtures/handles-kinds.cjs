'use strict';
// Either side: hands over one handle of each kind, then takes as many from the other side.
//
//   node handles-kinds.cjs OPTIONS PROGRAM [ARG...]   as the parent of PROGRAM; gives first
//   fork('handles-kinds.cjs', [OPTIONS])              as a child; takes first
//
// OPTIONS is a JSON object: {"give": [KIND...]}; the kinds are the keys of `kinds` below.
//
// Who gives sends {"kind": KIND} with the handle, and waits for {"ready": KIND, "got": …}. Then it
// closes its own copy, and asks whatever has the handle now: it connects, or writes on the other
// end. Who takes answers one such question, closes the handle and says {"done": KIND}. Who has
// given all says {"kind": null}.
//
// Of what it gave, a side has {KIND: {"got": what the taker says that it got, "answer": the answer to
// the question}}. A child sends that as its last message; the parent prints
//   {"node": {"given": its own, "taken": the child's}}

const dgram = require('dgram');
const fs = require('fs');
const net = require('net');
const {
  ask, askDatagram, closed, connected, event, listen, talk, unixPath,
} = require('./handles-common.cjs');
const { connect, isChild, report } = require('./peer.cjs');

const LOCAL = { host: '127.0.0.1', port: 0 };

// The kinds: each opens something, and says how to ask who has it. `handle` travels, `close` closes
// the copy of who gave it, `options` are those of send().

async function server(at) {
  const handle = await listen(net.createServer((socket) => socket.end('from the giver\n')), at);
  let target = handle.address();
  if (at.path) {
    // Node removes the path when it closes the server, although others still listen there.
    target = `${at.path}-too`;
    fs.linkSync(at.path, target);
  }
  return {
    handle,
    close: () => closed(handle),
    question: async () => ask(net.connect(target.port || target)),
  };
}

// One end is handed over, the other asks. `which` is the one that travels.
async function ends(at, which, options) {
  const listener = await listen(net.createServer({ pauseOnConnect: true }), at);
  const accepting = event(listener, 'connection');
  const connecting = await connected(at.path || listener.address().port);
  const accepted = await accepting;
  listener.close();
  const [handle, other] = which === 'accepted' ? [accepted, connecting] : [connecting, accepted];
  // The ones that moved have nothing left to close.
  return { handle, other, options, close: () => {}, question: () => ask(other) };
}

async function datagrams(type, address) {
  const handle = dgram.createSocket(type);
  handle.bind(0, address);
  await event(handle, 'listening');
  const at = handle.address();
  return { handle, close: () => closed(handle), question: () => askDatagram(at) };
}

function stateOf(socket) {
  const symbols = Object.getOwnPropertySymbols(socket);
  return socket[symbols.find((symbol) => String(symbol) === 'Symbol(state symbol)')];
}

// What Node keeps inside a server or socket, and cluster sends.
async function native(opening) {
  const opened = await opening;
  const owner = opened.handle;
  opened.handle = owner instanceof dgram.Socket ? stateOf(owner).handle : owner._handle;
  opened.close = () => closed(owner);
  return opened;
}

async function kept() {
  const opened = await ends(LOCAL, 'accepted', { keepOpen: true });
  const { handle, other } = opened;
  opened.question = async () => {
    handle.write('from the giver\n');
    other.write('ping\n');
    other.setEncoding('utf8');
    let text = '';
    other.on('data', (data) => {
      text += data;
      // The taker has answered, and closes: the connection is open as long as one side has it.
      if (text.endsWith('ping\n')) handle.end('still here\n');
    });
    other.resume();
    await event(other, 'end');
    other.destroy();
    handle.destroy();
    return text;
  };
  return opened;
}

function bound() {
  const handle = new net.BoundSocket(LOCAL);
  const { port } = handle.address();
  return { handle, close: () => {}, question: () => ask(net.connect(port)) };
}

const kinds = {
  'server-tcp': () => server(LOCAL),
  'server-unix': () => server({ path: unixPath() }),
  'socket-tcp': () => ends(LOCAL, 'connecting'),
  'socket-tcp-accepted': () => ends(LOCAL, 'accepted'),
  'socket-unix': () => ends({ path: unixPath() }, 'connecting'),
  'socket-unix-accepted': () => ends({ path: unixPath() }, 'accepted'),
  'socket-kept': kept,
  // The message is larger than what goes in one write.
  'socket-large': () => ends(LOCAL, 'connecting'),
  // The second time there is no handle any more: Node sends the bare message.
  'socket-twice': () => ends(LOCAL, 'connecting'),
  udp4: () => datagrams('udp4', '127.0.0.1'),
  udp6: () => datagrams('udp6', '::1'),
  'native-server-tcp': () => native(server(LOCAL)),
  'native-server-unix': () => native(server({ path: unixPath() })),
  'native-socket-tcp': () => native(ends(LOCAL, 'connecting')),
  'native-socket-unix': () => native(ends({ path: unixPath() }, 'accepted')),
  'native-udp4': () => native(datagrams('udp4', '127.0.0.1')),
  // Node 26
  bound,
};

// ------------------------------------------------------------------------------------------ giving

const LARGE = 4 * 1024 * 1024;

async function give(channel, wanted) {
  const given = {};
  for (const kind of wanted) {
    const opened = await kinds[kind]();
    const message = kind === 'socket-large' ? { kind, text: 'x'.repeat(LARGE) } : { kind };
    channel.send(message, opened.handle, opened.options);
    if (kind === 'socket-twice') channel.send({ kind: 'again' }, opened.handle);
    given[kind] = { got: (await said(channel, 'ready', kind)).got };
    await opened.close();
    given[kind].answer = await opened.question();
    await said(channel, 'done', kind);
    if (kind === 'socket-twice') given.again = { got: (await said(channel, 'ready', 'again')).got };
  }
  await channel.send({ kind: null });
  return given;
}

async function said(channel, what, kind) {
  const received = await channel.receive();
  if (!received || received.message[what] !== kind) {
    throw new Error(`expected {${what}: ${kind}}, got ${JSON.stringify(received)}`);
  }
  return received.message;
}

// ------------------------------------------------------------------------------------------ taking

// What came: what it is to Node, and whether its descriptor has O_NONBLOCK.
function described(handle, message) {
  if (!handle) return null;
  const bare = handle instanceof dgram.Socket ? stateOf(handle).handle : handle._handle || handle;
  const fd = typeof bare.fd === 'function' ? bare.fd() : bare.fd;
  const [, flags] = /flags:\s*(\d+)/.exec(fs.readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'));
  const nonBlocking = (parseInt(flags, 8) & fs.constants.O_NONBLOCK) !== 0;
  const got = { type: handle.constructor.name, nonBlocking };
  if (message.text) got.characters = message.text.length;
  return got;
}

async function take(channel) {
  for (;;) {
    const { message, handle } = await channel.receive();
    const { kind } = message;
    if (kind === null) return;
    const got = described(handle, message);
    const ready = () => channel.send({ ready: kind, got });
    if (handle) {
      await serve(kind, handle, ready);
      await channel.send({ done: kind });
    } else {
      await ready();
    }
  }
}

async function serve(kind, handle, ready) {
  if (handle instanceof dgram.Socket || kind === 'native-udp4') {
    await serveDatagram(handle, ready);
  } else if (handle instanceof net.Server || /server|bound/.test(kind)) {
    await serveConnection(handle, ready);
  } else {
    const socket = handle instanceof net.Socket
      ? handle
      : new net.Socket({ handle, readable: true, writable: true });
    await ready();
    await answer(socket);
  }
}

async function serveConnection(handle, ready) {
  const listener = handle instanceof net.Server
    ? handle
    : await listen(net.createServer(), handle);
  const connection = event(listener, 'connection');
  await ready();
  await answer(await connection);
  await closed(listener);
}

async function answer(socket) {
  socket.setEncoding('utf8');
  const line = await event(socket, 'data');
  // Not end(): that would shut the connection down for whoever else has it.
  socket.write(`node: ${line}`, () => socket.destroy());
  await event(socket, 'close');
}

async function serveDatagram(handle, ready) {
  let socket = handle;
  if (!(handle instanceof dgram.Socket)) {
    socket = dgram.createSocket('udp4');
    // 'listening' comes during this call.
    socket.bind(handle);
  }
  const answered = new Promise((resolve) => {
    socket.once('message', (data, { address, port }) => {
      socket.send(`node: ${data}`, port, address, resolve);
    });
  });
  await ready();
  await answered;
  await closed(socket);
}

// --------------------------------------------------------------------------------------------------

async function main() {
  const options = JSON.parse(process.argv[2]);
  const peer = connect(process.argv.slice(3));
  const channel = talk(peer);
  if (isChild) {
    await take(channel);
    await channel.send(await give(channel, options.give));
  } else {
    const given = await give(channel, options.give);
    await take(channel);
    const taken = await channel.receive();
    report({ given, taken: taken && taken.message });
    peer.disconnect();
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
