'use strict';
// A child that will not end: it ignores SIGTERM, and goes on when the parent has disconnected. Sends
// "ready" once SIGTERM no longer ends it. Prints nothing.
//
//   fork('stubborn.cjs')

process.on('SIGTERM', () => {});
process.on('message', () => {});
setInterval(() => {}, 60000);
process.send('ready');
