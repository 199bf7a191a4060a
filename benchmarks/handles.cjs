'use strict';
// What parent.cjs and child.cjs play in the works on handles: one connection, handed over again and
// again and kept open here, so that the handing over is measured and not the connecting.

const net = require('net');

function withConnection(use) {
  const server = net.createServer({ pauseOnConnect: true });
  server.listen(0, '127.0.0.1', () => {
    const near = net.connect(server.address().port, '127.0.0.1');
    near.on('error', () => {});
    // Not `accepted.server`: Node would count each copy as a connection of that server.
    server.once('connection', (accepted) => {
      use(near, () => {
        near.destroy();
        accepted.destroy();
        server.close();
      });
    });
    near.pause();
  });
}

// Hands over `count` times; calls `done` once all are queued. What is sent then comes after them.
exports.giveHandles = function giveHandles(peer, count, message, done) {
  withConnection((socket, close) => {
    for (let id = 0; id < count - 1; id += 1) peer.send(message(id), socket, { keepOpen: true });
    // The callback of the last one comes when the others are acknowledged.
    peer.send(message(count - 1), socket, { keepOpen: true }, close);
    done();
  });
};

// What the taker does with each.
exports.takeHandle = function takeHandle(message, socket) {
  if (!(socket instanceof net.Socket)) {
    throw new Error(`expected a socket with ${JSON.stringify(message)}`);
  }
  socket.destroy();
};
