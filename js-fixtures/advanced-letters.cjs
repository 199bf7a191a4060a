'use strict';
// Either side of a channel with serialization 'advanced': says what the Buffers are made of.
//
//   node advanced-letters.cjs COUNT PROGRAM [ARG...]   as the parent of PROGRAM
//   fork('advanced-letters.cjs', [COUNT])              as a child
//
// Takes COUNT Buffers; disconnects, and prints {"node": [[LENGTH, [each byte that occurs…]], …]}.
// A child sends that list instead, and disconnects after it.

const { connect, isChild, report } = require('./peer.cjs');

const count = Number(process.argv[2]);
const peer = connect(process.argv.slice(3));
const seen = [];
peer.on('message', (data) => {
  seen.push([data.length, [...new Set(data)]]);
  if (seen.length < count) return;
  if (isChild) peer.send(seen, () => peer.disconnect());
  else peer.disconnect();
});
if (!isChild) process.on('exit', () => report(seen));
