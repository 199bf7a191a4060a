'use strict';
// What the other handles-*.cjs programs share. Prints nothing by itself.
//
//   talk(peer)           {send, receive}: `await send(message, handle, options)` once it is written,
//                        `await receive()` is {message, handle}, and null when no more will come
//   event(emitter, name) the first argument of the next such event
//   listen(server, at)   the server, once it listens; at: {host, port} or {path}
//   connected(at)        a socket, once it is connected; nothing is read from it
//   readAll(stream)      all the text up to the end of a stream
//   ask(socket)          writes a line on a connected socket; what comes back, up to the end
//   askDatagram(at)      the same with a datagram to {address, port, family}
//   closed(thing)        closes a server or a socket that is open, and waits for that
//   descriptors()        how many descriptors this process has, once that number rests
//   unixPath()           a path for a Unix-domain socket, which goes with the process

const dgram = require('dgram');
const fs = require('fs');
const net = require('net');
const os = require('os');
const path = require('path');

exports.talk = function talk(peer) {
  const arrived = [];
  const waiting = [];
  let over = false;
  peer.on('message', (message, handle) => {
    if (waiting.length) waiting.shift()({ message, handle });
    else arrived.push({ message, handle });
  });
  peer.on('disconnect', () => {
    over = true;
    for (const resolve of waiting.splice(0)) resolve(null);
  });
  return {
    send: (message, handle, options) => new Promise((resolve, reject) => {
      peer.send(message, handle, options, (error) => (error ? reject(error) : resolve()));
    }),
    receive() {
      if (arrived.length) return Promise.resolve(arrived.shift());
      if (over) return Promise.resolve(null);
      return new Promise((resolve) => waiting.push(resolve));
    },
  };
};

function event(emitter, name) {
  return new Promise((resolve, reject) => {
    emitter.once(name, (value) => {
      emitter.removeListener('error', reject);
      resolve(value);
    });
    if (name !== 'error') emitter.once('error', reject);
  });
}
exports.event = event;

exports.listen = async function listen(server, at) {
  server.listen(at);
  await event(server, 'listening');
  return server;
};

exports.connected = async function connected(at) {
  const socket = net.connect(at);
  // Data that Node has read stays here when the socket goes.
  socket.pause();
  await event(socket, 'connect');
  return socket;
};

async function readAll(stream) {
  let text = '';
  stream.setEncoding('utf8');
  stream.on('data', (data) => { text += data; });
  stream.resume();
  await event(stream, 'end');
  return text;
}
exports.readAll = readAll;

exports.ask = async function ask(socket) {
  socket.write('ping\n');
  const text = await readAll(socket);
  socket.destroy();
  return text;
};

exports.askDatagram = async function askDatagram({ address, port, family }) {
  // A number in some versions of 18, else a string.
  const socket = dgram.createSocket(`udp${String(family).slice(-1)}`);
  socket.send('ping\n', port, address);
  const answer = await event(socket, 'message');
  socket.close();
  return answer.toString();
};

exports.closed = async function closed(thing) {
  const done = event(thing, 'close');
  if (thing.destroy) thing.destroy();
  else thing.close();
  await done;
};

exports.descriptors = async function descriptors() {
  let before = -1;
  for (let same = 0; same < 10;) {
    const now = fs.readdirSync('/proc/self/fd').length;
    same = now === before ? same + 1 : 0;
    before = now;
    await new Promise(setImmediate);
  }
  return before;
};

exports.unixPath = function unixPath() {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'handles-'));
  process.on('exit', () => fs.rmSync(folder, { recursive: true }));
  return path.join(folder, 'socket');
};
