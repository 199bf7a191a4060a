'use strict';
// A child: sends every message back, until the parent disconnects. Prints nothing.
//
//   fork('echo.cjs')

process.on('message', (message) => {
  process.send(message);
});
