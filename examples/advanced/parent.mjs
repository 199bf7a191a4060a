import { fork } from 'child_process';
import { fileURLToPath } from 'url';

const python = process.env.PYTHON || 'python3';
const worker = fileURLToPath(new URL('worker.py', import.meta.url));
const child = fork(worker, [], { execPath: python, execArgv: [], serialization: 'advanced' });

child.send({ samples: new Float64Array([0.5, 2, 3.5]), taken: new Date(0) });
child.on('message', ({ mean, doubled, due }) => {
  console.log(mean, doubled instanceof Float64Array, doubled.join(' '), due.toISOString());
  child.disconnect();
});
