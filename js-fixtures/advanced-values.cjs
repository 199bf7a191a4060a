'use strict';
// A parent on a channel with serialization 'advanced': sends values to a child that knows them.
//
//   node advanced-values.cjs CASES PROGRAM [ARG...]
//
// CASES is a file of JSON: [{"id": …, "js": an expression, "check": an expression that holds for the
// value `v`, "back": whether the value can come back}, …]. PROGRAM answers each message [id, value]
// with [id, null or what is wrong with the value, the value, the same as it makes it itself]; without
// the last two where the value does not come back. Disconnects at the end, and prints
//   {"node": {"sent": N, "answered": N, "wrong": [[id, what], …]}}

const fs = require('fs');
const { compare, evaluate } = require('./advanced-compare.cjs');
const { connect, report } = require('./peer.cjs');

const cases = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const child = connect(process.argv.slice(3));
const wrong = [];
let answered = 0;

child.on('message', ([id, problem, ...values]) => {
  const { id: expected, js, check, back } = cases[answered];
  answered += 1;
  if (id !== expected) wrong.push([id, `answered in the place of ${expected}`]);
  if (problem !== null) wrong.push([id, problem]);
  if (values.length !== (back ? 2 : 0)) wrong.push([id, `${values.length} values came back`]);
  for (const value of values) {
    try {
      compare(js, check, value);
    } catch (error) {
      wrong.push([id, String(error.message)]);
    }
  }
  if (answered === cases.length) child.disconnect();
});
process.on('exit', () => report({ sent: cases.length, answered, wrong }));
for (const { id, js } of cases) child.send([id, evaluate(js)]);
