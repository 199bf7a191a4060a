'use strict';
// A parent: sends values to a child that echoes, compares what comes back, and disconnects.
//
//   node echo-check.cjs assorted PROGRAM [ARG...]      about 3,000 values; see values.cjs
//   node echo-check.cjs large:BYTES PROGRAM [ARG...]   one string of so many bytes
//   node echo-check.cjs deep:DEPTH PROGRAM [ARG...]    one value that is nested so deep
//
// Prints at the end, with at most ten of the differences:
//   {"node": {"sent": 3000, "echoed": 3000, "different": [{"sent": …, "echoed": …}]}}

const { isDeepStrictEqual } = require('util');
const { connect, report } = require('./peer.cjs');
const { assorted, depthOf, nested } = require('./values.cjs');

const [set, ...command] = process.argv.slice(2);
const size = Number(set.split(':')[1]);

const plans = {
  assorted: () => ({ values: assorted(), same: isDeepStrictEqual, show: (value) => value }),
  large: () => ({
    values: ['0123456789abcde\n'.repeat(size / 16)],
    same: (sent, echoed) => sent === echoed,
    show: (value) => `${typeof value} of ${value.length}`,
  }),
  // util compares recursively: too deep for its stack.
  deep: () => ({
    values: [nested(size)],
    same: (sent, echoed) => depthOf(sent) === depthOf(echoed),
    show: (value) => `${depthOf(value)} deep`,
  }),
};
const { values, same, show } = plans[set.split(':')[0]]();

const child = connect(command);
const different = [];
let echoed = 0;
child.on('message', (message) => {
  const sent = values[echoed];
  if (!same(sent, message) && different.length < 10) {
    different.push({ sent: show(sent), echoed: show(message) });
  }
  echoed += 1;
  if (echoed === values.length) child.disconnect();
});
process.on('exit', () => report({ sent: values.length, echoed, different }));
for (const value of values) child.send(value);
