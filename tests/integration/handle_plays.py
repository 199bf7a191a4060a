"""What Python does with handles in the tests, on whichever side and in whichever way in.

Each play is a coroutine on a ``Talker``, so that it is written once: the Python children run it,
and the tests do so themselves as parents. The plays go with the Node programs
``js-fixtures/handles-*.cjs``, which say how. Little is imported: children are to start fast.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import resource
import socket
import sys
import tempfile
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Any, Final, Protocol, TypeVar

from nodecompat import ChannelClosed

T = TypeVar("T")

# ------------------------------------------------------------------------------------------ talkers


class Talker(Protocol):
    """A channel, as the plays use it."""

    async def send(
        self,
        message: Any,
        handle: socket.socket | None = None,
        *,
        keep_open: bool = False,
        handle_type: str | None = None,
    ) -> None: ...

    async def post(self, message: Any, handle: socket.socket | None = None) -> None:
        """Send without waiting for what becomes of it, where the way in can."""
        ...

    async def posted(self) -> None:
        """Wait for all that was posted; raises what went wrong."""
        ...

    async def recv_with_handle(self) -> tuple[Any, socket.socket | None]: ...

    async def at_once(self, *parts: Coroutine[Any, Any, Any]) -> None:
        """Run coroutines side by side."""
        ...

    async def read(self, sock: socket.socket) -> str:
        """All the text up to the end of a connection, without keeping the others from working."""
        ...

    async def results(self, futures: list[Future[T]]) -> list[T]:
        """What other threads return, without keeping the others from working."""
        ...

    async def disconnect(self) -> None: ...

    async def hold(self, sock: socket.socket) -> Callable[[], object]:
        """Make of a connection what one reads and writes with; what closes it."""
        ...

    def http_server(self, sock: socket.socket) -> AbstractAsyncContextManager[list[str]]:
        """Answer each HTTP request on a listening socket with ``python``; the paths that came."""
        ...


class Blocking:
    """A channel of ``nodecompat.sync``, as a talker whose coroutines never wait."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    async def send(self, *arguments: Any, **options: Any) -> None:
        self._channel.send(*arguments, **options)

    async def post(self, message: Any, handle: socket.socket | None = None) -> None:
        self._channel.send(message, handle)

    async def posted(self) -> None:
        pass

    async def recv_with_handle(self) -> tuple[Any, socket.socket | None]:
        received: tuple[Any, socket.socket | None] = self._channel.recv_with_handle()
        return received

    async def disconnect(self) -> None:
        self._channel.disconnect()

    async def at_once(self, *parts: Coroutine[Any, Any, Any]) -> None:
        with ThreadPoolExecutor() as threads:
            for done in [threads.submit(finish, part) for part in parts]:
                done.result()

    async def read(self, sock: socket.socket) -> str:
        return read_all(sock)

    async def results(self, futures: list[Future[T]]) -> list[T]:
        return [future.result() for future in futures]

    async def hold(self, sock: socket.socket) -> Callable[[], object]:
        file = sock.makefile("rwb")
        # Not the end of the connection: the file goes on using it.
        sock.close()
        return file.close

    @contextlib.asynccontextmanager
    async def http_server(self, sock: socket.socket) -> AsyncIterator[list[str]]:
        # Another process may have taken the connection that made the socket readable.
        sock.setblocking(False)
        with _HTTPServer(sock) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield server.paths
            finally:
                server.shutdown()
                thread.join()


class Listening(Blocking):
    """``nodecompat.process`` as a talker: its listener fills a queue."""

    def __init__(self, process: ModuleType) -> None:
        self._process = process
        self._received: queue.SimpleQueue[tuple[Any, socket.socket | None] | None]
        self._received = queue.SimpleQueue()
        self._settled: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._posted = 0
        process.on("message", lambda message, handle: self._received.put((message, handle)))
        process.on("disconnect", lambda: self._received.put(None))

    async def send(self, *arguments: Any, **options: Any) -> None:
        # process.send() returns at once, and tells the callback what became of it.
        settled: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._process.send(*arguments, **options, callback=settled.put)
        if error := settled.get():
            raise error

    async def post(self, message: Any, handle: socket.socket | None = None) -> None:
        self._posted += 1
        self._process.send(message, handle, callback=self._settled.put)

    async def posted(self) -> None:
        while self._posted:
            self._posted -= 1
            if error := self._settled.get():
                raise error

    async def recv_with_handle(self) -> tuple[Any, socket.socket | None]:
        if received := self._received.get():
            return received
        raise ChannelClosed("the parent has disconnected")

    async def disconnect(self) -> None:
        self._process.disconnect()


class Waiting:
    """A channel of ``nodecompat.asyncio`` as a talker."""

    def __init__(self, channel: Any) -> None:
        self.send = channel.send
        self.recv_with_handle = channel.recv_with_handle
        self.disconnect = channel.disconnect
        self._posted: list[asyncio.Task[None]] = []

    async def post(self, message: Any, handle: socket.socket | None = None) -> None:
        self._posted.append(asyncio.create_task(self.send(message, handle)))
        # So that it begins: what is sent next comes after it.
        await asyncio.sleep(0)

    async def posted(self) -> None:
        await asyncio.gather(*self._posted)
        self._posted.clear()

    async def at_once(self, *parts: Coroutine[Any, Any, Any]) -> None:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part)

    async def read(self, sock: socket.socket) -> str:
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        parts: list[bytes] = []
        with sock:
            while data := await loop.sock_recv(sock, 65536):
                parts.append(data)
        return b"".join(parts).decode()

    async def results(self, futures: list[Future[T]]) -> list[T]:
        return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))

    async def hold(self, sock: socket.socket) -> Callable[[], object]:
        _, writer = await asyncio.open_connection(sock=sock)
        return writer.close

    @contextlib.asynccontextmanager
    async def http_server(self, sock: socket.socket) -> AsyncIterator[list[str]]:
        paths: list[str] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            request = await reader.readuntil(b"\r\n\r\n")
            paths.append(request.split()[1].decode())
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\npython")
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(answer, sock=sock):
            yield paths


class _HTTPServer(ThreadingHTTPServer):
    """The standard library's server, on a socket that listens already."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(LOCAL, _HTTPHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = sock
        self.paths: list[str] = []


class _HTTPHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, _HTTPServer)
        self.server.paths.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"python")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""


def finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits; what it returns."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise AssertionError("waited for an event loop")


# ------------------------------------------------------------------------------------------ sockets

LOCAL: Final = ("127.0.0.1", 0)


def read_all(sock: socket.socket) -> str:
    """All the text up to the end of a connection."""
    with sock, sock.makefile("rb") as file:
        return file.read().decode()


def ask(sock: socket.socket) -> str:
    """Write a line on a connection; what comes back, up to the end."""
    sock.sendall(b"ping\n")
    return read_all(sock)


def connection(family: int, address: Any) -> socket.socket:
    """A connected socket."""
    sock = socket.socket(family)
    sock.connect(address)
    return sock


def listener(family: int = socket.AF_INET, address: Any = LOCAL) -> socket.socket:
    """A listening socket."""
    sock = socket.socket(family)
    sock.bind(address)
    sock.listen(128)
    return sock


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """A TCP connection: the end that connected, and the one that was accepted."""
    with listener() as server:
        connecting = connection(socket.AF_INET, server.getsockname())
        return connecting, server.accept()[0]


@contextlib.contextmanager
def unix_path() -> Iterator[str]:
    """A path for a Unix-domain socket."""
    with tempfile.TemporaryDirectory() as folder:
        yield os.path.join(folder, "socket")


# ------------------------------------------------------------------------ kinds (handles-kinds.cjs)

Question = Callable[[], str]
Opened = tuple[socket.socket, dict[str, Any], Question]
"""What travels, the options of ``send``, and how to ask who has it."""


def _server(stack: contextlib.ExitStack, family: int, **options: Any) -> Opened:
    address: Any = LOCAL
    if family == socket.AF_UNIX:
        address = stack.enter_context(unix_path())
    sock = listener(family, address)
    at = sock.getsockname()
    return sock, options, lambda: ask(connection(family, at))


def _end(pair: tuple[socket.socket, socket.socket], **options: Any) -> Opened:
    mine, theirs = pair
    return theirs, options, lambda: ask(mine)


def _kept() -> Opened:
    mine, theirs = tcp_pair()

    def question() -> str:
        theirs.sendall(b"from the giver\n")
        mine.sendall(b"ping\n")
        with mine.makefile("rb") as file:
            text = file.readline() + file.readline()
            # The taker has answered, and closes: the connection is open as long as one side has it.
            theirs.sendall(b"still here\n")
            theirs.close()
            text += file.read()
        mine.close()
        return text.decode()

    return theirs, {"keep_open": True}, question


def _datagrams(family: int, host: str, **options: Any) -> Opened:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    at = sock.getsockname()

    def question() -> str:
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.sendto(b"ping\n", at)
            return asking.recv(65536).decode()

    return sock, options, question


def _bound() -> Opened:
    sock = socket.socket()
    sock.bind(LOCAL)
    at = sock.getsockname()
    options = {"handle_type": "net.BoundSocket"}
    return sock, options, lambda: ask(connection(socket.AF_INET, at))


def _open(kind: str, stack: contextlib.ExitStack) -> Opened:
    native = {"handle_type": "net.Native"}
    match kind:
        case "server-tcp":
            return _server(stack, socket.AF_INET)
        case "server-unix":
            return _server(stack, socket.AF_UNIX)
        case "socket-tcp" | "socket-large":
            return _end(tcp_pair())
        case "socket-unix":
            return _end(socket.socketpair())
        case "socket-kept":
            return _kept()
        case "udp4":
            return _datagrams(socket.AF_INET, "127.0.0.1")
        case "udp6":
            return _datagrams(socket.AF_INET6, "::1")
        case "native-server-tcp":
            return _server(stack, socket.AF_INET, **native)
        case "native-server-unix":
            return _server(stack, socket.AF_UNIX, **native)
        case "native-socket-tcp":
            return _end(tcp_pair(), **native)
        case "native-socket-unix":
            return _end(socket.socketpair(), **native)
        case "native-udp4":
            return _datagrams(socket.AF_INET, "127.0.0.1", handle_type="dgram.Native")
        case "bound":
            return _bound()
        case _:
            raise ValueError(f"no kind {kind!r}")


KINDS: Final = (
    "server-tcp",
    "server-unix",
    "socket-tcp",
    "socket-large",
    "socket-unix",
    "socket-kept",
    "udp4",
    "udp6",
    "native-server-tcp",
    "native-server-unix",
    "native-socket-tcp",
    "native-socket-unix",
    "native-udp4",
)

MOVES: Final = ("socket-tcp", "socket-large", "socket-unix", "bound")
"""The kinds that are closed here once the other side has them."""

LARGE: Final = 4 * 2**20


async def give(talker: Talker, kinds: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """Hand over a handle of each kind; what the taker says that it got, and the answers."""
    given: dict[str, Any] = {}
    for kind in kinds:
        with contextlib.ExitStack() as stack:
            sock, options, question = _open(kind, stack)
            message = (
                {"kind": kind, "text": "x" * LARGE} if kind == "socket-large" else {"kind": kind}
            )
            await talker.send(message, sock, **options)
            assert (sock.fileno() == -1) is (kind in MOVES), f"{kind}: {sock!r}"
            got = (await _said(talker, "ready", kind))["got"]
            if kind != "socket-kept":
                sock.close()
            given[kind] = {"got": got, "answer": question()}
            await _said(talker, "done", kind)
    await talker.send({"kind": None})
    return given


async def _said(talker: Talker, what: str, kind: str) -> dict[str, Any]:
    message, handle = await talker.recv_with_handle()
    assert handle is None
    assert message[what] == kind, message
    answer: dict[str, Any] = message
    return answer


async def take(talker: Talker) -> None:
    """Take handles, and answer one question with each."""
    while True:
        message, sock = await talker.recv_with_handle()
        kind = message["kind"]
        if kind is None:
            return
        if kind == "bound" and sock is not None:
            sock.listen()
        await talker.send({"ready": kind, "got": _described(sock, message)})
        if sock is not None:
            with sock:
                _serve(sock)
            await talker.send({"done": kind})


def _described(sock: socket.socket | None, message: Any) -> dict[str, Any] | None:
    if sock is None:
        return None
    listening = sock.type == socket.SOCK_STREAM and sock.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    )
    timeout = sock.gettimeout()
    got = {
        "family": socket.AddressFamily(sock.family).name,
        "type": socket.SocketKind(sock.type).name,
        "listening": bool(listening),
        "blocks": timeout is None or timeout > 86400,
        "inheritable": sock.get_inheritable(),
        "nonBlocking": not os.get_blocking(sock.fileno()),
    }
    return {**got, "characters": len(message["text"])} if "text" in message else got


def _serve(sock: socket.socket) -> None:
    if sock.type == socket.SOCK_DGRAM:
        data, address = sock.recvfrom(65536)
        sock.sendto(b"python: " + data, address)
    elif sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        accepted, _ = sock.accept()
        with accepted:
            _answer(accepted)
    else:
        _answer(sock)


def _answer(sock: socket.socket) -> None:
    with sock.makefile("rb") as file:
        sock.sendall(b"python: " + file.readline())


async def kinds(talker: Talker, wanted: list[str]) -> None:
    """The part of the child."""
    await take(talker)
    await talker.send(await give(talker, wanted))


# -------------------------------------------------------------------------- many (handles-many.cjs)

WINDOW: Final = 64
"""How many sockets may wait for their answer: a whole queue of them would need too many."""


class _Seen:
    """What one side sees in a round."""

    def __init__(self) -> None:
        self.received = 0
        self.answered = 0
        self.wrong: list[Any] = []

    def check(self, right: bool, *details: Any) -> bool:
        if not right and len(self.wrong) < 10:
            self.wrong.append(details)
        return right


async def _give_all(talker: Talker, count: int, seen: _Seen) -> None:
    waiting: deque[tuple[int, socket.socket]] = deque()

    async def take_answer() -> None:
        number, sock = waiting.popleft()
        text = await talker.read(sock)
        seen.answered += seen.check(text == str(number), number, text)

    with listener() as server:
        for n in range(count):
            if len(waiting) == WINDOW:
                await take_answer()
            mine = connection(socket.AF_INET, server.getsockname())
            theirs, _ = server.accept()
            await talker.post({"n": n}, theirs)
            await talker.post({"between": n})
            waiting.append((n, mine))
    while waiting:
        await take_answer()
    await talker.posted()


async def _take_all(talker: Talker, count: int, seen: _Seen) -> None:
    for n in range(count):
        message, sock = await talker.recv_with_handle()
        if seen.check(message == {"n": n} and sock is not None, n, message) and sock is not None:
            seen.received += 1
            with sock:
                sock.sendall(str(n).encode())
        message, sock = await talker.recv_with_handle()
        seen.check(message == {"between": n} and sock is None, n, message)


async def many(talker: Talker, rounds: list[int]) -> dict[str, Any]:
    """Hand over many sockets while as many come in; what both sides saw, as the Node program."""
    report: dict[str, list[Any]] = {
        "rounds": [],
        "peer": [],
        "descriptors": [],
        "peerDescriptors": [],
    }
    for count in rounds:
        seen = _Seen()
        await talker.at_once(_give_all(talker, count, seen), _take_all(talker, count, seen))
        report["rounds"].append(vars(seen))
        await talker.send({"over": vars(seen)})
        message, _ = await talker.recv_with_handle()
        report["peer"].append(message["over"])
        descriptors = len(os.listdir("/proc/self/fd"))
        report["descriptors"].append(descriptors)
        await talker.send({"counted": descriptors})
        message, _ = await talker.recv_with_handle()
        report["peerDescriptors"].append(message["counted"])
    return report


# -------------------------------------------------------------------------- HTTP (handles-http.cjs)

ENOUGH: Final = 50
AT_ONCE: Final = 10


async def http_opening(talker: Talker) -> dict[str, Any]:
    """Open a server, share it, and ask until both sides have answered."""
    answers = {"node": 0, "python": 0}
    asked = 0
    sock = listener()
    port = sock.getsockname()[1]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        async with talker.http_server(sock) as paths:
            await talker.send({"serve": True}, sock)
            await talker.recv_with_handle()
            while min(answers.values()) < ENOUGH:
                asked += AT_ONCE
                requests = [threads.submit(_request, port) for _ in range(AT_ONCE)]
                for text in await talker.results(requests):
                    answers[text] = answers.get(text, 0) + 1
            await talker.send({"stop": True})
            message, _ = await talker.recv_with_handle()
    return {
        "asked": asked,
        "answers": answers,
        "served": {"node": message["served"], "python": len(paths)},
    }


def _request(port: int) -> str:
    with contextlib.closing(HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("GET", "/", headers={"Connection": "close"})
        response = connection.getresponse()
        return response.read().decode() if response.status == 200 else str(response.status)


async def http_joining(talker: Talker) -> None:
    """Serve on a server that the other side opened, until told to stop."""
    _, sock = await talker.recv_with_handle()
    assert sock is not None
    async with talker.http_server(sock) as paths:
        await talker.send({"serving": True})
        await talker.recv_with_handle()
    await talker.send({"served": len(paths)})


async def http(talker: Talker, opens: bool) -> None:
    """The part of the child."""
    if opens:
        await talker.send(await http_opening(talker))
    else:
        await http_joining(talker)


# -------------------------------------------- counted, hold (handles-counted.cjs, handles-hold.cjs)


async def hold(talker: Talker) -> None:
    """Hold connections until told to close them."""
    await _hold(talker, talker.hold)


async def forget(talker: Talker) -> None:
    """Hold connections, and when told to close them let go of them and no more."""

    async def nothing_but_the_reference(sock: socket.socket) -> Callable[[], object]:
        return lambda: sock

    await _hold(talker, nothing_but_the_reference)


async def _hold(
    talker: Talker, keep: Callable[[socket.socket], Awaitable[Callable[[], object]]]
) -> None:
    held: dict[int, Callable[[], object]] = {}
    with contextlib.suppress(ChannelClosed):
        while True:
            message, sock = await talker.recv_with_handle()
            if message == "ping":
                await talker.send("pong")
            elif "hold" in message:
                assert sock is not None
                held[message["hold"]] = await keep(sock)
                del sock
                await talker.send({"held": message["hold"]})
            else:
                held.pop(message["close"])()
                await talker.send({"closed": message["close"]})


# ------------------------------------------------ burst, take (handles-burst.cjs, handles-take.cjs)


async def take_numbers(talker: Talker) -> dict[str, Any]:
    """Take numbered sockets, and write the number on each, until the last one or the end."""
    taken = 0
    wrong: list[Any] = []
    with contextlib.suppress(ChannelClosed):
        while True:
            message, sock = await talker.recv_with_handle()
            if message == "last":
                break
            if message != {"n": taken} or sock is None:
                wrong.append(message)
                continue
            taken += 1
            with sock:
                sock.sendall(str(message["n"]).encode())
    return {"taken": taken, "wrong": wrong[:10]}


async def burst(talker: Talker) -> None:
    """The part of the child that takes; prints what it saw."""
    _print(await take_numbers(talker))


async def leave(talker: Talker, count: int) -> None:
    """Hand over numbered sockets, disconnect at once, and print how many were answered then."""
    mine: list[socket.socket] = []
    for n in range(count):
        near, far = socket.socketpair()
        mine.append(near)
        await talker.post({"n": n}, far)
    await talker.disconnect()
    await talker.posted()
    answers = [await talker.read(near) for near in mine]
    _print({"answers": answers})


def _print(seen: dict[str, Any]) -> None:
    # In one write: Node may print at the same moment.
    sys.stdout.write(json.dumps({"python": seen}) + "\n")


async def exit_early(talker: Talker, count: int) -> None:
    """Hand over numbered sockets and end without waiting for what becomes of them."""
    for n in range(count):
        mine, theirs = socket.socketpair()
        mine.close()
        await talker.post({"n": n}, theirs)


# ------------------------------------------------------------------- starved (handles-starved.cjs)


async def starved(talker: Talker) -> None:
    """Be without a descriptor for the first handle, and have one for the next."""
    message, _ = await talker.recv_with_handle()
    assert message == "starve"
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The limit counts from 0 on, whatever is open.
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    await talker.send("starved")
    message, sock = await talker.recv_with_handle()
    assert (message, sock) == ("enough", None), (message, sock)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    await talker.send("fed")
    message, sock = await talker.recv_with_handle()
    assert sock is not None
    with sock:
        sock.sendall(str(message["n"]).encode())


PLAYS: Final[dict[str, Callable[..., Coroutine[Any, Any, Any]]]] = {
    "burst": burst,
    "exit": exit_early,
    "forget": forget,
    "hold": hold,
    "http": http,
    "kinds": kinds,
    "leave": leave,
    "many": many,
    "starved": starved,
}
"""What a Python child can play."""
