'use strict';
// The Node child of `nodecompat demo` that has an advanced channel: it says what it got, and sends
// values of its own.

const { isDeepStrictEqual } = require('util');

if (!process.send) {
  console.error('advanced.cjs has no channel: it is started by `nodecompat demo`');
  process.exit(1);
}

function values() {
  const shared = { name: 'one object' };
  const circular = { shared, again: shared };
  circular.self = circular;
  return {
    date: new Date(Date.UTC(2026, 0, 2, 3, 4, 5, 678)),
    map: new Map([['one', 1], [2n ** 64n, 'a bigint as the key']]),
    set: new Set(['a', 'b']),
    bytes: Buffer.from([0, 1, 254, 255]),
    numbers: new Float64Array([0.5, -0, Infinity]),
    pattern: /(?<year>\d+)-\d+/gi,
    circular,
  };
}

const answers = {
  describe({ value }) {
    const types = {};
    for (const [name, each] of Object.entries(value)) {
      types[name] = each === undefined ? 'undefined' : each.constructor.name;
    }
    process.send({ types, moment: Number(value.when), circular: value.circular.self === value.circular });
  },
  make() {
    process.send(values());
  },
  // Whether what comes back is what was sent, to the last -0.
  compare({ value }) {
    process.send({ same: isDeepStrictEqual(value, values()) });
  },
};

process.on('message', (message) => {
  answers[message.do](message);
});
