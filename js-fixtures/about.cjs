'use strict';
// A child: sends one message about itself, and ends when the parent disconnects. Prints
// "on stdout" on stdout and "on stderr" on stderr.
//
//   fork('about.cjs', ARGS)
//
// The message: {"pid", "args", "execArgv", "stackLimit", "preloaded", "cwd", "env", "fd"}.

// How deep calls can go, which `node --stack-size` changes.
function stackLimit() {
  let depth = 0;
  function deeper() {
    depth += 1;
    deeper();
  }
  try {
    deeper();
  } catch (error) {
    // A RangeError, as it has to be.
  }
  return depth;
}

process.stdout.write('on stdout\n');
process.stderr.write('on stderr\n');
process.on('message', () => {});
process.send({
  pid: process.pid,
  args: process.argv.slice(2),
  execArgv: process.execArgv,
  stackLimit: stackLimit(),
  preloaded: global.preloaded || null,
  cwd: process.cwd(),
  env: process.env,
  fd: process.channel.fd,
});
