'use strict';
// The Node child of `nodecompat demo` that takes a server and a socket, and hands over one of each.

const net = require('net');

if (!process.send) {
  console.error('handles.cjs has no channel: it is started by `nodecompat demo`');
  process.exit(1);
}

const GREETING = `Hello from Node ${process.version}\n`;

const answers = {
  // Accepts one connection on the server that came, and answers it.
  serve(message, server) {
    server.once('connection', (socket) => {
      socket.end(GREETING);
      server.close();
    });
    process.send({ serving: server.address().port });
  },
  // Answers on the connection that came.
  greet(message, socket) {
    socket.end(GREETING);
  },
  // Opens a server, and leaves it to the parent alone.
  open() {
    const server = net.createServer();
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      process.send({ opened: port }, server, () => {
        server.close(() => process.send({ closedHere: port }));
      });
    });
  },
  // Connects to the parent, and hands it this end as well.
  connect({ port }) {
    const socket = net.connect(port, '127.0.0.1', () => {
      process.send({ connected: port }, socket);
    });
    // What Node has read stays here when the socket goes.
    socket.pause();
  },
};

process.on('message', (message, handle) => {
  answers[message.do](message, handle);
});
