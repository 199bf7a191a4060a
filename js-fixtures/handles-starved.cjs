'use strict';
// As a parent: hands a socket to a child that has no descriptor left for it, and another one later.
//
//   node handles-starved.cjs PROGRAM [ARG...]
//
// PROGRAM gets "starve" and says "starved" when it has no descriptor left. Then it gets {"n": 0} with
// a socket, which it cannot take, and "enough". It says "fed" when it has descriptors again, and gets
// {"n": 1} with a socket; it writes the number on that one and closes it. Prints
//   {"node": {"answers": [what came on each connection], "warnings": [the names of Node's]}}

const net = require('net');
const { connected, event, listen, readAll, talk } = require('./handles-common.cjs');
const { connect, report } = require('./peer.cjs');

const warnings = [];
process.removeAllListeners('warning');
process.on('warning', ({ name }) => warnings.push(name));

async function main() {
  const listener = await listen(
    net.createServer({ pauseOnConnect: true }),
    { host: '127.0.0.1', port: 0 },
  );
  const peer = connect(process.argv.slice(2));
  const channel = talk(peer);
  const answers = [];
  channel.send('starve');
  for (const n of [0, 1]) {
    const { message } = await channel.receive();
    if (message !== ['starved', 'fed'][n]) throw new Error(`unexpected: ${message}`);
    const accepting = event(listener, 'connection');
    const client = await connected(listener.address().port);
    channel.send({ n }, await accepting);
    if (n === 0) channel.send('enough');
    answers.push(await readAll(client));
    client.destroy();
  }
  listener.close();
  report({ answers, warnings });
  if (peer.connected) peer.disconnect();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
