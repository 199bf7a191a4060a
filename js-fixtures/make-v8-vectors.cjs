'use strict';
// Sends the values of the expressions on its standard input (JSON: [[id, expression], ...]) over its
// channel, each in an array, since Node sends no bare bigint. Then prints which of them could be
// sent (JSON: [id, ...]): an older Node has fewer types.

const { readFileSync } = require('fs');

const sent = [];
for (const [id, expression] of JSON.parse(readFileSync(0, 'utf8'))) {
  let value;
  try {
    value = new Function('require', `return [${expression}]`)(require);
    process.send(value);
  } catch {
    continue;
  }
  sent.push(id);
}
process.stdout.write(JSON.stringify(sent));
process.disconnect();
