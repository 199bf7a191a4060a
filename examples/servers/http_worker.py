import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from nodecompat.sync import connect_parent


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"Hello from http.server\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


with connect_parent() as parent:
    _, listener = parent.recv_with_handle()
    assert listener is not None
    # Others may accept on it too, and be quicker.
    listener.setblocking(False)
    with ThreadingHTTPServer(listener.getsockname(), Answer, bind_and_activate=False) as server:
        server.socket.close()
        server.socket = listener
        threading.Thread(target=server.serve_forever).start()
        parent.send("ready")
        for _ in parent:  # until the parent disconnects
            pass
        server.shutdown()
