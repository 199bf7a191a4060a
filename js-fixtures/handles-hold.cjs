'use strict';
// A child: holds sockets until it is told to close them.
//
//   fork('handles-hold.cjs')
//
// Takes {"hold": N} with a socket and says {"held": N}; closes it at {"close": N} and says
// {"closed": N}; answers "ping" with "pong"; exits at "exit". Prints nothing.

const net = require('net');
const { closed } = require('./handles-common.cjs');

const sockets = new Map();

process.on('message', async (message, handle) => {
  if (message === 'exit') process.exit();
  if (message === 'ping') {
    process.send('pong');
  } else if ('hold' in message) {
    if (!(handle instanceof net.Socket)) throw new Error(`no socket with ${JSON.stringify(message)}`);
    sockets.set(message.hold, handle);
    process.send({ held: message.hold });
  } else {
    await closed(sockets.get(message.close));
    process.send({ closed: message.close });
  }
});
process.on('disconnect', () => process.exit());
