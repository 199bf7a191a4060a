import { fork } from 'child_process';
import { connect, createServer } from 'net';
import { fileURLToPath } from 'url';

const python = process.env.PYTHON || 'python3';
const child = fork(fileURLToPath(new URL('worker.py', import.meta.url)), [], { execPath: python });

// Paused: what Node has read already would stay here.
const server = createServer({ pauseOnConnect: true }, (socket) => {
  child.send({ greet: 'a client of Node' }, socket);
});
server.listen(0, '127.0.0.1', () => {
  const client = connect(server.address().port, '127.0.0.1');
  client.pipe(process.stdout); // Hello, a client of Node! This is Python.
  client.on('close', () => {
    // Waits for the connections that the child has, too.
    server.close(() => child.disconnect());
  });
});
