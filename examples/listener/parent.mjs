import { fork } from 'node:child_process';

const python = process.env.PYTHON ?? 'python3';
const child = fork(new URL('worker.py', import.meta.url), { execPath: python });
child.on('message', (message) => {
  if (message === 'ready') {
    child.send({ hello: 'world' });
  } else {
    console.log(message); // { echo: { hello: 'world' } }
    child.disconnect();
  }
});
