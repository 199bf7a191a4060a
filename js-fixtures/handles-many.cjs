'use strict';
// Either side: hands over many sockets while as many come in, with a message after each.
//
//   node handles-many.cjs OPTIONS PROGRAM [ARG...]   as the parent of PROGRAM
//   fork('handles-many.cjs', [OPTIONS])              as a child
//
// OPTIONS is a JSON object: {"rounds": [COUNT...]}. In each round both sides send {"n": 0} with one
// end of a connection, {"between": 0}, {"n": 1} with the next one, and so on, as fast as they can.
// Who gets a socket writes its number on it and closes it; that is the answer, which the other end
// reads. With all of them sent, taken and answered a side says {"over": what it saw}, and with the
// descriptors counted {"counted": HOW MANY}.
//
// What a side saw in a round: {"received": N, "answered": N, "wrong": the first ten that were out of
// order, came without a handle or had a wrong answer}. The parent prints
//   {"node": {"rounds": [own...], "peer": [the child's...], "descriptors": [own after each round...],
//             "peerDescriptors": [the child's...]}}
// A child prints nothing.

const net = require('net');
const { connected, descriptors, event, listen, readAll, talk } = require('./handles-common.cjs');
const { connect, isChild, report } = require('./peer.cjs');

// How many sockets may wait for their answer: the whole queue would need too many descriptors.
const WINDOW = 64;

async function giveAll(channel, listener, count, seen) {
  const { port } = listener.address();
  const answers = [];
  for (let n = 0; n < count; n += 1) {
    if (n >= WINDOW) await answers[n - WINDOW];
    const accepting = event(listener, 'connection');
    const connecting = await connected(port);
    const accepted = await accepting;
    // Node counts the accepted ones that it hands over.
    const [mine, theirs] = n % 2 ? [accepted, connecting] : [connecting, accepted];
    channel.send({ n }, theirs);
    channel.send({ between: n });
    answers.push(answer(mine, n, seen));
  }
  await Promise.all(answers);
}

async function answer(socket, n, seen) {
  const text = await readAll(socket);
  const closing = event(socket, 'close');
  socket.destroy();
  await closing;
  if (text === String(n)) seen.answered += 1;
  else if (seen.wrong.length < 10) seen.wrong.push([n, text]);
}

async function takeAll(channel, count, seen) {
  const closing = [];
  for (let n = 0; n < count; n += 1) {
    const { message, handle } = await channel.receive();
    if (message.n === n && handle instanceof net.Socket) {
      seen.received += 1;
      closing.push(event(handle, 'close'));
      handle.resume();
      handle.end(String(n));
    } else if (seen.wrong.length < 10) {
      seen.wrong.push([n, message]);
    }
    const between = await channel.receive();
    if ((between.message.between !== n || between.handle) && seen.wrong.length < 10) {
      seen.wrong.push([n, between.message]);
    }
  }
  await Promise.all(closing);
}

async function main() {
  const { rounds } = JSON.parse(process.argv[2]);
  const peer = connect(process.argv.slice(3));
  const channel = talk(peer);
  const listener = await listen(
    net.createServer({ pauseOnConnect: true }),
    { host: '127.0.0.1', port: 0 },
  );
  const own = [];
  const counted = [];
  const theirs = [];
  const theirCounted = [];
  for (const count of rounds) {
    const seen = { received: 0, answered: 0, wrong: [] };
    await Promise.all([giveAll(channel, listener, count, seen), takeAll(channel, count, seen)]);
    own.push(seen);
    channel.send({ over: seen });
    theirs.push((await channel.receive()).message.over);
    counted.push(await descriptors());
    channel.send({ counted: counted[counted.length - 1] });
    theirCounted.push((await channel.receive()).message.counted);
  }
  listener.close();
  if (!isChild) {
    report({ rounds: own, peer: theirs, descriptors: counted, peerDescriptors: theirCounted });
    peer.disconnect();
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
