'use strict';
// Either side of a flood: sends numbered messages while as many come in, and checks their order.
//
//   node flood.cjs COUNT PROGRAM [ARG...]   as the parent of PROGRAM
//   fork('flood.cjs', [COUNT])              as a child
//
// The messages are {"n": 0} to {"n": COUNT - 1}. Whoever has them all sends
// {"report": {"received": …, "wrong": […]}}; `wrong` has the first ten numbers that came out of
// order. The parent disconnects once it has the report and all the messages, and prints
//   {"node": {"received": …, "wrong": […], "peer": the other side's report}}
// A child prints nothing.

const { connect, isChild, report } = require('./peer.cjs');

const count = Number(process.argv[2]);
const peer = connect(process.argv.slice(3));
const wrong = [];
let received = 0;
let peerReport = null;

peer.on('message', (message) => {
  if (message.report) {
    peerReport = message.report;
  } else {
    if (message.n !== received && wrong.length < 10) wrong.push(message.n);
    received += 1;
    if (received === count) peer.send({ report: { received, wrong } });
  }
  if (!isChild && peerReport && received === count) peer.disconnect();
});
if (!isChild) process.on('exit', () => report({ received, wrong, peer: peerReport }));

let next = 0;
(function sendSome() {
  // In portions: a loop over all would keep this side from reading meanwhile.
  for (const end = Math.min(next + 200, count); next < end; next += 1) peer.send({ n: next });
  if (next < count) setImmediate(sendSome);
})();
