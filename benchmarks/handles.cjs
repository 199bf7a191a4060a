'use strict';
// What parent.cjs and child.cjs play in the works on handles: one connection, handed over again and
// again and kept open here, so that the handing over is measured and not the connecting.

const net = require('net');

function withConnection(use) {
  const server = net.createServer({ pauseOnConnect: true });
  server.listen(0, '127.0.0.1', () => {
    const near = net.connect(server.address().port, '127.0.0.1');
    near.pause();
    let accepted = null;
    // Either end may be the first to hear of it.
    const begin = () => {
      if (!accepted || near.connecting) return;
      use(near, () => {
        near.destroy();
        accepted.destroy();
        server.close();
      });
    };
    near.once('connect', begin);
    // This end stays here: Node would count each copy of it as a connection of its server.
    server.once('connection', (socket) => {
      accepted = socket;
      begin();
    });
  });
}

// Hands over `count` times, then calls `done`; the last one may still be on its way.
// Each waits for the callback of the one before, so that Node has it ready when that one is
// acknowledged, and no more: at each acknowledgement Node takes its whole queue out and puts it
// back. A plain loop of sends would measure that, and the more of it the higher `count` is.
exports.giveHandles = function giveHandles(peer, count, message, done) {
  withConnection((socket, close) => {
    let id = 0;
    (function more(error) {
      if (error || id === count) {
        close();
        if (error) throw error;
        done();
        return;
      }
      peer.send(message(id), socket, { keepOpen: true }, more);
      id += 1;
    })();
  });
};

// What the taker does with each.
exports.takeHandle = function takeHandle(message, socket, id) {
  if (!(socket instanceof net.Socket)) {
    throw new Error(`expected a socket with ${JSON.stringify(message)}`);
  }
  socket.destroy();
  if (message.id !== id) {
    throw new Error(`expected message ${id}, got ${JSON.stringify(message)}`);
  }
};
