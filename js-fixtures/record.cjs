'use strict';
// Either side: does what its options say, and prints what it saw, in order.
//
//   node record.cjs OPTIONS PROGRAM [ARG...]   as the parent of PROGRAM
//   fork('record.cjs', [OPTIONS])              as a child
//
// OPTIONS is a JSON object; what it does first comes first here:
//   send: [MESSAGE...]    send these
//   raw: [BASE64...]      write these bytes to the channel's descriptor, one write each
//   large: BYTES          send one string of that size
//   die: true             end by SIGKILL, right after the above
//   go: EVENT             write a line to the child's stdin, and end it, at the first such event
//                         ('start', 'message', 'disconnect'); without `go`, at the start
//   disconnectAfter: N    disconnect when that many messages have arrived (0: at the start)
//   exitAfter: N          call process.exit(), likewise
//   killAfter: N          send SIGKILL to the other side, likewise
//   busy: MILLISECONDS    at the first message do nothing for so long, not even read
//   count: true           the messages are 0, 1, 2, … or {"n": 0}, {"n": 1}, …: print only how many
//                         came and the first ten that were out of order
//
// The end of the child's process comes last in what is printed: whether Node is told of it before or
// after the end of the channel depends on who is faster, and it may even be before the last messages.
// Prints {"node": {"events": [["message", M], ["disconnect"], ["exit", CODE, SIGNAL]]}} at the end;
// with `count`, {"node": {"received": 20000, "wrong": [], "events": [["disconnect"], …]}}.

const fs = require('fs');
const { channelFd, connect, isChild, report } = require('./peer.cjs');

const options = JSON.parse(process.argv[2]);
const peer = connect(process.argv.slice(3));
const events = [];
let exit = [];
const wrong = [];
let received = 0;

function goOn(event) {
  if (isChild || event !== (options.go || 'start') || peer.stdin.writableEnded) return;
  peer.stdin.end('go\n');
}

function happened(name, ...details) {
  if (name !== 'message' || !options.count) events.push([name, ...details]);
  goOn(name);
}

function check() {
  if (options.busy && received === 1) {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, options.busy);
  }
  if (received === options.disconnectAfter) peer.disconnect();
  if (received === options.exitAfter) process.exit();
  if (received === options.killAfter) process.kill(isChild ? process.ppid : peer.pid, 'SIGKILL');
}

process.on('exit', () => {
  events.push(...exit);
  report(options.count ? { received, wrong, events } : { events });
});
peer.on('message', (message) => {
  const number = message !== null && typeof message === 'object' ? message.n : message;
  if (options.count && number !== received && wrong.length < 10) wrong.push(number);
  received += 1;
  happened('message', message);
  check();
});
peer.on('disconnect', () => happened('disconnect'));
if (!isChild) {
  peer.on('exit', (code, signal) => {
    exit = [['exit', code, signal]];
  });
  // The child may end without reading its stdin.
  peer.stdin.on('error', () => {});
}

for (const message of options.send || []) peer.send(message);
for (const bytes of options.raw || []) fs.writeSync(channelFd(peer), Buffer.from(bytes, 'base64'));
if (options.large) peer.send('x'.repeat(options.large));
if (options.die) process.kill(process.pid, 'SIGKILL');
goOn('start');
check();
