'use strict';
// The values of the conformance suite, as its README writes them. Prints nothing by itself.
//
//   decode(written, n)  the value that is meant; n is what {$: n} stands for
//   encode(value)       a value as it is written in a report
//   encodeText(text)    the same for a string
//   Unsupported         what decode throws for a value that this implementation has not
//   WrongPlan           what decode throws for one that means nothing

const { createHash } = require('crypto');

// Longer strings and byte sequences are reported by their digests.
const LONGEST = 1000;

class Unsupported extends Error {}
exports.Unsupported = Unsupported;
class WrongPlan extends Error {}
exports.WrongPlan = WrongPlan;

function has(object, key) {
  return Object.prototype.hasOwnProperty.call(object, key);
}

// An assignment to __proto__ would set the prototype.
function put(object, key, value) {
  Object.defineProperty(object, key, {
    value, configurable: true, enumerable: true, writable: true,
  });
}

// ------------------------------------------------------------------------------------ decoding

function global(name) {
  const found = globalThis[name];
  if (typeof found !== 'function') throw new Unsupported(`there is no ${name} here`);
  return found;
}

function bytes(from) {
  const once = Buffer.from(from.hex, 'hex');
  if (once.length * 2 !== from.hex.length) throw new WrongPlan(`not hex: ${from.hex}`);
  const times = from.repeat === undefined ? 1 : from.repeat;
  return once.length ? Buffer.alloc(once.length * times, once) : once;
}

function arrayBuffer(from) {
  const copy = new ArrayBuffer(bytes(from).length);
  Buffer.from(copy).set(bytes(from));
  return copy;
}

// A container is kept before it is filled: what is in it may refer to it.
const makers = {
  undefined: () => undefined,
  number: (from) => Number(from.is),
  bigint: (from) => BigInt(from.is),
  n: (from, { n }) => n,
  ref(from, { known }) {
    if (!known.has(from.id)) throw new WrongPlan(`{$: ref, id: ${from.id}} comes before its def`);
    return known.get(from.id);
  },
  def: (from, { value }) => value(from.of, from.id),

  string(from) {
    let text = '';
    for (let at = 0; at < from.units.length; at += 1000) {
      text += String.fromCharCode(...from.units.slice(at, at + 1000));
    }
    return text;
  },
  repeat: (from, { value }) => value(from.of).repeat(from.times),

  date: (from, { keep }) => keep(new Date(from.ms === null ? NaN : from.ms)),
  regexp: (from, { keep }) => keep(new RegExp(from.source, from.flags)),
  buffer: (from, { keep }) => keep(bytes(from)),
  arraybuffer: (from, { keep }) => keep(arrayBuffer(from)),
  view: (from, { keep }) => keep(new (global(from.type))(arrayBuffer(from))),
  boxed: (from, { keep, value }) => keep(Object(value(from.of))),

  map(from, { keep, value }) {
    const map = keep(new Map());
    for (const [key, item] of from.entries) map.set(value(key), value(item));
    return map;
  },
  set(from, { keep, value }) {
    const set = keep(new Set());
    for (const item of from.items) set.add(value(item));
    return set;
  },
  object(from, { keep, value }) {
    const object = keep({});
    for (const [key, item] of from.entries) put(object, value(key), value(item));
    return object;
  },
  array(from, { keep, value }) {
    const array = keep([]);
    for (const part of [from.items, from.properties]) {
      for (const [key, item] of Object.entries(part || {})) put(array, key, value(item));
    }
    array.length = from.length;
    return array;
  },
  error(from, { keep, value }) {
    const builtIn = /^([A-Z][A-Za-z]*)?Error$/.test(from.name) && has(globalThis, from.name);
    const error = keep(new (builtIn ? global(from.name) : Error)(from.message));
    const hidden = (key, item) => Object.defineProperty(error, key, {
      value: item, configurable: true, enumerable: false, writable: true,
    });
    if (!builtIn) hidden('name', from.name);
    if (has(from, 'cause')) hidden('cause', value(from.cause));
    return error;
  },
};

exports.decode = function decode(written, n) {
  const known = new Map();

  function value(from, id) {
    const keep = (made) => {
      if (id !== undefined) known.set(id, made);
      return made;
    };
    if (from === null || typeof from !== 'object') return keep(from);
    if (Array.isArray(from)) {
      const array = keep([]);
      from.forEach((item, index) => {
        if (!(item && item.$ === 'hole')) array[index] = value(item);
      });
      array.length = from.length;
      return array;
    }
    if (!has(from, '$')) {
      const object = keep({});
      for (const key of Object.keys(from)) put(object, key, value(from[key]));
      return object;
    }
    if (!has(makers, from.$)) throw new WrongPlan(`no value is called {$: ${from.$}}`);
    return makers[from.$](from, { keep, known, n, value });
  }

  return value(written);
};

// ------------------------------------------------------------------------------------ encoding

const LONE = /[\ud800-\udfff]/u;

function digestOfText(text) {
  const hash = createHash('sha256');
  const lone = new RegExp(LONE.source, 'gu');
  let at = 0;
  for (let match = lone.exec(text); match; match = lone.exec(text)) {
    const unit = text.charCodeAt(match.index);
    hash.update(text.slice(at, match.index), 'utf8');
    // In UTF-8 that would be three bytes, but Node writes U+FFFD in its place.
    hash.update(Buffer.from([0xe0 | (unit >> 12), 0x80 | ((unit >> 6) & 63), 0x80 | (unit & 63)]));
    at = match.index + 1;
  }
  hash.update(text.slice(at), 'utf8');
  return { $: 'digest', of: 'string', length: text.length, sha256: hash.digest('hex') };
}

function unitsOf(text) {
  if (!LONE.test(text)) return text;
  return { $: 'string', units: Array.from({ length: text.length }, (_, at) => text.charCodeAt(at)) };
}

function encodeText(text) {
  return text.length > LONGEST ? digestOfText(text) : unitsOf(text);
}
exports.encodeText = encodeText;

function encodeNumber(number) {
  if (Number.isFinite(number) && !Object.is(number, -0)) return number;
  return { $: 'number', is: Object.is(number, -0) ? '-0' : String(number) };
}

function encodeBytes(of, buffer) {
  if (buffer.length <= LONGEST) return Object.assign(of, { hex: buffer.toString('hex') });
  const sha256 = createHash('sha256').update(buffer).digest('hex');
  return { $: 'digest', of: 'buffer', length: buffer.length, sha256 };
}

function isIndex(key) {
  return /^(0|[1-9][0-9]{0,9})$/.test(key) && Number(key) < 2 ** 32 - 1;
}

function encodeArray(array, item) {
  const keys = Object.keys(array);
  const indices = keys.filter(isIndex);
  const holes = array.length - indices.length;
  if (indices.length === keys.length && holes <= LONGEST) {
    return Array.from(array, (each, at) => (has(array, at) ? item(each) : { $: 'hole' }));
  }
  const written = { $: 'array', length: array.length, items: {} };
  for (const key of indices) put(written.items, key, item(array[key]));
  if (indices.length < keys.length) written.properties = {};
  for (const key of keys) if (!isIndex(key)) put(written.properties, key, item(array[key]));
  return written;
}

function encodeObject(object, item) {
  const keys = Object.keys(object);
  if (keys.some((key) => key === '$' || LONE.test(key))) {
    return { $: 'object', entries: keys.map((key) => [unitsOf(key), item(object[key])]) };
  }
  const written = {};
  for (const key of keys) put(written, key, item(object[key]));
  return written;
}

function encodeContent(value, item) {
  if (Array.isArray(value)) return encodeArray(value, item);
  if (Buffer.isBuffer(value)) return encodeBytes({ $: 'buffer' }, value);
  if (ArrayBuffer.isView(value)) {
    const type = Object.prototype.toString.call(value).slice(8, -1);
    const content = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
    return encodeBytes({ $: 'view', type }, content);
  }
  if (value instanceof ArrayBuffer) return encodeBytes({ $: 'arraybuffer' }, Buffer.from(value));
  if (value instanceof Date) return { $: 'date', ms: Number.isNaN(+value) ? null : +value };
  if (value instanceof RegExp) return { $: 'regexp', source: value.source, flags: value.flags };
  if (value instanceof Map) {
    return { $: 'map', entries: Array.from(value, ([key, each]) => [item(key), item(each)]) };
  }
  if (value instanceof Set) return { $: 'set', items: Array.from(value, item) };
  if (value instanceof Error) {
    const written = {
      $: 'error', name: encodeText(String(value.name)), message: encodeText(String(value.message)),
    };
    if (has(value, 'cause')) written.cause = item(value.cause);
    return written;
  }
  if ([Number, String, Boolean, BigInt].some((type) => value instanceof type)) {
    return { $: 'boxed', of: item(value.valueOf()) };
  }
  return encodeObject(value, item);
}

// Once to find what comes more than once (where a reference stands for any answer), and again
// with those known.
function write(value, shared) {
  const met = new Set();
  const ids = new Map();

  function item(each) {
    switch (typeof each) {
      case 'string': return encodeText(each);
      case 'number': return encodeNumber(each);
      case 'bigint': return { $: 'bigint', is: String(each) };
      case 'undefined': return { $: 'undefined' };
      case 'object': break;
      default: return each === true || each === false ? each : { $: typeof each };
    }
    if (each === null) return null;
    if (met.has(each)) {
      shared.add(each);
      return { $: 'ref', id: ids.get(each) };
    }
    met.add(each);
    if (!shared.has(each)) return encodeContent(each, item);
    ids.set(each, ids.size + 1);
    return { $: 'def', id: ids.get(each), of: encodeContent(each, item) };
  }

  return item(value);
}

exports.encode = function encode(value) {
  const shared = new Set();
  const written = write(value, shared);
  return shared.size ? write(value, shared) : written;
};
