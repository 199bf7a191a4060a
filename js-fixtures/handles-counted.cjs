'use strict';
// As a parent: counts the connections of a server, two of which its child holds.
//
//   node handles-counted.cjs PROGRAM [ARG...]
//
// PROGRAM takes {"hold": N} with a socket and says {"held": N}; closes it at {"close": N} and says
// {"closed": N}; answers "ping" with "pong". Prints
//   {"node": {"connections": [server.getConnections() after each step], "order": [what happened in
//             the end], "left": how many clients were still connected then}}

const net = require('net');
const { closed, connected, event, listen, talk } = require('./handles-common.cjs');
const { connect, report } = require('./peer.cjs');

function count(server) {
  return new Promise((resolve, reject) => {
    server.getConnections((error, number) => (error ? reject(error) : resolve(number)));
  });
}

async function main() {
  const peer = connect(process.argv.slice(2));
  const channel = talk(peer);
  const server = await listen(
    net.createServer({ pauseOnConnect: true }),
    { host: '127.0.0.1', port: 0 },
  );
  const ask = async (message, handle) => {
    channel.send(message, handle);
    return (await channel.receive()).message;
  };
  const clients = [];
  const sockets = [];
  for (let n = 0; n < 3; n += 1) {
    const accepting = event(server, 'connection');
    clients.push(await connected(server.address().port));
    sockets.push(await accepting);
  }
  let left = clients.length;
  // Of a client that is destroyed already, the event may still be to come.
  const gone = clients.map((client) => new Promise((resolve) => {
    client.on('close', () => {
      left -= 1;
      resolve();
    });
    client.resume();
  }));

  const connections = [await count(server)];
  await ask({ hold: 0 }, sockets[0]);
  await ask({ hold: 1 }, sockets[1]);
  connections.push(await count(server));
  await ask({ close: 0 });
  connections.push(await count(server));
  await closed(sockets[2]);
  connections.push(await count(server));

  const order = [];
  const closing = new Promise((resolve) => {
    server.close(() => {
      order.push('server closed');
      resolve();
    });
  });
  order.push(await ask('ping'));
  order.push('told to close');
  await ask({ close: 1 });
  await closing;
  await Promise.all(gone);
  report({ connections, order, left });
  peer.disconnect();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
