'use strict';
// A child: writes bytes to the channel that it was started with, past Node's own writing. Lives on
// until the channel closes. Prints nothing.
//
//   fork('raw.cjs', [BASE64...])   one write for each argument

const fs = require('fs');
const { channelFd } = require('./peer.cjs');

process.on('message', () => {});
for (const bytes of process.argv.slice(2)) {
  fs.writeSync(channelFd(process), Buffer.from(bytes, 'base64'));
}
