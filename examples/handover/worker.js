process.on('message', ({ greet }, socket) => {
  socket.end(`Hello, ${greet}! This is Node.\n`);
});
