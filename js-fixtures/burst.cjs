'use strict';
// A child: sends numbered messages as fast as it can, and disconnects. Prints nothing.
//
//   fork('burst.cjs', [COUNT])

const count = Number(process.argv[2]);
for (let number = 0; number < count - 1; number += 1) process.send(number);
// disconnect() gives up what is not written yet.
process.send(count - 1, () => process.disconnect());
