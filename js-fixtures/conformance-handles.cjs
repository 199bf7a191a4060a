'use strict';
// The handles of the conformance suite's peer, by their names. Prints nothing by itself.
//
//   open(step)            makes a handle (and its far end) of a kind
//   adopt(name, handle)   takes in a handle that came with a message; its kind
//   sendable(name)        what to give to send() for it
//   serve, dial, write, read, close, connections
//                         the steps of these names; what was read, or counted
//   warmUp()              opens what an implementation keeps open from its first socket on
//   descriptors()         how many descriptors this process has, once that number rests
//   Unsupported           what these throw for something that this implementation cannot do

const dgram = require('dgram');
const fs = require('fs');
const net = require('net');
const os = require('os');
const path = require('path');

class Unsupported extends Error {}
exports.Unsupported = Unsupported;

class NoSuchHandle extends Error {}
class NoAddress extends Error {}
class AlreadyClosed extends Error {}

const LOOPBACK = { udp4: '127.0.0.1', udp6: '::1' };

const things = new Map();

function get(name) {
  if (!things.has(name)) throw new NoSuchHandle(`there is no handle ${name} here`);
  return things.get(name);
}

function event(emitter, name) {
  return new Promise((resolve, reject) => {
    emitter.once('error', reject);
    emitter.once(name, (value) => {
      emitter.removeListener('error', reject);
      resolve(value);
    });
  });
}

function ignore() {}

// ---------------------------------------------------------------------------------- a line of them

// What came and was not asked for yet, and who asked for what has not come yet.
class Line {
  constructor() {
    this.come = [];
    this.asked = [];
  }

  put(item) {
    if (this.asked.length) this.asked.shift()(item);
    else this.come.push(item);
  }

  take() {
    if (this.come.length) return Promise.resolve(this.come.shift());
    return new Promise((resolve) => this.asked.push(resolve));
  }
}

// --------------------------------------------------------------------------- what is known of one

function server(object, more) {
  const thing = Object.assign({ is: 'server', object, accepted: new Line() }, more);
  object.on('connection', (socket) => {
    socket.on('error', ignore);
    thing.accepted.put(socket);
  });
  object.on('error', ignore);
  return thing;
}

function connection(object, more) {
  const thing = Object.assign({ is: 'connection', object }, more);
  object.on('error', (error) => { thing.error = error; });
  return thing;
}

function datagrams(object, more) {
  const thing = Object.assign({ is: 'datagrams', object, come: new Line() }, more);
  object.on('message', (data, from) => thing.come.put({ data, from }));
  object.on('error', ignore);
  return thing;
}

function bareOf(object) {
  const isState = (symbol) => String(symbol) === 'Symbol(state symbol)';
  const state = Object.getOwnPropertySymbols(object).find(isState);
  // A datagram socket's own _handle is there as well, but warns.
  const handle = state ? object[state].handle : object._handle;
  if (!handle) throw new Unsupported('there is no bare handle in it');
  return handle;
}

function hasPort(object) {
  const address = object.address();
  return Boolean(address) && typeof address.port === 'number';
}

function kindOf(object) {
  if (object instanceof net.Server) return hasPort(object) ? 'tcp-server' : 'unix-server';
  if (object instanceof net.Socket) return hasPort(object) ? 'tcp-connection' : 'unix-connection';
  if (object instanceof dgram.Socket) return object.type;
  const type = object.constructor ? object.constructor.name : typeof object;
  if (type === 'UDP') return 'dgram.Native';
  if (type === 'Pipe') return 'net.Native-connection';
  if (type !== 'TCP') return type;
  return object.getpeername({}) === 0 ? 'net.Native-connection' : 'net.Native-server';
}

exports.adopt = function adopt(name, object) {
  const kind = kindOf(object);
  if (object instanceof net.Server) things.set(name, server(object));
  else if (object instanceof net.Socket) things.set(name, connection(object));
  else if (object instanceof dgram.Socket) things.set(name, datagrams(object));
  else things.set(name, { is: 'bare', kind, object });
  return kind;
};

// A bare handle that came does nothing until somebody puts it to use.
function inUse(name) {
  const thing = get(name);
  if (thing.is !== 'bare') return thing;
  let used;
  if (thing.kind === 'net.Native-server') {
    used = server(net.createServer({ pauseOnConnect: true }).listen(thing.object));
  } else if (thing.kind === 'net.Native-connection') {
    used = connection(new net.Socket({ handle: thing.object, readable: true, writable: true }));
  } else if (thing.kind === 'dgram.Native') {
    used = datagrams(dgram.createSocket('udp4').bind(thing.object));
  } else {
    throw new NoSuchHandle(`${name} is a ${thing.kind}`);
  }
  things.set(name, used);
  return used;
}

exports.sendable = function sendable(name) {
  const thing = get(name);
  return thing.sentBare ? bareOf(thing.object) : thing.object;
};

// -------------------------------------------------------------------------------------- opening

let folder;
let paths = 0;

function unixPath() {
  if (!folder) {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), 'sockets-'));
    process.on('exit', () => {
      for (const each of fs.readdirSync(folder)) fs.unlinkSync(path.join(folder, each));
      fs.rmdirSync(folder);
    });
  }
  paths += 1;
  return path.join(folder, String(paths));
}

async function listening(unix) {
  const object = net.createServer({ pauseOnConnect: true });
  const at = unix ? { path: unixPath() } : { host: '127.0.0.1', port: 0 };
  object.listen(at);
  await event(object, 'listening');
  if (!unix) return server(object, { at: { host: at.host, port: object.address().port } });
  // Closing removes the path, though the server may go on in another process.
  const kept = unixPath();
  fs.linkSync(at.path, kept);
  return server(object, { at: { path: kept } });
}

async function connectedTo(thing) {
  const near = net.connect(thing.at);
  // Data that is read here stays here when the socket goes.
  near.pause();
  const [far] = await Promise.all([thing.accepted.take(), event(near, 'connect')]);
  return [near, far];
}

async function openConnection(unix, more) {
  const between = await listening(unix);
  const [near, far] = await connectedTo(between);
  between.object.close();
  return [connection(near, more), connection(far)];
}

async function openDatagrams(type, more) {
  const pair = [];
  for (let n = 0; n < 2; n += 1) {
    const socket = dgram.createSocket(type);
    pair.push(socket);
    socket.bind(0, LOOPBACK[type]);
    try {
      await event(socket, 'listening');
    } catch (error) {
      for (const each of pair) each.close();
      if (error.code !== 'EADDRNOTAVAIL' && error.code !== 'EAFNOSUPPORT') throw error;
      throw new Unsupported(`no ${type} on this machine: ${error.message}`);
    }
  }
  const [near, far] = pair;
  const [nearTo, farTo] = [far.address(), near.address()];
  return [datagrams(near, Object.assign({ to: nearTo }, more)), datagrams(far, { to: farTo })];
}

async function openAccepted(name) {
  const of = inUse(name);
  const [client, accepted] = await connectedTo({ at: addressOf(name), accepted: of.accepted });
  return [connection(accepted), connection(client)];
}

const openers = {
  'tcp-server': async () => [await listening(false)],
  'unix-server': async () => [await listening(true)],
  'tcp-connection': () => openConnection(false),
  'unix-connection': () => openConnection(true),
  'tcp-accepted': (step) => openAccepted(step.of),
  udp4: () => openDatagrams('udp4'),
  udp6: () => openDatagrams('udp6'),
  'net.Native-server': async () => [Object.assign(await listening(false), { sentBare: true })],
  'net.Native-connection': () => openConnection(false, { sentBare: true }),
  'dgram.Native': () => openDatagrams('udp4', { sentBare: true }),
};

exports.open = async function open(step) {
  if (!Object.prototype.hasOwnProperty.call(openers, step.kind)) {
    throw new Unsupported(`no handle is of kind ${step.kind}`);
  }
  const [near, far] = await openers[step.kind](step);
  if (near.sentBare) bareOf(near.object);
  things.set(step.name, near);
  if (far) things.set(`${step.name}-far`, far);
};

// ---------------------------------------------------------------------------------------- using

function remember(thing) {
  const address = thing.at ? null : thing.object.address();
  if (typeof address === 'string') thing.at = { path: address };
  else if (address) thing.at = { host: address.address, port: address.port };
}

function addressOf(name) {
  const thing = only(name, 'server');
  remember(thing);
  if (!thing.at) throw new NoAddress(`${name} does not tell its address`);
  return thing.at;
}

function only(name, is) {
  const thing = inUse(name);
  if (thing.is !== is) throw new NoSuchHandle(`${name} is none of the ${is} kind`);
  return thing;
}

function readAll(thing) {
  if (thing.error) return Promise.reject(thing.error);
  const socket = thing.object;
  if (socket.destroyed) return Promise.reject(new AlreadyClosed('it is closed'));
  return new Promise((resolve, reject) => {
    const parts = [];
    socket.on('data', (data) => parts.push(data));
    socket.once('end', () => resolve(Buffer.concat(parts).toString()));
    socket.once('error', reject);
    socket.once('close', () => reject(new AlreadyClosed('it was closed before its end')));
    socket.resume();
  });
}

function closed(socket) {
  if (socket.destroyed) return Promise.resolve();
  return new Promise((resolve) => {
    socket.once('close', () => resolve());
    socket.destroy();
  });
}

exports.serve = async function serve(name, reply) {
  const socket = await only(name, 'server').accepted.take();
  await new Promise((resolve, reject) => {
    socket.once('error', reject);
    socket.end(reply, () => resolve());
  });
  await closed(socket);
};

exports.dial = async function dial(name) {
  const socket = net.connect(addressOf(name));
  const text = await readAll(connection(socket));
  await closed(socket);
  return text;
};

exports.write = async function write(name, text) {
  const thing = inUse(name);
  await new Promise((resolve, reject) => {
    const done = (error) => (error ? reject(error) : resolve());
    if (thing.is === 'connection') thing.object.write(text, done);
    else if (!thing.to) throw new NoAddress(`nobody has sent a datagram to ${name} yet`);
    else thing.object.send(text, thing.to.port, thing.to.address, done);
  });
};

exports.read = async function read(name) {
  const thing = inUse(name);
  if (thing.is !== 'datagrams') return readAll(only(name, 'connection'));
  const { data, from } = await thing.come.take();
  thing.to = from;
  return data.toString();
};

exports.close = async function close(name) {
  const thing = get(name);
  if (thing.closed) return;
  thing.closed = true;
  if (thing.is === 'connection') {
    await closed(thing.object);
    return;
  }
  if (thing.is === 'server') {
    remember(thing);
    for (const socket of thing.accepted.come) socket.destroy();
  }
  await new Promise((resolve) => thing.object.close(() => resolve()));
};

exports.connections = function connections(name) {
  const { object } = only(name, 'server');
  return new Promise((resolve, reject) => {
    object.getConnections((error, count) => (error ? reject(error) : resolve(count)));
  });
};

// Node 16's resolver, which the first listen() loads, keeps /dev/urandom open.
exports.warmUp = async function warmUp() {
  const { object } = await listening(false);
  await new Promise((resolve) => object.close(() => resolve()));
};

exports.descriptors = async function descriptors() {
  const where = process.platform === 'linux' ? '/proc/self/fd' : '/dev/fd';
  let before = -1;
  for (let same = 0; same < 10;) {
    const now = fs.readdirSync(where).length;
    same = now === before ? same + 1 : 0;
    before = now;
    await new Promise((resolve) => setImmediate(resolve));
  }
  return before;
};
