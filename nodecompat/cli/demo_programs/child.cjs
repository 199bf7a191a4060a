'use strict';
// The Node child of `nodecompat demo` and `nodecompat doctor`: answers what it is asked.

if (!process.send) {
  console.error('child.cjs has no channel: it is started by `nodecompat demo`');
  process.exit(1);
}

function isPrime(number) {
  if (number < 2) return false;
  for (let divisor = 2; divisor * divisor <= number; divisor += 1) {
    if (number % divisor === 0) return false;
  }
  return true;
}

const answers = {
  introduce: () => ({ node: process.version, pid: process.pid }),
  echo: ({ value }) => value,
  sort: ({ words, locale }) => words.slice().sort(new Intl.Collator(locale).compare),
  primes({ from, below }) {
    const steps = 3;
    let count = 0;
    for (let step = 0; step < steps; step += 1) {
      const start = from + Math.floor(((below - from) * step) / steps);
      const end = from + Math.floor(((below - from) * (step + 1)) / steps);
      for (let number = start; number < end; number += 1) {
        if (isPrime(number)) count += 1;
      }
      if (step < steps - 1) process.send({ progress: `${step + 1} of ${steps}` });
    }
    return { primes: count };
  },
};

process.on('message', (message) => {
  process.send(answers[message.do](message));
});
