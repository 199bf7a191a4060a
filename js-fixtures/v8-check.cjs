'use strict';
// A child with serialization 'advanced' that answers each message [id, ...] with [id, null or what
// is wrong, value]:
//
//   [id, expression, check, value]  is the value deeply equal to that of the expression, and does the
//                                   check, an expression of `v`, hold for it? (the answer has no value)
//   [id, null, null, value]         the value, sent back
//   [id, expression]                the value of the expression
//   anything that is no array       the same, without an id

const { compare, evaluate } = require('./advanced-compare.cjs');

process.on('message', (message) => {
  if (!Array.isArray(message)) {
    process.send([null, null, message]);
    return;
  }
  const [id, expression, check, value] = message;
  if (message.length === 2) {
    process.send([id, null, evaluate(expression)]);
    return;
  }
  if (expression === null) {
    process.send([id, null, value]);
    return;
  }
  let problem = null;
  try {
    compare(expression, check, value);
  } catch (error) {
    problem = String(error.message);
  }
  // Not every value that a Node can read can it send.
  process.send([id, problem, null]);
});
