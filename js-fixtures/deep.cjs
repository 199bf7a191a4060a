'use strict';
// A child: answers {"depth": N} with a value that is nested N deep, and such a value with
// {"arrived": its depth}. Prints nothing.
//
//   fork('deep.cjs')

const { depthOf, nested } = require('./values.cjs');

process.on('message', (message) => {
  process.send(message.depth ? nested(message.depth) : { arrived: depthOf(message) });
});
