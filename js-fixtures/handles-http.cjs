'use strict';
// Either side: serves HTTP on one server together with the other side.
//
//   node handles-http.cjs OPTIONS PROGRAM [ARG...]   as the parent of PROGRAM
//   fork('handles-http.cjs', [OPTIONS])              as a child
//
// OPTIONS is a JSON object: {"opens": true} for the side that opens the server. That one sends
// {"serve": true} with it, and both sides accept from then on. At {"serving": true} it sends requests,
// some at a time, until each side has answered 50 of them, then {"stop": true}. The other side stops
// serving and says {"served": HOW MANY}. Each side answers with its name.
//
// Who asked has {"asked": N, "answers": {"node": N, "python": N}, "served": {the same}}. A child sends
// that as its last message; the parent prints {"node": that}, whichever side asked.

const http = require('http');
const net = require('net');
const { closed, listen, talk } = require('./handles-common.cjs');
const { connect, isChild, report } = require('./peer.cjs');

const ENOUGH = 50;
const AT_ONCE = 10;

let served = 0;
function serve(request, response) {
  served += 1;
  response.end('node');
}

function request(port) {
  return new Promise((resolve, reject) => {
    http.get({ host: '127.0.0.1', port, agent: false }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (data) => { text += data; });
      response.on('end', () => resolve(response.statusCode === 200 ? text : response.statusCode));
    }).on('error', reject);
  });
}

async function open(channel) {
  const server = await listen(http.createServer(serve), { host: '127.0.0.1', port: 0 });
  // A net.Server is what travels; an http.Server is one.
  channel.send({ serve: true }, server);
  await channel.receive();
  const answers = { node: 0, python: 0 };
  let asked = 0;
  while (Object.values(answers).some((count) => count < ENOUGH)) {
    const requests = Array.from({ length: AT_ONCE }, () => request(server.address().port));
    asked += AT_ONCE;
    for (const text of await Promise.all(requests)) answers[text] = (answers[text] || 0) + 1;
  }
  channel.send({ stop: true });
  const { message } = await channel.receive();
  await closed(server);
  return { asked, answers, served: { node: served, python: message.served } };
}

async function join(channel) {
  const { handle } = await channel.receive();
  if (!(handle instanceof net.Server)) throw new Error('no server came');
  const server = http.createServer(serve);
  handle.on('connection', (socket) => server.emit('connection', socket));
  channel.send({ serving: true });
  await channel.receive();
  await closed(handle);
  await channel.send({ served });
}

async function main() {
  const { opens } = JSON.parse(process.argv[2]);
  const peer = connect(process.argv.slice(3));
  const channel = talk(peer);
  const seen = opens ? await open(channel) : await join(channel);
  if (!isChild) {
    report(opens ? seen : (await channel.receive()).message);
    peer.disconnect();
  } else if (opens) {
    await channel.send(seen);
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
