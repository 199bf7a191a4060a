'use strict';
// What the programs that check values share. Prints nothing by itself.
//
//   evaluate(expression)                the value of an expression, which may `require`
//   compare(expression, check, value)   throws unless the value is deeply equal to that of the
//                                       expression, and the check, an expression of `v`, holds for it

const assert = require('assert');

function evaluate(expression) {
  return new Function('require', `return ${expression}`)(require);
}
exports.evaluate = evaluate;

// Older Nodes hold no invalid Date equal to another, and none compares an Error that is its own
// cause: then the check alone has to do.
function canCompare(expression) {
  try {
    assert.deepStrictEqual(evaluate(expression), evaluate(expression));
    return true;
  } catch {
    return false;
  }
}

exports.compare = function compare(expression, check, value) {
  assert(new Function('v', `return ${check}`)(value), `not so: ${check}`);
  if (!canCompare(expression)) {
    assert(check !== 'true', 'neither comparable nor checked');
    return;
  }
  const expected = evaluate(expression);
  assert.deepStrictEqual(value, expected);
  if (expected instanceof Error) {
    assert.strictEqual(value.stack, expected.stack);
    assert.deepStrictEqual(value.cause, expected.cause);
    assert.strictEqual('cause' in value, 'cause' in expected);
  }
};
