"""The part of ``nodecompat demo`` in which a server and a connection travel, each way."""

from __future__ import annotations

import socket
from typing import Any, Final

from nodecompat import sync as sync_ipc
from nodecompat.cli.programs import HANDLES_JS
from nodecompat.cli.stage import Failed, Stage, expect, forked

__all__ = ["hand_over_each_way"]

_LOCAL: Final = ("127.0.0.1", 0)


def hand_over_each_way(stage: Stage) -> None:
    """A Python parent and a Node child hand each other a server and a connection."""
    with forked(stage, HANDLES_JS) as child:
        _server_to_node(stage, child)
        _server_to_python(stage, child)
        _connection_to_node(stage, child)
        _connection_to_python(stage, child)


def _server_to_node(stage: Stage, child: sync_ipc.Child) -> None:
    with socket.create_server(_LOCAL) as server:
        port = _port(server)
        _send(stage, child, {"do": "serve"}, server, "a server")
    # Closed here: from now on Node alone accepts.
    _receive(stage, child)
    with socket.create_connection(("127.0.0.1", port)) as client:
        _read_greeting(
            stage, client, "Node", f"a client of port {port}, which Python opened, reads"
        )


def _server_to_python(stage: Stage, child: sync_ipc.Child) -> None:
    _send(stage, child, {"do": "open"})
    with _receive_handle(stage, child, "a server") as server:
        port = _port(server)
        # Closed there by now: Python alone accepts.
        _receive(stage, child)
        with socket.create_connection(("127.0.0.1", port)) as client:
            _greet(server.accept()[0])
            where = f"a client of port {port}, which Node opened, reads"
            _read_greeting(stage, client, "Python", where)


def _connection_to_node(stage: Stage, child: sync_ipc.Child) -> None:
    with (
        socket.create_server(_LOCAL) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        _send(stage, child, {"do": "greet"}, server.accept()[0], "a connection")
        _read_greeting(stage, client, "Node", "the client that Python accepted reads")


def _connection_to_python(stage: Stage, child: sync_ipc.Child) -> None:
    with socket.create_server(_LOCAL) as server:
        server.settimeout(stage.limit)
        _send(stage, child, {"do": "connect", "port": _port(server)})
        accepted, _ = server.accept()
        with accepted:
            _greet(_receive_handle(stage, child, "a connection"))
            _read_greeting(stage, accepted, "Python", "the server that Node had connected to reads")


def _send(
    stage: Stage,
    child: sync_ipc.Child,
    message: dict[str, Any],
    handle: socket.socket | None = None,
    what: str = "",
) -> None:
    child.send(message, handle)
    stage.screen.sent("Python", "Node", message)
    if handle is not None:
        stage.screen.note(f"with {what}, which Node has taken")


def _receive(stage: Stage, child: sync_ipc.Child) -> Any:
    message = child.recv()
    stage.screen.received("Python", "Node", message)
    return message


def _receive_handle(stage: Stage, child: sync_ipc.Child, what: str) -> socket.socket:
    message, handle = child.recv_with_handle()
    stage.screen.received("Python", "Node", message)
    if handle is None:
        raise Failed(f"expected {what}, and no handle came with the message")
    stage.screen.note(f"with {what}")
    return handle


def _port(server: socket.socket) -> int:
    port: int = server.getsockname()[1]
    return port


def _greet(connection: socket.socket) -> None:
    with connection:
        connection.sendall(b"Hello from Python\n")


def _read_greeting(stage: Stage, client: socket.socket, who: str, where: str) -> None:
    """Show what a client reads, up to the end; it must be the greeting of ``who``."""
    with client.makefile("rb") as file:
        text = file.read().decode().strip()
    stage.screen.note(f"{where}: {text}")
    expect("the greeting", " ".join(text.split()[:3]), f"Hello from {who}")
