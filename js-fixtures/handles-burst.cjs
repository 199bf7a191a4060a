'use strict';
// Either side: hands over many connections in one go, bare, as Node's cluster does.
//
//   node handles-burst.cjs OPTIONS PROGRAM [ARG...]   as the parent of PROGRAM
//   fork('handles-burst.cjs', [OPTIONS])              as a child
//
// OPTIONS is a JSON object: {"count": COUNT}, and {"disconnect": true} to disconnect right after. Sends
// {"n": 0}, {"n": 1}, … with a net.Native each, and "last". Who gets them writes the number on each
// and closes it. Has in the end {"answers": [what came on each connection]}. The parent prints
// {"node": that}; a child that is still connected sends that.

const net = require('net');
const { connected, event, listen, readAll, talk } = require('./handles-common.cjs');
const { connect, isChild, report } = require('./peer.cjs');

async function main() {
  const { count, disconnect } = JSON.parse(process.argv[2]);
  const listener = await listen(
    net.createServer({ pauseOnConnect: true }),
    { host: '127.0.0.1', port: 0 },
  );
  const clients = [];
  const accepted = [];
  for (let n = 0; n < count; n += 1) {
    const accepting = event(listener, 'connection');
    clients.push(await connected(listener.address().port));
    accepted.push(await accepting);
  }
  listener.close();

  const peer = connect(process.argv.slice(3));
  const channel = talk(peer);
  accepted.forEach((socket, n) => {
    // A bare handle stays open here: cluster closes it when the worker has said that it has it.
    peer.send({ n }, socket._handle);
  });
  peer.send('last', () => {
    for (const socket of accepted) socket.destroy();
  });
  if (disconnect) peer.disconnect();
  const answers = await Promise.all(clients.map(readAll));
  if (!isChild) {
    report({ answers });
    if (peer.connected) peer.disconnect();
  } else if (!disconnect) {
    await channel.send({ answers });
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
