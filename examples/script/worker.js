for (let step = 1; step <= 3; step++) process.send({ step });
process.disconnect();
