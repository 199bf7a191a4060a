'use strict';
// Runs another of these programs as a parent whose channel has serialization 'advanced'.
//
//   node advanced-parent.cjs flood.cjs 1000 PROGRAM [ARG...]   as: node flood.cjs 1000 PROGRAM ...

const childProcess = require('child_process');
const path = require('path');

const { spawn } = childProcess;
childProcess.spawn = (command, args, options) => (
  spawn(command, args, { ...options, serialization: 'advanced' })
);

const program = path.join(__dirname, process.argv[2]);
process.argv.splice(1, 2, program);
require(program);
