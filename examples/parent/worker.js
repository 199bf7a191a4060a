process.on('message', ({ text }) => {
  process.send({ slug: text.toLowerCase().replace(/\W+/g, '-') });
});
