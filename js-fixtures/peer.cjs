'use strict';
// What the other programs in this folder share. Prints nothing by itself.
//
//   connect(command)  the other end of the channel. In a program that was forked that is `process`;
//                     else `command` (PROGRAM [ARG...]) is started as a child, with its stdin as a
//                     pipe, its stdout and stderr inherited and a channel at 3
//   channelFd(peer)   the channel's descriptor on this side
//   report(what)      prints one line of JSON: {"node": what}

const { spawn } = require('child_process');

exports.isChild = Boolean(process.send);

exports.connect = function connect(command) {
  if (exports.isChild) return process;
  if (!command.length) {
    console.error('not forked, and no PROGRAM to start');
    process.exit(2);
  }
  return spawn(command[0], command.slice(1), { stdio: ['pipe', 'inherit', 'inherit', 'ipc'] });
};

exports.channelFd = function channelFd(peer) {
  return peer.channel.fd;
};

exports.report = function report(what) {
  process.stdout.write(`${JSON.stringify({ node: what })}\n`);
};
