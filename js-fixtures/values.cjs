'use strict';
// Values that JSON carries without a loss, for echo-check.cjs. Prints nothing by itself.
//
//   assorted()      about three thousand values: scalars, strings and keys of every kind, numbers
//                   of every magnitude, arrays and objects of every shape; the same at each call
//   nested(depth)   arrays and objects by turns, `depth` deep
//   depthOf(value)  how deep such a value is

// mulberry32: small, and the same on every version of V8, which Math.random is not.
function generator(seed) {
  let state = seed;
  return function random() {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

const numbers = [
  0, 1, -1, 7, 0.1, -0.5, 1.5, 1e21, 1e-7, 123456789012345680000, 5e-324, Number.MAX_VALUE,
  Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER, 2 ** 53, -(2 ** 53), 2 ** 63, 2 ** 64, 1e300,
  2 ** 31, 2 ** 32, 2 ** 31 - 1, 4.35, 100.0, 0.30000000000000004,
];

const strings = [
  '', ' ', 'abc', 'null', '\0', '\n', '\r\n', '\t', '"', '\\', '/', '\u007f', '\u0080', '\u00e9',
  'e\u0301', '\u2028\u2029', '\ufeff', '\ufffd', '\uffff', '\u{1f600}', 'x\u{10ffff}y',
  '\ud800', '\udfff', 'a\udc00b', '\ude00\ud83d', '{"a":1}\n', '\\ud800', '日本語', 'שלום',
  '\u0000\u0001\u001f', '-0.0', '1e3', 'NODE_HANDLE',
];

const keys = [
  '', 'a', 'b', '0', '10', '-1', '1.5', '__proto__', 'constructor', 'toString', 'toJSON', 'cmd',
  'length', 'é', '\u{1f600}', '\ud800', '\n', '"', 'a b', 'type', 'msg',
];

// Such messages are Node's own: no listener ever sees them.
function isInternal(value) {
  return value !== null && typeof value.cmd === 'string' && /^NODE_[^]/.test(value.cmd);
}

exports.assorted = function assorted() {
  const random = generator(20120);
  const pick = (list) => list[Math.floor(random() * list.length)];

  function number() {
    const kind = random();
    if (kind < 0.3) return Math.floor(random() * 1000) - 500;
    if (kind < 0.5) return Math.floor((random() - 0.5) * 2 ** 53);
    if (kind < 0.7) return random() * 10 ** Math.floor(random() * 600 - 300);
    return pick(numbers);
  }

  function string() {
    if (random() < 0.5) return pick(strings);
    const units = [];
    const length = Math.floor(random() * 20);
    const top = pick([0x80, 0x800, 0x10000]);
    while (units.length < length) units.push(Math.floor(random() * top));
    return String.fromCharCode(...units);
  }

  function scalar() {
    const kind = random();
    if (kind < 0.4) return number();
    if (kind < 0.8) return string();
    return pick([true, false, null]);
  }

  function value(depth) {
    const kind = random();
    if (depth === 0 || kind < 0.3) return scalar();
    const size = Math.floor(random() * 5);
    if (kind < 0.6) return Array.from({ length: size }, () => value(depth - 1));
    const object = {};
    for (let index = 0; index < size; index += 1) {
      // A key with a backslash makes JSON.parse of Node 24 and 26 take others for it that are
      // written with an escape (nodejs/node#63785).
      const key = random() < 0.7 ? pick(keys) : string().replace(/\\/g, '/');
      // An assignment to __proto__ would set the prototype.
      Object.defineProperty(object, key, {
        value: value(depth - 1), configurable: true, enumerable: true, writable: true,
      });
    }
    return object;
  }

  const values = [true, false, null, [], {}, [[]], [{}], { a: [] }, ...numbers, ...strings];
  values.push([values.slice()], ...keys.map((key) => JSON.parse(`{${JSON.stringify(key)}:1}`)));
  values.push({ cmd: 'NODE_' }, { cmd: 'node_handle' }, { cmd: 1 }, { cmd: null }, { cmd: ['NODE_X'] });
  values.push(Array.from({ length: 5000 }, (_, index) => index), 'ab\u{1f600}'.repeat(50000));
  while (values.length < 3000) values.push(value(5));
  return values.filter((each) => !isInternal(each));
};

exports.nested = function nested(depth) {
  let value = depth % 2 ? [] : { end: true };
  for (let level = 1; level < depth; level += 1) value = level % 2 ? [value] : { a: value };
  return value;
};

exports.depthOf = function depthOf(value) {
  let depth = 0;
  for (let inner = value; inner !== undefined && typeof inner === 'object'; depth += 1) {
    inner = Array.isArray(inner) ? inner[0] : inner.a;
  }
  return depth;
};
