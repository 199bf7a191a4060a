import { fork } from 'child_process';
import { fileURLToPath } from 'url';

const python = process.env.PYTHON || 'python3';
const child = fork(fileURLToPath(new URL('worker.py', import.meta.url)), [], { execPath: python });
child.on('message', (message) => {
  if (message === 'ready') {
    child.send({ hello: 'world' });
  } else {
    console.log(message); // { echo: { hello: 'world' } }
    child.disconnect();
  }
});
