'use strict';
// A child: sends back on descriptor 4 what comes there, in capitals, and copies stdin to stdout and,
// turned around, to stderr. Ends with stdin, 4 and the channel.
//
//   spawn(node, ['pipes.cjs'], { stdio: ['pipe', 'pipe', 'pipe', 'ipc', 'pipe'] })

const net = require('net');

const fourth = new net.Socket({ fd: 4 });
fourth.on('data', (data) => fourth.write(data.toString().toUpperCase()));
process.stdin.on('data', (data) => {
  process.stdout.write(data);
  process.stderr.write(data.toString().split('').reverse().join(''));
});
process.on('message', () => {});
