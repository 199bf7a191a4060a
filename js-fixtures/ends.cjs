'use strict';
// A child: sends 0, 1 and 2, and then ends as its argument says. Prints nothing.
//
//   fork('ends.cjs', [HOW])
//
// HOW: `exit:CODE` exits when those are out, `disconnect` disconnects and ends, `disconnect:linger`
// disconnects and lives on until its stdin ends, `throw` ends by an uncaught exception, `signal:NAME`
// sends that signal to itself, `large:BYTES` sends a string of that size and kills itself in the
// middle of it.

const [how, detail] = process.argv[2].split(':');

const ways = {
  exit: () => process.exit(Number(detail)),
  disconnect() {
    process.disconnect();
    if (detail === 'linger') process.stdin.resume();
  },
  throw() {
    throw new Error('on purpose');
  },
  signal: () => process.kill(process.pid, detail),
  large() {
    // The kernel takes the beginning at once; the rest would go once this loop turns again.
    process.send('x'.repeat(Number(detail)));
    process.kill(process.pid, 'SIGKILL');
  },
};

process.send(0);
process.send(1);
process.send(2, ways[how]);
