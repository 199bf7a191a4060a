'use strict';
// Either side of a channel with serialization 'advanced': a Buffer goes there and back.
//
//   node advanced-large.cjs BYTES PROGRAM [ARG...]   as the parent of PROGRAM
//   fork('advanced-large.cjs', [BYTES])              as a child
//
// A parent sends {"data": Buffer}, and the child sends the same back, then {"memory": what it took}.
// The parent prints {"node": {"same": whether it is the same, "memory": the child's}}.
// A child prints nothing, and disconnects after it sent the Buffer.

const { connect, isChild, report } = require('./peer.cjs');

const size = Number(process.argv[2]);

function made() {
  const data = Buffer.alloc(size);
  for (let at = 0; at < size; at += 4096) data.writeUInt32LE(at, at);
  return data;
}

const peer = connect(process.argv.slice(3));
let same = null;
peer.on('message', (message) => {
  if (message.data) same = message.data.equals(made());
  if (isChild) {
    peer.send({ data: message.data, same }, () => peer.disconnect());
  } else if (message.memory) {
    report({ same, memory: message.memory });
    peer.disconnect();
  }
});
if (!isChild) peer.send({ data: made() });
