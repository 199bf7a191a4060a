"""The raw peer: it plays either side of a channel in exact bytes and descriptors.

    python -I -S raw.py PLAN

conformance/README.md says what a plan is, and what its steps do. A plan of this peer may also have
`"wire": PATH`, a file for what it writes and reads: see conformance/wire.py, WireLog.
"""

from __future__ import annotations

import errno
import json
import math
import os
import select
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn

if not __package__:
    # A script of `python -I` does not have the checkout among its paths.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from conformance.wire import (
    LIMIT,
    ChildWatch,
    Receiver,
    WireLog,
    exit_of,
    inherit_nothing,
    ready,
    send,
    start_child,
    take_channel,
    untaken,
)

_FDS_LIMIT: Final = 2.0
"""Seconds that ``check_fds`` waits."""

_LONG: Final = 1000
"""Code units, or bytes: what is longer is reported as a digest."""

# Reading slowly is so many bytes, and then a pause of so many seconds.
_SIP, _PAUSE = 4096, 0.005

_UNSUPPORTED_STATUS: Final = 3
_ERROR_STATUS: Final = 4

_CHANNEL_FD: Final = 3
"""Where a child finds its channel: behind stdin, stdout and stderr."""

# The steps, and what may stand beside each.
_STEPS: Final[dict[str, frozenset[str]]] = {
    "bytes": frozenset({"fds", "one_by_one"}),
    "serve": frozenset({"reply"}),
    "write": frozenset({"text"}),
    **dict.fromkeys(
        (
            "wait", "say", "busy", "exit", "die", "kill", "mark_fds", "check_fds", "end_of_writing",
            "close", "read_slowly", "stop_reading", "go_on_reading", "open", "dial", "read",
        ),
        frozenset(),
    ),
}  # fmt: skip


class PeerError(Exception):
    """The plan cannot be played: it is wrong, or it takes too long."""


class _Ended(Exception):
    """A step has ended the peer, with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


# ------------------------------------------------------------------------------- what plans write


def json_text(value: Any) -> str:
    """What JSON.stringify makes of a value of a case. Raises PeerError."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return _number(value)
        case str():
            return _quoted(value)
        case list():
            return f"[{','.join(_item(each) for each in value)}]"
        case {"$": "number", "is": is_}:
            return _number(float(is_))
        case {"$": "string" | "repeat"}:
            return _quoted(_text_of(value))
        case {"$": "object", "entries": entries}:
            return _object((_text_of(key), item) for key, item in entries)
        case {"$": kind}:
            raise PeerError(f"{{$: {kind}}} is no JSON")
        case dict():
            return _object(value.items())
    raise PeerError(f"no value: {value!r}")


def _object(entries: Any) -> str:
    parts = [
        f"{_quoted(key)}:{json_text(item)}" for key, item in entries if not _is_undefined(item)
    ]
    return f"{{{','.join(parts)}}}"


def _item(value: Any) -> str:
    return "null" if _is_undefined(value) else json_text(value)


def _is_undefined(value: Any) -> bool:
    return isinstance(value, dict) and value.get("$") in ("undefined", "hole")


def _quoted(text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    # Lone surrogates are escapes, of which Python has the same form.
    return quoted.encode("utf-8", "backslashreplace").decode()


def _number(number: float) -> str:
    try:
        value = float(number)
    except OverflowError:
        return "null"
    if not math.isfinite(value):
        return "null"
    if value == 0:
        return "0"
    # ECMA-262, Number::toString: the same digits as Python's, with the point elsewhere.
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = fraction.rstrip("0")
    digits = (whole + fraction).lstrip("0")
    point = len(digits) - len(fraction) + int(exponent or 0)
    digits = digits.rstrip("0")
    sign = "-" if value < 0 else ""
    if len(digits) <= point <= 21:
        return sign + digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    more = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{more}e{point - 1:+d}"


def _text_of(value: Any) -> str:
    """A text of a plan: a string, or how one is written otherwise."""
    match value:
        case str():
            return value
        case {"$": "repeat", "of": of, "times": int(times)}:
            return _text_of(of) * times
        case {"$": "string", "units": [*units]}:
            encoded = b"".join(unit.to_bytes(2, "little") for unit in units)
            return encoded.decode("utf-16-le", "surrogatepass")
    raise PeerError(f"no text: {value!r}")


def data_of(data: Any) -> bytes:
    """The bytes that a ``bytes`` step writes. Raises PeerError."""
    try:
        match data:
            case list():
                return b"".join(data_of(each) for each in data)
            case {"text": text}:
                return _text_of(text).encode()
            case {"hex": str(digits), "repeat": int(times)}:
                return bytes.fromhex(digits) * times
            case {"hex": str(digits)}:
                return bytes.fromhex(digits)
            case {"lines": [*values]}:
                return b"".join(json_text(each).encode() + b"\n" for each in values)
            case {"frames": [*frames]}:
                return b"".join(_framed(bytes.fromhex(each)) for each in frames)
    except (ValueError, TypeError) as error:
        raise PeerError(f"no data: {data!r}: {error}") from error
    raise PeerError(f"no data: {data!r}")


def _framed(frame: bytes) -> bytes:
    return len(frame).to_bytes(4, "big") + frame


# ----------------------------------------------------------------------------- what is observed


def noted(value: Any) -> Any:
    """A value that came, as observations write it."""
    match value:
        case str():
            return _noted_text(value)
        case float() if not math.isfinite(value) or (value == 0 and math.copysign(1, value) < 0):
            names = {math.inf: "Infinity", -math.inf: "-Infinity"}
            return {"$": "number", "is": names.get(value, "-0")}
        case list():
            return [noted(each) for each in value]
        case {"$": _}:
            entries = [[_noted_text(key), noted(item)] for key, item in value.items()]
            return {"$": "object", "entries": entries}
        case dict():
            return {key: noted(item) for key, item in value.items()}
    return value


def _noted_text(text: str) -> Any:
    if len(text) * 2 <= _LONG:
        return text
    length = len(text.encode("utf-16-le", "surrogatepass")) // 2
    if length <= _LONG:
        return text
    return _digest("string", length, text.encode("utf-8", "surrogatepass"))


def _noted_bytes(data: bytes) -> Any:
    return data.hex() if len(data) <= _LONG else _digest("buffer", len(data), data)


def _digest(kind: str, length: int, data: bytes) -> dict[str, Any]:
    from hashlib import sha256

    return {"$": "digest", "of": kind, "length": length, "sha256": sha256(data).hexdigest()}


def _integer(digits: str) -> int | float:
    # JavaScript's numbers: -0 is one of them, and large ones lose digits.
    return int(digits) if len(digits) < 16 and digits != "-0" else float(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _line(data: bytes) -> dict[str, Any]:
    """The observation of a line: ``line`` if it is JSON, else ``text`` or ``hex``."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return {"hex": _noted_bytes(data)}
    try:
        value = json.loads(text, parse_int=_integer, parse_constant=_no_constant)
        return {"line": noted(value)}
    except (ValueError, RecursionError):
        return {"text": _noted_text(text)}


class _Units:
    """Bytes into lines or frames, and whose the descriptors are."""

    def __init__(self, advanced: bool) -> None:
        self._advanced = advanced
        self._buffer = bytearray()
        self._searched = 0
        self._start = 0
        """Where the buffer begins in the stream."""
        self._fds: list[tuple[int, int]] = []
        """At which byte of the stream how many descriptors came."""

    def feed(self, data: bytes, fds: int) -> Iterator[dict[str, Any]]:
        """The observations of the lines or frames that end in these bytes."""
        if fds:
            self._fds.append((self._start + len(self._buffer), fds))
        self._buffer += data
        done = 0
        while (span := self._next(done)) is not None:
            first, last, end = span
            unit = bytes(memoryview(self._buffer)[first:last])
            found = {"frame": _noted_bytes(unit)} if self._advanced else _line(unit)
            yield found | self._fds_before(self._start + done, self._start + end)
            done = end
        if done:
            del self._buffer[:done]
            self._start += done
        self._searched = 0 if self._advanced else len(self._buffer)

    def rest(self) -> dict[str, Any] | None:
        """The observation of what was left unfinished at the end, if something was."""
        if not self._buffer:
            return None
        fds = self._fds_before(self._start, self._start + len(self._buffer))
        return {"unfinished": _noted_bytes(bytes(self._buffer)), **fds}

    def _next(self, done: int) -> tuple[int, int, int] | None:
        """Where the next one begins and ends, and what follows it."""
        if not self._advanced:
            newline = self._buffer.find(b"\n", max(done, self._searched))
            return (done, newline, newline + 1) if newline >= 0 else None
        length = self._buffer[done : done + 4]
        end = done + 4 + int.from_bytes(length, "big")
        return (done + 4, end, end) if len(length) == 4 and end <= len(self._buffer) else None

    def _fds_before(self, start: int, end: int) -> dict[str, int]:
        found = [each for each in self._fds if each[0] < end]
        if not found:
            return {}
        del self._fds[: len(found)]
        seen = {"fds": sum(count for _, count in found)}
        # Node sends them with the first byte: any other is worth a look.
        if any(at != start for at, _ in found):
            seen["fds_at"] = next(at for at, _ in found if at != start) - start
        return seen


# ------------------------------------------------------------------------------------------ things


class _Thing:
    """A descriptor by name: a socket nearly always."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.sock: socket.socket | None = None
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            self.sock = socket.socket(fileno=fd)
            # As Node takes it for granted of what comes to it.
            self.sock.setblocking(False)

    def address(self) -> tuple[socket.AddressFamily, Any] | None:
        """Where to call it, if it is a server."""
        if self.sock is None or self.sock.type != socket.SOCK_STREAM:
            return None
        if not self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return None
        return self.sock.family, self.sock.getsockname()

    def close(self) -> None:
        if self.sock is None:
            os.close(self.fd)
        else:
            self.sock.close()


def _server(family: socket.AddressFamily, address: Any) -> socket.socket:
    sock = socket.socket(family)
    try:
        sock.bind(address)
        sock.listen()
    except BaseException:
        sock.close()
        raise
    return sock


def _connection(to: socket.socket) -> tuple[socket.socket, socket.socket]:
    """A new connection to a server: the end that calls, and the one that the server accepts."""
    calling = socket.socket(to.family)
    try:
        calling.connect(to.getsockname())
        select.select([to], [], [], LIMIT)
        accepted, _ = to.accept()
    except BaseException:
        calling.close()
        raise
    return calling, accepted


def _datagrams(family: socket.AddressFamily, host: str) -> tuple[socket.socket, socket.socket]:
    bound = socket.socket(family, socket.SOCK_DGRAM)
    far = socket.socket(family, socket.SOCK_DGRAM)
    try:
        bound.bind((host, 0))
        far.connect(bound.getsockname())
    except BaseException:
        bound.close()
        far.close()
        raise
    return bound, far


# -------------------------------------------------------------------------------------- the player


class Player:
    """Plays a plan with one channel."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._role, self._other = _roles(plan)
        self._advanced = plan["mode"] == "advanced"
        self._steps = [_Step(each) for each in plan["steps"]]
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._folder = os.path.dirname(os.path.abspath(plan["report"]))
        self._report = os.open(plan["report"], flags, 0o666)
        self._wire = None
        if plan.get("wire") is not None:
            self._wire = WireLog(plan["wire"], advanced=self._advanced)
        self._deadline = time.monotonic() + LIMIT
        self._start: dict[str, Any] = plan.get("start") or {}
        self._watch: ChildWatch | None = None
        self._pid: int | None = None
        self._channel: socket.socket | None = None
        self._things: dict[str, _Thing] = {}
        self._addresses: dict[str, tuple[socket.AddressFamily, Any]] = {}
        self._units = _Units(self._advanced)
        self._lines = 0
        self._received = 0
        self._reading = True
        self._slow = False
        self._next_sip = 0.0
        self._ended = False
        self._exited = False
        self._marked: int | None = None

    def play(self) -> None:
        """Play it to its end. Raises _Ended when a step ends it before."""
        for step in self._steps:
            if not step.known or (step.name == "kill" and self._role == "child"):
                self._observe({"unsupported": step.raw})
                raise _Ended(_UNSUPPORTED_STATUS)
        self._open_channel()
        try:
            for step in self._steps:
                step.play(self)
            self._reading = True
            self._until(lambda: self._over and (self._pid is None or self._exited))
        except (OSError, PeerError):
            # Nobody else would end it.
            if self._pid is not None and not self._exited:
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
            raise

    def _open_channel(self) -> None:
        if self._role == "child":
            self._channel, _ = take_channel()
            inherit_nothing()
        else:
            inherit_nothing()
            self._watch = ChildWatch()
            self._channel, far = socket.socketpair()
            with far:
                command, args, env = _command(self._start)
                env["NODE_CHANNEL_FD"] = str(_CHANNEL_FD)
                env["NODE_CHANNEL_SERIALIZATION_MODE"] = "advanced" if self._advanced else "json"
                self._pid = start_child(command, args, env, far, _CHANNEL_FD)
        self._receiver = Receiver(self._channel)

    # ------------------------------------------------------------------------------- observing

    def _observe(self, observation: Any) -> None:
        line = json.dumps(observation, allow_nan=False).encode() + b"\n"
        if os.write(self._report, line) != len(line):
            raise PeerError("the report could not be written in one piece")

    def threw(self, error: OSError) -> None:
        """Observe what a step raised."""
        self._observe({"threw": errno.errorcode.get(error.errno or 0, type(error).__name__)})

    @property
    def _over(self) -> bool:
        return self._ended or self._channel is None

    def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._pump()

    def _pump(
        self, *, writing: bool = False, fd: int = -1, events: int = 0, timeout: float = LIMIT
    ) -> None:
        """Wait until something happens, and take what has come.

        That is when the channel can be read or, when `writing`, be written; when the child has
        ended; when `fd` is ready for `events`; when `timeout` is over.
        """
        now = time.monotonic()
        if now > self._deadline:
            raise PeerError(f"not over after {LIMIT:g} s")
        timeout = min(timeout, self._deadline - now)
        wanted: dict[int, int] = {}
        if self._channel is not None:
            channel = self._channel.fileno()
            if self._reading and not self._ended:
                if self._slow and now < self._next_sip:
                    timeout = min(timeout, self._next_sip - now)
                else:
                    wanted[channel] = select.POLLIN
            if writing:
                wanted[channel] = wanted.get(channel, 0) | select.POLLOUT
        if self._watch is not None and not self._exited:
            wanted[self._watch.fd] = select.POLLIN
        if fd >= 0:
            wanted[fd] = events
        found = ready(wanted, timeout)
        if self._watch is not None and found.get(self._watch.fd):
            self._look_for_exit()
        elif self._channel is not None:
            read_events = select.POLLIN | select.POLLHUP | select.POLLERR
            can_be_read = wanted.get(channel, 0) & select.POLLIN
            if can_be_read and found.get(channel, 0) & read_events:
                self._take()

    def _take(self) -> bool:
        """Read once; False when nothing was there."""
        try:
            pieces = self._receiver.receive(_SIP if self._slow else 65536)
        except BlockingIOError:
            return False
        if self._slow:
            self._next_sip = time.monotonic() + _PAUSE
        for data, fds in pieces:
            if self._wire is not None:
                self._wire.add(self._other, data, len(fds))
            for fd in fds:
                self._received += 1
                self._add(f"in{self._received}", fd)
            for seen in self._units.feed(data, len(fds)):
                self._lines += 1
                self._observe(seen)
        if not pieces:
            if self._wire is not None:
                self._wire.end(self._other)
            rest = self._units.rest()
            if rest is not None:
                self._observe(rest)
            self._ended = True
            self._observe("end")
        return True

    def _look_for_exit(self) -> None:
        assert self._watch is not None
        assert self._pid is not None
        status = self._watch.look(self._pid)
        if status is None:
            return
        # It wrote these before it ended.
        while self._reading and not self._over and self._take():
            pass
        self._exited = True
        self._observe({"exit": exit_of(status)})

    # --------------------------------------------------------------------------------- writing

    def _write(self, data: bytes, fds: list[int]) -> None:
        left = memoryview(data)
        while left:
            if self._channel is None:
                raise PeerError("writes to a channel that it has closed")
            try:
                count = send(self._channel, left, fds)
            except BlockingIOError:
                self._pump(writing=True)
                continue
            if self._wire is not None:
                self._wire.add(self._role, left[:count], len(fds))
            left = left[count:]
            fds = []

    def _write_step(self, data: Any, fds: list[str], one_by_one: bool) -> None:
        content = data_of(data)
        if fds and not content:
            raise PeerError("descriptors need a byte that they come with")
        numbers = [self._thing(name).fd for name in fds]
        try:
            if not one_by_one:
                self._write(content, numbers)
                return
            for byte in range(len(content)):
                self._until_taken()
                self._write(content[byte : byte + 1], numbers)
                numbers = []
        except OSError as error:
            if error.errno not in _CLOSED:
                raise
            # Which of them it is depends on whether something was left unread.
            self._observe({"threw": "EPIPE"})

    def _until_taken(self) -> None:
        """Wait until the other side has read all: what is written next is a read of its own."""
        while self._channel is not None and not self._ended and untaken(self._channel):
            self._pump(timeout=0)
            time.sleep(0.0002)

    # ------------------------------------------------------------------------------- the steps

    def do_bytes(self, data: Any, *, fds: Any = (), one_by_one: bool = False) -> None:
        self._write_step(data, list(fds), one_by_one)

    def do_wait(self, what: Any) -> None:
        match what:
            case "end":
                self._until_or_stopped(lambda: self._over)
            case "exit":
                if self._pid is None:
                    raise PeerError("a child waits for no exit")
                self._until(lambda: self._exited)
            case {"lines": int(count)}:
                # Those that can come no more: what was observed says so.
                self._until_or_stopped(lambda: self._lines >= count or self._over)

    def _until_or_stopped(self, condition: Callable[[], bool]) -> None:
        if not self._reading and not condition():
            raise PeerError("waits for what it would have to read, after stop_reading")
        self._until(condition)

    def do_say(self, label: Any) -> None:
        self._observe({"said": label})

    def do_busy(self, milliseconds: int) -> None:
        time.sleep(milliseconds / 1000)

    def do_exit(self, status: int) -> None:
        raise _Ended(status)

    def do_die(self, name: str) -> None:
        number = _signal(name)
        # Python ignores SIGPIPE, and makes an exception of SIGINT.
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        raise PeerError(f"{name} did not end this process")

    def do_kill(self, name: str) -> None:
        assert self._pid is not None
        if not self._exited:
            os.kill(self._pid, _signal(name))

    def do_end_of_writing(self) -> None:
        if self._channel is None:
            raise PeerError("the channel is closed")
        self._channel.shutdown(socket.SHUT_WR)
        if self._wire is not None:
            self._wire.end(self._role)

    def do_read_slowly(self) -> None:
        self._reading = self._slow = True

    def do_stop_reading(self) -> None:
        self._reading = False

    def do_go_on_reading(self) -> None:
        self._reading, self._slow = True, False

    def do_mark_fds(self) -> None:
        self._marked = _open_fds()

    def do_check_fds(self) -> None:
        marked = self._marked
        if marked is None:
            raise PeerError("check_fds needs mark_fds before it")
        deadline = time.monotonic() + _FDS_LIMIT
        while (more := _open_fds() - marked) and time.monotonic() < deadline:
            self._pump(timeout=0.02)
        self._observe({"fds": more})

    # ------------------------------------------------------------------------- things to hand over

    def _add(self, name: str, fd: int) -> None:
        if name in self._things:
            raise PeerError(f"{name!r} is there already")
        thing = self._things[name] = _Thing(fd)
        address = thing.address()
        if address is not None:
            self._addresses[name] = address

    def _thing(self, name: str) -> _Thing:
        if name not in self._things:
            raise PeerError(f"there is no {name!r} here")
        return self._things[name]

    def _socket(self, name: str) -> socket.socket:
        sock = self._thing(name).sock
        if sock is None:
            raise OSError(errno.ENOTSOCK, f"{name!r} is no socket")
        return sock

    def do_open(self, what: dict[str, Any]) -> None:
        name, kind = what["name"], what["kind"]
        made = list(self._open(name, kind, what.get("of")))
        for each, sock in zip((name, f"{name}-far"), made, strict=False):
            self._add(each, sock.detach())

    def _open(self, name: str, kind: str, of: str | None) -> tuple[socket.socket, ...]:
        local = (socket.AF_INET, ("127.0.0.1", 0))
        match kind:
            case "tcp-server" | "net.Native-server":
                return (_server(*local),)
            case "unix-server":
                path = os.path.join(self._folder, f"{self._role}-{name}.sock")
                return (_server(socket.AF_UNIX, path),)
            case "tcp-connection" | "net.Native-connection":
                with _server(*local) as server:
                    return _connection(server)
            case "unix-connection":
                return socket.socketpair()
            case "tcp-accepted":
                far, accepted = _connection(self._socket(of or ""))
                return accepted, far
            case "udp4" | "dgram.Native":
                return _datagrams(socket.AF_INET, "127.0.0.1")
            case "udp6":
                return _datagrams(socket.AF_INET6, "::1")
        raise PeerError(f"no kind of thing: {kind!r}")

    def do_serve(self, name: str, *, reply: str = "") -> None:
        server = self._socket(name)
        while True:
            self._pump(fd=server.fileno(), events=select.POLLIN)
            try:
                sock, _ = server.accept()
            except BlockingIOError:
                continue
            break
        with sock:
            sock.setblocking(False)
            self._write_to(sock, reply.encode())
            sock.shutdown(socket.SHUT_WR)
        self._observe({"served": name})

    def do_dial(self, name: str) -> None:
        if name not in self._addresses:
            raise PeerError(f"{name!r} is no server")
        family, address = self._addresses[name]
        with socket.socket(family) as sock:
            sock.connect(address)
            sock.setblocking(False)
            self._observe({"read": {name: self._read_to_end(sock)}})

    def do_write(self, name: str, *, text: str) -> None:
        self._write_to(self._socket(name), text.encode())

    def do_read(self, name: str) -> None:
        sock = self._socket(name)
        if sock.type != socket.SOCK_DGRAM:
            self._observe({"read": {name: self._read_to_end(sock)}})
            return
        while True:
            self._pump(fd=sock.fileno(), events=select.POLLIN)
            try:
                data = sock.recv(65536)
            except BlockingIOError:
                continue
            self._observe({"read": {name: _noted_text(data.decode("utf-8", "replace"))}})
            return

    def do_close(self, name: str | None = None) -> None:
        if name is not None:
            self._thing(name).close()
            del self._things[name]
        elif self._channel is not None:
            self._channel.close()
            self._channel = None
            if self._wire is not None:
                self._wire.end(self._role)

    def _write_to(self, sock: socket.socket, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[sock.send(left) :]
            except BlockingIOError:
                self._pump(fd=sock.fileno(), events=select.POLLOUT)

    def _read_to_end(self, sock: socket.socket) -> Any:
        parts: list[bytes] = []
        while True:
            self._pump(fd=sock.fileno(), events=select.POLLIN)
            try:
                data = sock.recv(65536)
            except BlockingIOError:
                continue
            if not data:
                return _noted_text(b"".join(parts).decode("utf-8", "replace"))
            parts.append(data)


# What a write to a channel raises that the other side has closed.
_CLOSED = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)

# The steps whose errors are those of sockets, and are observed.
_WITH_SOCKETS = frozenset({"open", "serve", "dial", "write", "read", "end_of_writing"})


class _Step:
    """One step of a plan: its name, what it is given, and what stands beside it."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.given: tuple[Any, ...] = ()
        self.options: dict[str, Any] = {}
        if isinstance(raw, str):
            self.name = raw
        elif isinstance(raw, dict) and raw:
            (self.name, argument), *rest = raw.items()
            self.given, self.options = (argument,), dict(rest)
        else:
            raise PeerError(f"no step: {raw!r}")
        self.known = self.name in _STEPS and self.options.keys() <= _STEPS[self.name]
        if self.name == "wait" and not isinstance(raw, str):
            self.known &= argument in ("end", "exit") or (
                isinstance(argument, dict) and argument.keys() == {"lines"}
            )

    def play(self, player: Player) -> None:
        method: Callable[..., None] = getattr(player, f"do_{self.name}")
        try:
            method(*self.given, **self.options)
        except OSError as error:
            if self.name not in _WITH_SOCKETS or error.errno is None:
                raise
            player.threw(error)
        except (TypeError, KeyError, AttributeError) as error:
            raise PeerError(f"no step: {self.raw!r}: {error!r}") from error


def _roles(plan: dict[str, Any]) -> tuple[str, str]:
    role = plan["role"]
    if role not in ("parent", "child"):
        raise PeerError(f"the plan's role is {role!r}, neither parent nor child")
    if plan["mode"] not in ("json", "advanced"):
        raise PeerError(f"the plan's mode is {plan['mode']!r}, neither json nor advanced")
    return role, "child" if role == "parent" else "parent"


def _command(start: dict[str, Any]) -> tuple[str, list[str], dict[str, str]]:
    """The program to start, its arguments and environment."""
    env = {**os.environ, **start.get("env", {})}
    match start.get("how"):
        case "spawn":
            return start["command"], start.get("args", []), env
        case "fork":
            args = [*start.get("exec_argv", []), start["module"], *start.get("args", [])]
            return start["exec_path"], args, env
    raise PeerError(f"start.how is {start.get('how')!r}, neither spawn nor fork")


def _signal(name: str) -> signal.Signals:
    try:
        return signal.Signals[name]
    except KeyError:
        raise PeerError(f"no signal: {name!r}") from None


def _open_fds() -> int:
    # The listing's own is among them, each time.
    return len(os.listdir("/dev/fd"))


def _load(path: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        try:
            plan: dict[str, Any] = json.load(file)
        except ValueError as error:
            raise PeerError(f"{path}: no JSON: {error}") from error
    for key in ("role", "mode", "steps", "report"):
        if key not in plan:
            raise PeerError(f"{path}: the plan has no {key!r}")
    return plan


def main(arguments: list[str]) -> int:
    """Play the plan whose path comes last; the status to end with."""
    if not arguments:
        print("usage: raw.py PLAN", file=sys.stderr)
        return _ERROR_STATUS
    try:
        Player(_load(arguments[-1])).play()
    except _Ended as ended:
        return ended.status
    except (PeerError, OSError, ValueError) as error:
        print(f"raw.py: {arguments[-1]}: {error}", file=sys.stderr)
        return _ERROR_STATUS
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # At once, as the steps say: there is nothing to tidy up that the system does not.
    os._exit(status)
