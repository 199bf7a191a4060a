'use strict';
// A program that was not forked: prints what it knows of a channel, and ends with its stdin.
//
//   node grandchild.cjs
//
// Prints {"node": {"send": "undefined", "connected": "undefined", "variables": []}}: the types of
// process.send and process.connected, and the names of Node's channel variables in its environment.

const { report } = require('./peer.cjs');

report({
  send: typeof process.send,
  connected: typeof process.connected,
  variables: Object.keys(process.env).filter((name) => /^NODE_(CHANNEL|UNIQUE)/.test(name)),
});
process.stdin.resume();
