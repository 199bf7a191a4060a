'use strict';
// Either side: takes sockets until the other side disconnects.
//
//   node handles-take.cjs PROGRAM [ARG...]   as the parent of PROGRAM
//   fork('handles-take.cjs')                 as a child
//
// The messages are {"n": 0}, {"n": 1}, … with a socket each. Writes the number on each and closes it.
// Prints {"node": {"taken": N, "wrong": the first ten that were out of order or had no socket}}.

const net = require('net');
const { connect, report } = require('./peer.cjs');

const peer = connect(process.argv.slice(2));
const wrong = [];
let taken = 0;

peer.on('message', (message, handle) => {
  if (message.n === taken && handle instanceof net.Socket) {
    taken += 1;
    // The other side may have left already.
    handle.on('error', () => {});
    handle.resume();
    handle.end(String(message.n));
  } else if (wrong.length < 10) {
    wrong.push(message);
  }
});
process.on('exit', () => report({ taken, wrong }));
