'use strict';
// Times v8.serialize and v8.deserialize for v8_codec.py, a round each time that a line comes in:
//
//   {"expression": "({a: 1})", "seconds": 0.05}  ->  {"encode": 1.2e-6, "decode": 0.9e-6, "size": 12}
//
// The figures are seconds for one call, in the best of the runs that the round had time for.

const readline = require('readline');
const v8 = require('v8');

function best(call, seconds) {
  const end = process.hrtime.bigint() + BigInt(Math.round(seconds * 1e9));
  let calls = 1;
  let least = Infinity;
  for (;;) {
    const start = process.hrtime.bigint();
    for (let i = 0; i < calls; i++) call();
    const now = process.hrtime.bigint();
    const took = Number(now - start);
    // Runs of a millisecond are long for the clock, and short enough to be left in peace.
    if (took < 1e6) calls *= 2;
    else least = Math.min(least, took / calls);
    if (now > end && least < Infinity) return least / 1e9;
  }
}

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const { expression, seconds } = JSON.parse(line);
  const value = new Function(`return ${expression}`)();
  const bytes = v8.serialize(value);
  const encode = best(() => v8.serialize(value), seconds);
  const decode = best(() => v8.deserialize(bytes), seconds);
  console.log(JSON.stringify({ encode, decode, size: bytes.length }));
});
