'use strict';
// A parent of a child that does not read until a line comes on its stdin: sends more than can be on the
// way, looks how much of it was written, and only then lets the child read.
//
//   node backpressure.cjs [--mute] PROGRAM [ARG...]
//
// The messages are {"n": 0, "text": 10,000 characters}, …, 1,000 of them; it disconnects after the last.
// The child says "connected" first, unless it is --mute. Prints, where `full` is the number of the
// message for which send() first returned false, and `written` how many were written before the line:
//   {"node": {"sent": 1000, "full": 34, "written": 21}}

const { connect, report } = require('./peer.cjs');

const sent = 1000;
const mute = process.argv[2] === '--mute';
const child = connect(process.argv.slice(mute ? 3 : 2));
const text = 'x'.repeat(10000);
let full = null;
let callbacks = 0;
let written = null;

function sendAll() {
  for (let n = 0; n < sent; n += 1) {
    const room = child.send({ n, text }, () => {
      callbacks += 1;
      // disconnect() gives up what is not written yet.
      if (callbacks === sent) child.disconnect();
    });
    if (!room && full === null) full = n;
  }
  // Long enough for a child that reads all the same to read everything.
  setTimeout(() => {
    written = callbacks;
    child.stdin.end('read\n');
  }, 300);
}

if (mute) sendAll();
else child.once('message', sendAll);
process.on('exit', () => report({ sent, full, written }));
