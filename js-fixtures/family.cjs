'use strict';
// A parent of a child that starts a Node grandchild of its own: looks at the grandchild when the
// child has disconnected, and only then lets both end.
//
//   node family.cjs PROGRAM [ARG...]
//
// PROGRAM sends {"pid": …, "says": what the grandchild printed}, disconnects, and keeps the grandchild
// until its own stdin ends. Prints
//   {"node": {"says": …, "aliveAtDisconnect": true, "exit": [0, null]}}

const { connect, report } = require('./peer.cjs');

const child = connect(process.argv.slice(2));
const seen = {};
let pid = null;
child.on('message', (message) => {
  pid = message.pid;
  seen.says = message.says;
});
child.on('disconnect', () => {
  try {
    seen.aliveAtDisconnect = process.kill(pid, 0);
  } catch (error) {
    seen.aliveAtDisconnect = error.code;
  }
  child.stdin.end();
});
child.on('exit', (...exit) => {
  seen.exit = exit;
});
process.on('exit', () => report(seen));
