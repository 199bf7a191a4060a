import { fork } from 'child_process';
import { fileURLToPath } from 'url';

const python = process.env.PYTHON || 'python3';
const child = fork(fileURLToPath(new URL('worker.py', import.meta.url)), [], { execPath: python });
child.send({ numbers: [1, 2, 3] });
child.on('message', (reply) => {
  console.log(reply); // { sum: 6 }
  child.disconnect();
});
