import { fork } from 'child_process';
import { get } from 'http';
import { createServer } from 'net';
import { fileURLToPath } from 'url';

const python = process.env.PYTHON || 'python3';
const worker = fileURLToPath(new URL(process.argv[2], import.meta.url));
const child = fork(worker, [], { execPath: python });

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const { port } = server.address();
  child.send('serve', server);
  child.once('message', () => {
    // Without this both would accept, and some clients would meet Node.
    server.close();
    get({ host: '127.0.0.1', port, agent: false }, (response) => {
      response.pipe(process.stdout);
      response.on('end', () => child.disconnect());
    });
  });
});
