'use strict';
// A child: sends what JavaScript has and JSON has not, one message each, and disconnects. Prints
// nothing.
//
//   fork('specials.cjs')
//
// The messages: [NaN, Infinity, -0], a Buffer, a Date, [undefined, a function], {a: undefined},
// a Map, a Uint8Array, an object with toJSON, a boxed number, 2 ** 53.

const messages = [
  [NaN, Infinity, -0],
  Buffer.from('hé'),
  new Date(Date.UTC(2024, 1, 29, 1, 2, 3, 4)),
  [undefined, () => {}],
  { a: undefined, b: 1 },
  new Map([['a', 1]]),
  new Uint8Array([1, 2]),
  { toJSON: () => ({ made: 'by toJSON' }) },
  Object(7),
  2 ** 53,
];
messages.slice(0, -1).forEach((message) => process.send(message));
process.send(messages[messages.length - 1], () => process.disconnect());
