import socket
from pathlib import Path

from nodecompat.sync import fork

with (
    socket.create_server(("127.0.0.1", 0)) as listener,
    fork(Path(__file__).with_name("worker.js")) as child,
    socket.create_connection(listener.getsockname()) as client,
):
    connection, _ = listener.accept()
    child.send({"greet": "a client of Python"}, connection)
    print(client.makefile().read(), end="")  # Hello, a client of Python! This is Node.
    print("closed here:", connection.fileno() == -1)  # True: Node has it now
