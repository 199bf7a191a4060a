import threading
from socketserver import StreamRequestHandler, ThreadingTCPServer

from nodecompat.sync import connect_parent


class Answer(StreamRequestHandler):
    def handle(self) -> None:
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\nHello from socketserver\n")


with connect_parent() as parent:
    _, listener = parent.recv_with_handle()
    assert listener is not None
    # Others may accept on it too, and be quicker.
    listener.setblocking(False)
    with ThreadingTCPServer(listener.getsockname(), Answer, bind_and_activate=False) as server:
        server.socket.close()
        server.socket = listener
        threading.Thread(target=server.serve_forever).start()
        parent.send("ready")
        for _ in parent:  # until the parent disconnects
            pass
        server.shutdown()
