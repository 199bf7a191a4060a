"""What the peers for nodecompat share: the plan, the report, values, handles, and the steps.

Each step is a coroutine, so that it is written once for all three. In the blocking peers no
coroutine ever waits for an event loop: ``to_the_end`` runs those.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from nodecompat import (
    ArrayBuffer,
    BigInt,
    Boxed,
    ChannelClosed,
    DataView,
    Float16Array,
    HandleNotReceived,
    JSArray,
    JSDate,
    JSError,
    JSKey,
    Map,
    NodeIPCError,
    RegExp,
    SparseArray,
    Uint8ClampedArray,
    undefined,
)

T = TypeVar("T")

LIMIT: Final = 120.0
"""Seconds that anything may take. The runner's limit comes first, unless the runner has gone."""

FDS_LIMIT: Final = 2.0
"""Seconds that ``check_fds`` waits."""

_UNSUPPORTED_STATUS: Final = 3
_ERROR_STATUS: Final = 4


class PeerError(Exception):
    """The plan cannot be played: it is wrong, or what it waits for will never come."""


class Unsupported(Exception):
    """Something in a step that this peer does not know."""


def to_the_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits; returns what it returns."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise AssertionError("waited for an event loop")


def code_of(error: BaseException) -> str:
    """What an error is called in the report: its ``code``, else its class.

    That of an error of the system is the name of its number, as in Node.
    """
    code = getattr(error, "code", None)
    if isinstance(code, str):
        return code
    if isinstance(error, OSError) and not isinstance(error, NodeIPCError) and error.errno:
        return errno.errorcode.get(error.errno, type(error).__name__)
    return type(error).__name__


# ----------------------------------------------------------------------------------------- the plan

_OPTIONS: Final[dict[str, frozenset[str]]] = {
    "send": frozenset({"handle", "keep_open", "times", "callback"}),
    "serve": frozenset({"reply"}),
    "write": frozenset({"text"}),
    **dict.fromkeys(
        (
            "wait", "disconnect", "exit", "end", "die", "kill", "busy", "say", "tell", "count",
            "open", "dial", "read", "close", "connections", "mark_fds", "check_fds",
        ),
        frozenset(),
    ),
}  # fmt: skip
"""The steps, and what may stand beside each."""

_WITH_HANDLES: Final = frozenset({"open", "serve", "dial", "write", "read", "close", "connections"})
"""The steps whose errors are those of sockets."""


@dataclass(frozen=True)
class Step:
    """One step of a plan: its name, what it is given, and what stands beside it."""

    name: str
    argument: Any = None
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    raw: Any = None

    @staticmethod
    def of(raw: Any) -> Step:
        """A step as it is in the plan. Raises Unsupported, and PeerError for what is no step."""
        if isinstance(raw, str):
            step = Step(raw, raw=raw)
        elif isinstance(raw, dict) and raw:
            (name, argument), *rest = raw.items()
            step = Step(name, argument, dict(rest), raw)
        else:
            raise PeerError(f"no step: {raw!r}")
        if step.name not in _OPTIONS or not step.options.keys() <= _OPTIONS[step.name]:
            raise Unsupported(step.name)
        return step


@dataclass(frozen=True)
class Plan:
    """What a peer is to do."""

    role: str
    mode: str
    steps: list[Any]
    report: Path
    start: dict[str, Any]

    @staticmethod
    def load(path: str) -> Plan:
        """The plan in a file. Raises OSError, and PeerError for what is no plan."""
        try:
            raw = json.loads(Path(path).read_bytes())
        except ValueError as error:
            raise PeerError(f"{path}: no JSON: {error}") from error
        try:
            plan = Plan(
                raw["role"], raw["mode"], raw["steps"], Path(raw["report"]), raw.get("start") or {}
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise PeerError(f"{path}: no plan: {error!r}") from error
        for name, value, known in (
            ("role", plan.role, ("parent", "child")),
            ("mode", plan.mode, ("json", "advanced")),
            ("start.how", plan.start.get("how"), ("spawn", "fork")),
        ):
            if value not in known and not (name == "start.how" and plan.role == "child"):
                raise PeerError(f"{path}: {name}: {value!r} is none of {', '.join(known)}")
        return plan

    def how_to_start(self) -> tuple[str, list[Any], dict[str, Any]]:
        """``fork`` or ``spawn``, and the arguments and options for it."""
        start = self.start
        how: str = start["how"]
        options = {
            "serialization": self.mode,
            "env": {**os.environ, **start.get("env", {})},
        }
        if how == "spawn":
            return how, [start["command"], start.get("args", [])], options
        options["exec_path"] = start["exec_path"]
        options["exec_argv"] = start.get("exec_argv", [])
        return how, [start["module"], start.get("args", [])], options


# --------------------------------------------------------------------------------------- the report


class Report:
    """What a peer observes, a line each, and what of it has been observed so far."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o666)
        # A peer with listeners reports on two threads.
        self._lock = threading.Lock()
        self._expected: int | None = None
        self._uncounted = False
        self.messages = 0
        self.disconnected = False
        self.exited = False
        self.sent: set[str] = set()
        self.on_change: Callable[[], object] = lambda: None

    def count(self) -> None:
        """From now on count the messages 0, 1, 2, …"""
        with self._lock:
            self._expected = 0

    def observe(self, observation: Any) -> None:
        """Add an observation."""
        with self._lock:
            self._observe(observation)
        self.on_change()

    def message(self, message: Any, handle: str | None) -> None:
        """A message came, with a handle of that kind or None."""
        with self._lock:
            if self._expected is not None and handle is None and self._is_expected(message):
                self._expected += 1
                self._uncounted = True
            elif handle is None:
                self._observe({"message": describe(message)})
            else:
                self._observe({"message": describe(message), "handle": handle})
            self.messages += 1
        self.on_change()

    def disconnect(self) -> None:
        """The channel has ended; counts once."""
        with self._lock:
            if self.disconnected:
                return
            self._observe("disconnect")
            self.disconnected = True
        self.on_change()

    def exit(self, outcome: int | str | None) -> None:
        """The child has ended, with a status or by a signal of that name."""
        with self._lock:
            self._observe({"exit": outcome})
            self.exited = True
        self.on_change()

    def sent_as(self, label: str, error: BaseException | None) -> None:
        """A callback was called."""
        with self._lock:
            if error is None:
                self._observe({"sent": label})
            else:
                self._observe({"sent": label, "error": code_of(error)})
            self.sent.add(label)
        self.on_change()

    def end(self) -> None:
        """Nothing more will be observed."""
        with self._lock:
            self._say_count()

    def _is_expected(self, message: Any) -> bool:
        if type(message) is dict and message.keys() == {"n"}:
            message = message["n"]
        return type(message) is int and message == self._expected

    def _say_count(self) -> None:
        if self._uncounted:
            self._uncounted = False
            self._write({"counted": self._expected})

    def _observe(self, observation: Any) -> None:
        self._say_count()
        self._write(observation)

    def _write(self, observation: Any) -> None:
        line = json.dumps(observation, allow_nan=False).encode() + b"\n"
        if os.write(self._fd, line) != len(line):
            raise PeerError("the report could not be written in one piece")


# ------------------------------------------------------------------------------------------- values

_SAFE: Final = 2**53 - 1
_LONG: Final = 1000
"""Code units, or bytes: what is longer is reported as a digest."""

_FEW: Final = 1000
"""How long an array with holes is built as a list, which shows both forms of nodecompat's."""

_UTF_16: Final = "utf-16-le" if sys.byteorder == "little" else "utf-16-be"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_FIRST: Final = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND
_LAST: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND

_FORMATS: Final = {
    "Int8Array": "b",
    "Uint8Array": "B",
    "Int16Array": "h",
    "Uint16Array": "H",
    "Int32Array": "i",
    "Uint32Array": "I",
    "BigInt64Array": "q",
    "BigUint64Array": "Q",
    "Float32Array": "f",
    "Float64Array": "d",
}
_NAMES: Final = {format: name for name, format in _FORMATS.items()}
_BYTE_TYPES: Final[dict[str, Callable[[bytes], bytearray]]] = {
    "DataView": DataView,
    "Uint8ClampedArray": Uint8ClampedArray,
    "Float16Array": Float16Array,
}


def build(spec: Any, n: int = 0) -> Any:
    """The Python value for a value of a plan; ``{$: n}`` in it is ``n``. Raises Unsupported."""
    return _Builder(n).build(spec)


class _Builder:
    def __init__(self, n: int) -> None:
        self._n = n
        self._defined: dict[Any, Any] = {}

    def build(self, spec: Any, id: Any = None) -> Any:
        """The value; ``id`` is what refers to it, also from within."""
        if isinstance(spec, dict):
            return self._special(spec, id) if "$" in spec else self._object(spec.items(), id)
        if isinstance(spec, list):
            return self._list(spec, id)
        # A number of JavaScript's, however the plan spells it; Python would make a bigint of it.
        if type(spec) is int and not -_SAFE <= spec <= _SAFE:
            try:
                return float(spec)
            except OverflowError:
                return float("inf") if spec > 0 else float("-inf")
        return spec

    def _define(self, id: Any, value: T) -> T:
        if id is not None:
            self._defined[id] = value
        return value

    def _object(self, entries: Iterable[tuple[Any, Any]], id: Any) -> dict[str, Any]:
        made: dict[str, Any] = self._define(id, {})
        for key, value in entries:
            made[self.build(key)] = self.build(value)
        return made

    def _list(self, spec: list[Any], id: Any) -> list[Any]:
        holes = {
            index
            for index, item in enumerate(spec)
            if isinstance(item, dict) and item.get("$") == "hole"
        }
        made: list[Any] = self._define(id, JSArray(holes=holes) if holes else [])
        for index, item in enumerate(spec):
            made.append(undefined if index in holes else self.build(item))
        return made

    def _special(self, spec: dict[str, Any], id: Any) -> Any:
        match spec["$"]:
            case "undefined":
                return undefined
            case "n":
                return self._n
            case "number":
                return float(spec["is"])
            case "bigint":
                return BigInt(spec["is"])
            case "string":
                units = array("H", spec["units"]).tobytes()
                return units.decode(_UTF_16, "surrogatepass")
            case "repeat":
                return self.build(spec["of"]) * spec["times"]
            case "date":
                return self._define(id, _date(spec["ms"]))
            case "regexp":
                return self._define(id, RegExp(spec["source"], spec.get("flags", "")))
            case "map":
                map: Map[Any, Any] = self._define(id, Map())
                for key, value in spec["entries"]:
                    map[_key(self.build(key))] = self.build(value)
                return map
            case "set":
                # A set of Python's has no order, a Set has: the keys of a dict are one with order.
                items: dict[Any, None] = {}
                view = self._define(id, items.keys())
                for item in spec["items"]:
                    items[_key(self.build(item))] = None
                return view
            case "buffer":
                return self._define(id, _bytes(spec))
            case "arraybuffer":
                return self._define(id, ArrayBuffer(_bytes(spec)))
            case "view":
                return self._define(id, _view(spec["type"], _bytes(spec)))
            case "error":
                made = self._define(id, JSError(spec.get("message"), name=spec["name"]))
                if "cause" in spec:
                    made.cause = self.build(spec["cause"])
                return made
            case "boxed":
                return self._define(id, Boxed(self.build(spec["of"])))
            case "object":
                return self._object(spec["entries"], id)
            case "array":
                return self._array(spec, id)
            case "def":
                return self.build(spec["of"], spec["id"])
            case "ref":
                if spec["id"] not in self._defined:
                    raise PeerError(f"a reference to {spec['id']!r}, which is not defined before")
                return self._defined[spec["id"]]
            case name:
                raise Unsupported(f"the value {name!r}")

    def _array(self, spec: dict[str, Any], id: Any) -> Any:
        length: int = spec["length"]
        items: dict[int, Any] = {int(key): item for key, item in spec.get("items", {}).items()}
        made: JSArray[Any] | SparseArray[Any]
        if length <= _FEW:
            made = JSArray([undefined] * length, holes=set(range(length)) - items.keys())
        else:
            made = SparseArray(length)
        self._define(id, made)
        for index, item in items.items():
            made[index] = self.build(item)
        for key, value in spec.get("properties", {}).items():
            made.properties[key] = self.build(value)
        return made


def _date(ms: float | None) -> datetime | JSDate:
    if ms is None:
        return JSDate(float("nan"))
    return _EPOCH + ms * _MILLISECOND if _FIRST <= ms <= _LAST else JSDate(ms)


def _key(value: Any) -> Any:
    # Python holds more keys for equal than JavaScript does, and cannot have all of them.
    return value if type(value) in (str, int) else JSKey(value)


def _bytes(spec: dict[str, Any]) -> bytes:
    repeat: int = spec.get("repeat", 1)
    return bytes.fromhex(spec["hex"]) * repeat


def _view(name: str, data: bytes) -> Any:
    if name in _BYTE_TYPES:
        return _BYTE_TYPES[name](data)
    if name not in _FORMATS:
        raise Unsupported(f"the view {name!r}")
    # Both ways that Python has for it.
    return memoryview(data) if name == "Uint8Array" else array(_FORMATS[name], data)


def describe(value: Any) -> Any:
    """The observation of a Python value that came. Raises PeerError for a type that none has."""
    return _Describer(value).describe(value)


class _Describer:
    def __init__(self, value: Any) -> None:
        self._shared = _shared(value)
        self._ids: dict[int, int] = {}

    def describe(self, value: Any) -> Any:
        if id(value) not in self._shared:
            return self._plainly(value)
        if id(value) in self._ids:
            return {"$": "ref", "id": self._ids[id(value)]}
        number = self._ids[id(value)] = len(self._ids) + 1
        return {"$": "def", "id": number, "of": self._plainly(value)}

    def _plainly(self, value: Any) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, BigInt):
            return {"$": "bigint", "is": str(value)}
        if isinstance(value, int):
            return value
        if isinstance(value, float):
            return _described_float(value)
        if isinstance(value, str):
            return _described_string(value)
        if value is undefined:
            return {"$": "undefined"}
        if isinstance(value, SparseArray):
            return self._array(value.length, value, value.properties)
        if isinstance(value, JSArray) and value.properties:
            items = {index: item for index, item in enumerate(value) if index not in value.holes}
            return self._array(len(value), items, value.properties)
        if isinstance(value, list):
            holes: set[int] = value.holes if isinstance(value, JSArray) else set()
            return [
                {"$": "hole"} if index in holes else self.describe(item)
                for index, item in enumerate(value)
            ]
        if isinstance(value, Map):
            entries = [
                [self.describe(_unwrapped(key)), self.describe(item)] for key, item in value.items()
            ]
            return {"$": "map", "entries": entries}
        if isinstance(value, dict):
            if any(key == "$" or _has_lone_surrogates(key) for key in value):
                pairs = [[_units(key), self.describe(item)] for key, item in value.items()]
                return {"$": "object", "entries": pairs}
            return {key: self.describe(item) for key, item in value.items()}
        if isinstance(value, set):
            return {"$": "set", "items": [self.describe(item) for item in _in_order(value)]}
        if isinstance(value, JSError):
            described = {"$": "error", "name": value.name, "message": self.describe(value.message)}
            if "cause" in vars(value):
                described["cause"] = self.describe(value.cause)
            return described
        if isinstance(value, Boxed):
            return {"$": "boxed", "of": self.describe(value.value)}
        return _described_leaf(value)

    def _array(self, length: int, items: dict[int, Any], properties: dict[str, Any]) -> Any:
        described: dict[str, Any] = {
            "$": "array",
            "length": length,
            "items": {str(index): self.describe(item) for index, item in items.items()},
        }
        if properties:
            described["properties"] = {k: self.describe(each) for k, each in properties.items()}
        return described


def _described_float(value: float) -> Any:
    if value != value:
        return {"$": "number", "is": "NaN"}
    if value in (float("inf"), float("-inf")):
        return {"$": "number", "is": "Infinity" if value > 0 else "-Infinity"}
    if str(value) == "-0.0":
        return {"$": "number", "is": "-0"}
    return value


def _described_string(value: str) -> Any:
    length = len(value.encode("utf-16-le", "surrogatepass")) // 2
    if length > _LONG:
        return _digest("string", length, value.encode("utf-8", "surrogatepass"))
    return _units(value)


def _units(value: str) -> Any:
    """A string, by its code units where they are no text."""
    if not _has_lone_surrogates(value):
        return value
    units = array("H", value.encode(_UTF_16, "surrogatepass"))
    return {"$": "string", "units": units.tolist()}


def _has_lone_surrogates(value: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in value)


def _described_leaf(value: Any) -> Any:
    if isinstance(value, datetime):
        return {"$": "date", "ms": (value - _EPOCH) // _MILLISECOND}
    if isinstance(value, JSDate):
        return {"$": "date", "ms": int(value.milliseconds) if value.valid else None}
    if isinstance(value, RegExp):
        return {"$": "regexp", "source": value.source, "flags": value.flags}
    if isinstance(value, ArrayBuffer):
        return _described_bytes({"$": "arraybuffer"}, bytes(value))
    if isinstance(value, bytes):
        return _described_bytes({"$": "buffer"}, value)
    if isinstance(value, memoryview):
        return _described_bytes({"$": "view", "type": _NAMES[value.format]}, value.tobytes())
    for name, kind in _BYTE_TYPES.items():
        if type(value) is kind:
            return _described_bytes({"$": "view", "type": name}, bytes(value))
    raise PeerError(f"nothing describes a {type(value).__name__}")


def _described_bytes(described: dict[str, Any], data: bytes) -> Any:
    if len(data) > _LONG:
        return _digest("buffer", len(data), data)
    return {**described, "hex": data.hex()}


def _digest(of: str, length: int, data: bytes) -> Any:
    sha256 = hashlib.sha256(data).hexdigest()
    return {"$": "digest", "of": of, "length": length, "sha256": sha256}


def _unwrapped(key: Any) -> Any:
    return key.value if isinstance(key, JSKey) else key


def _in_order(items: set[Any]) -> list[Any]:
    # What order the Set had is lost in Python. This one is at least always the same.
    def place(item: Any) -> tuple[bool, float, str]:
        number = type(item) in (int, float)
        return not number, item if number else 0, repr(item)

    return sorted(map(_unwrapped, items), key=place)


def _shared(value: Any) -> set[int]:
    """The identities of all objects that are more than once in a value."""
    seen: set[int] = set()
    shared: set[int] = set()
    stack = [value]
    while stack:
        each = stack.pop()
        if each is None or each is undefined or isinstance(each, (bool, int, float, str)):
            continue
        # Such short bytes exist once in all of Python.
        if isinstance(each, bytes) and len(each) < 2:
            continue
        if id(each) in seen:
            shared.add(id(each))
            continue
        seen.add(id(each))
        if isinstance(each, dict):
            stack.extend(map(_unwrapped, each))
            stack.extend(each.values())
        elif isinstance(each, (list, set)):
            stack.extend(map(_unwrapped, each))
        elif isinstance(each, JSError):
            stack.append(each.cause)
        if isinstance(each, (JSArray, SparseArray)):
            stack.extend(each.properties.values())
    return shared


# ------------------------------------------------------------------------------------------ handles

_LOCAL: Final = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
_PATH_LIMIT: Final = 100
"""Bytes that the path of a Unix-domain socket may have, everywhere."""


@dataclass
class Held:
    """A handle that this side has or had."""

    name: str
    sock: socket.socket
    handle_type: str | None = None
    """What it is sent as, where its socket can be several."""
    counted: bool = False
    """Whether it is a server that counts its connections."""
    of: str | None = None
    """The server that counts this connection."""
    address: Any = None
    sender: Any = None
    """Where the last datagram that was read came from."""

    @property
    def is_datagram(self) -> bool:
        return self.sock.type == socket.SOCK_DGRAM


def kind_of(sock: socket.socket) -> str:
    """The kind of a handle that came."""
    if sock.type == socket.SOCK_DGRAM:
        return "udp6" if sock.family == socket.AF_INET6 else "udp4"
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    family = "unix" if sock.family == socket.AF_UNIX else "tcp"
    return f"{family}-{'server' if listens else 'connection'}"


class Handles:
    """The handles of a side by their names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own_folder: str | None = None
        self._held: dict[str, Held] = {}
        self._received = 0

    def __getitem__(self, name: str) -> Held:
        if name not in self._held:
            raise PeerError(f"there is no handle {name!r}, only {', '.join(self._held) or 'none'}")
        return self._held[name]

    def receive(self, sock: socket.socket) -> str:
        """Keep a handle that came, as ``in1``, ``in2``, …; returns its kind."""
        self._received += 1
        self.add(Held(f"in{self._received}", sock))
        return kind_of(sock)

    def add(self, held: Held) -> Held:
        """Keep a handle."""
        if held.name in self._held:
            raise PeerError(f"there is a handle {held.name!r} already")
        if kind_of(held.sock).endswith("server"):
            held.address = held.sock.getsockname()
        self._held[held.name] = held
        return held

    def open(self, name: str, kind: str) -> None:
        """Make a handle, and its far end. Raises Unsupported."""
        handle_type: str | None = None
        far: socket.socket | None = None
        base, dot, rest = kind.partition("-")
        if base == "net.Native" and dot:
            handle_type, kind = base, f"tcp-{rest}"
        elif kind == "dgram.Native":
            handle_type, kind = kind, "udp4"
        if kind == "tcp-server":
            sock = _tcp_server()
        elif kind == "unix-server":
            sock = self._unix_server(name)
        elif kind == "tcp-connection":
            with _tcp_server() as server:
                far = _connected(server.getsockname(), server.family)
                sock = _accepted(server)
        elif kind == "unix-connection":
            sock, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        elif kind in ("udp4", "udp6"):
            family = socket.AF_INET if kind == "udp4" else socket.AF_INET6
            sock = socket.socket(family, socket.SOCK_DGRAM)
            sock.bind((_LOCAL[family], 0))
            far = socket.socket(family, socket.SOCK_DGRAM)
            far.connect(sock.getsockname())
        else:
            raise Unsupported(f"the kind {kind!r}")
        self.add(Held(name, sock, handle_type))
        if far is not None:
            self.add(Held(f"{name}-far", far))

    def add_accepted(
        self, name: str, server: Held, near: socket.socket, far: socket.socket
    ) -> None:
        """Keep both ends of a connection that a server accepted."""
        self.add(Held(name, near, of=server.name if server.counted else None))
        self.add(Held(f"{name}-far", far))

    def _unix_server(self, name: str) -> socket.socket:
        # Beside the report it goes with the runner's folder, whatever ends this process.
        path = str(self._folder / f"{name}-{os.getpid()}.sock")
        if len(os.fsencode(path)) > _PATH_LIMIT:
            if self._own_folder is None:
                self._own_folder = tempfile.mkdtemp()
            path = os.path.join(self._own_folder, name)
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen()
        return server

    def clean_up(self) -> None:
        """Remove what is in the file system."""
        folder, self._own_folder = self._own_folder, None
        if folder is not None:
            shutil.rmtree(folder)


def _tcp_server() -> socket.socket:
    return socket.create_server((_LOCAL[socket.AF_INET], 0))


def _connected(address: Any, family: int) -> socket.socket:
    sock = socket.socket(family)
    try:
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _accepted(server: socket.socket) -> socket.socket:
    # The limit only: who shares the socket sees no difference.
    server.settimeout(LIMIT)
    return server.accept()[0]


def _answer(connection: socket.socket, text: str) -> None:
    with connection:
        connection.settimeout(LIMIT)
        connection.sendall(text.encode())


def _serve(server: socket.socket, text: str) -> None:
    _answer(_accepted(server), text)


def _dial(held: Held) -> str:
    if held.address is None:
        raise PeerError(f"{held.name!r} is no server")
    with _connected(held.address, held.sock.family) as sock:
        return _read_stream(sock)


def _read_stream(sock: socket.socket) -> str:
    sock.settimeout(LIMIT)
    parts: list[bytes] = []
    while data := sock.recv(65536):
        parts.append(data)
    return b"".join(parts).decode()


def _read(held: Held) -> str:
    if not held.is_datagram:
        return _read_stream(held.sock)
    held.sock.settimeout(LIMIT)
    data, held.sender = held.sock.recvfrom(65536)
    return data.decode()


def _write(held: Held, text: str) -> None:
    held.sock.settimeout(LIMIT)
    if not held.is_datagram:
        held.sock.sendall(text.encode())
    elif held.sender is not None:
        held.sock.sendto(text.encode(), held.sender)
    else:
        # To where it is connected, as NAME-far is.
        held.sock.send(text.encode())


def _count_fds() -> int:
    return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))


# ---------------------------------------------------------------------------------------- the steps

_VARIABLES: Final = ("NODE_CHANNEL_FD", "NODE_CHANNEL_SERIALIZATION_MODE", "NODE_UNIQUE_ID")

_ASK_VARIABLES: Final = (
    "import json, os, sys; print(json.dumps([name for name in sys.argv[1:] if name in os.environ]))"
)


class Callback:
    """Reports a label once all sends of a step are done, with the first error of them."""

    def __init__(self, report: Report, label: str, times: int) -> None:
        self._report = report
        self._label = label
        self._left = times
        self._error: Exception | None = None

    def __call__(self, error: Exception | None) -> None:
        self._left -= 1
        self._error = self._error or error
        if self._left == 0:
            self._report.sent_as(self._label, self._error)


@dataclass(frozen=True)
class Sending:
    """What a ``send`` step sends, once."""

    message: Any
    handle: Held | None
    keep_open: bool
    callback: Callback | None

    @property
    def sock(self) -> socket.socket | None:
        return None if self.handle is None else self.handle.sock

    @property
    def handle_type(self) -> str | None:
        return None if self.handle is None else self.handle.handle_type

    @property
    def server(self) -> str | None:
        """The counted server that its connection is of."""
        return None if self.handle is None else self.handle.of


class Player(ABC):
    """Plays a plan; what a way in does in its own manner is up to its peer."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.report = Report(plan.report)
        self.handles = Handles(plan.report.parent)
        self._marked: int | None = None
        self._steps: list[Step] = []
        for raw in plan.steps:
            with self._supporting(raw):
                self._steps.append(Step.of(raw))

    # What the peers do.

    @property
    @abstractmethod
    def connected(self) -> bool:
        """Whether the channel says that it is connected."""

    @property
    @abstractmethod
    def has_channel(self) -> bool:
        """Whether there is a channel."""

    @abstractmethod
    async def send(self, sending: Sending) -> None:
        """Send, and report what becomes of it; raises what is to be reported as ``threw``."""

    @abstractmethod
    async def disconnect(self) -> None:
        """Disconnect."""

    @abstractmethod
    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Observe until a condition holds."""

    @abstractmethod
    async def in_thread(self, call: Callable[[], T]) -> T:
        """Make a blocking call, without keeping the channel from what it does by itself."""

    @abstractmethod
    async def pause(self, seconds: float) -> None:
        """Let so much time pass."""

    @abstractmethod
    async def open_all_fds(self) -> None:
        """Open what the channel opens when it is first needed."""

    # What only parents do, and not in each way in.

    def kill(self, name: str) -> None:
        """Send the child a signal."""
        raise Unsupported("kill")

    async def open_counted(self, name: str, sock: socket.socket) -> None:
        """Make of a listening socket a server that counts its connections."""
        raise Unsupported("counted")

    async def accept_counted(self, name: str) -> socket.socket:
        """The next connection on such a server."""
        raise Unsupported("counted")

    async def connections(self, name: str) -> int:
        """How many connections of such a server are open."""
        raise Unsupported("connections")

    async def close_counted(self, name: str) -> None:
        """Close such a server, and wait for its connections."""
        raise Unsupported("counted")

    # The steps.

    async def play(self) -> bool:
        """Play all steps; returns False where the process is to end after them at once."""
        for step in self._steps:
            if step.name == "end":
                self._before_the_end()
                return False
            with self._supporting(step.raw):
                await self._do(step)
        return True

    async def _do(self, step: Step) -> None:
        try:
            await getattr(self, f"_do_{step.name}")(step)
        except TimeoutError:
            raise
        except (NodeIPCError, OSError) as error:
            if step.name not in _WITH_HANDLES:
                raise
            self.report.observe({"threw": code_of(error)})

    async def observe_to_the_end(self) -> None:
        """Observe until the channel is disconnected and, as the parent, the child has exited."""
        await self.until(lambda: self.over, "the end")

    @property
    def over(self) -> bool:
        """Whether nothing more will be observed, besides callbacks."""
        return self.report.disconnected and (self.plan.role == "child" or self.report.exited)

    def close(self) -> None:
        """The last thing of an ordinary end."""
        self._before_the_end()

    def _before_the_end(self) -> None:
        self.report.end()
        self.handles.clean_up()

    def _supporting(self, raw: Any) -> _Supporting:
        return _Supporting(self, raw)

    def unsupported(self, raw: Any, error: Unsupported) -> SystemExit:
        """Report a step that this peer does not know; what ends the process then."""
        print(f"{sys.argv[0]}: not known: {error} in {raw!r}", file=sys.stderr)
        self.report.observe({"unsupported": raw})
        self.handles.clean_up()
        return SystemExit(_UNSUPPORTED_STATUS)

    async def _do_send(self, step: Step) -> None:
        options = step.options
        name = options.get("handle")
        handle = None if name is None else self.handles[name]
        keep_open: bool = options.get("keep_open", False)
        if keep_open and handle is not None and handle.of is not None:
            raise Unsupported("keep_open of a counted connection")
        times: int = options.get("times", 1)
        label = options.get("callback")
        callback = None if label is None else Callback(self.report, label, times)
        for n in range(times):
            sending = Sending(build(step.argument, n), handle, keep_open, callback)
            try:
                await self.send(sending)
            except Exception as error:
                self.report.observe({"threw": code_of(error)})
                return

    async def deliver(self, sending: Sending) -> None:
        """Send in the way in's own manner, and return once it says that it is done."""
        raise NotImplementedError

    async def send_and_tell(self, sending: Sending) -> None:
        """For ways in without callbacks: there the call's return is one, or what it raises.

        What Node gives to a callback is no ``threw``: all that comes of the channel's state.
        """
        callback = sending.callback
        try:
            await self.deliver(sending)
        except (ChannelClosed, HandleNotReceived) as error:
            if callback is None:
                raise
            callback(error)
        else:
            if callback is not None:
                callback(None)

    async def _do_wait(self, step: Step) -> None:
        report = self.report
        match step.argument:
            case "disconnect" if not step.options:
                await self.until(lambda: report.disconnected, "the end of the channel")
            case "exit" if self.plan.role == "parent":
                await self.until(lambda: report.exited, "the end of the child")
            case {"messages": int(number), **rest} if not rest:
                await self.until(
                    lambda: report.messages >= number or report.disconnected, f"{number} messages"
                )
                if report.messages < number:
                    raise PeerError(
                        f"waited for {number} messages, but the channel ended "
                        f"after {report.messages}"
                    )
            case {"sent": str(label), **rest} if not rest:
                await self.until(lambda: label in report.sent, f"the callback {label}")
            case _:
                raise Unsupported("wait")

    async def _do_disconnect(self, step: Step) -> None:
        try:
            await self.disconnect()
        except Exception as error:
            self.report.observe({"threw": code_of(error)})

    async def _do_exit(self, step: Step) -> None:
        self._before_the_end()
        sys.exit(step.argument)

    async def _do_die(self, step: Step) -> None:
        self._before_the_end()
        number = signal.Signals[step.argument]
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            # Python has its own ways with some.
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    async def _do_kill(self, step: Step) -> None:
        self.kill(step.argument)

    async def _do_busy(self, step: Step) -> None:
        # What PyDLL calls does not let go of the interpreter: no other thread of it runs, either.
        poll = ctypes.PyDLL(None).poll
        deadline = time.monotonic() + step.argument / 1000
        while (left := deadline - time.monotonic()) > 0:
            poll(None, 0, int(left * 1000) + 1)

    async def _do_say(self, step: Step) -> None:
        self.report.observe({"said": step.argument})

    async def _do_tell(self, step: Step) -> None:
        name = step.argument
        value: Any
        match name:
            case "connected":
                value = self.connected
            case "channel":
                value = self.has_channel
            case "env":
                value = [each for each in _VARIABLES if each in os.environ]
            case "inherited":
                value = await self.in_thread(_ask_grandchild)
            case _:
                raise Unsupported(f"tell {name!r}")
        self.report.observe({"is": {name: value}})

    async def _do_count(self, step: Step) -> None:
        self.report.count()

    async def _do_open(self, step: Step) -> None:
        match step.argument:
            case {"name": str(name), "kind": "tcp-accepted", "of": str(of), **rest} if not rest:
                server = self.handles[of]
                far = _connected(server.address, server.sock.family)
                near = (
                    await self.accept_counted(of)
                    if server.counted
                    else await self.in_thread(lambda: _accepted(server.sock))
                )
                self.handles.add_accepted(name, server, near, far)
            case {"name": str(name), "kind": str(kind), "counted": True, **rest} if not rest:
                self.handles.open(name, kind)
                server = self.handles[name]
                server.sock.settimeout(LIMIT)
                await self.open_counted(name, server.sock)
                server.counted = True
            case {"name": str(name), "kind": str(kind), **rest} if rest in ({}, {"counted": False}):
                self.handles.open(name, kind)
            case _:
                raise Unsupported("open")

    async def _do_serve(self, step: Step) -> None:
        server = self.handles[step.argument]
        reply = step.options["reply"]
        if server.counted:
            connection = await self.accept_counted(server.name)
            await self.in_thread(lambda: _answer(connection, reply))
        else:
            await self.in_thread(lambda: _serve(server.sock, reply))
        self.report.observe({"served": server.name})

    async def _do_dial(self, step: Step) -> None:
        server = self.handles[step.argument]
        text = await self.in_thread(lambda: _dial(server))
        self.report.observe({"read": {server.name: describe(text)}})

    async def _do_write(self, step: Step) -> None:
        held = self.handles[step.argument]
        text = build(step.options["text"])
        await self.in_thread(lambda: _write(held, text))

    async def _do_read(self, step: Step) -> None:
        held = self.handles[step.argument]
        text = await self.in_thread(lambda: _read(held))
        self.report.observe({"read": {held.name: describe(text)}})

    async def _do_close(self, step: Step) -> None:
        held = self.handles[step.argument]
        if held.counted:
            await self.close_counted(held.name)
        else:
            held.sock.close()

    async def _do_connections(self, step: Step) -> None:
        number = await self.connections(step.argument)
        self.report.observe({"is": {"connections": number}})

    async def _do_mark_fds(self, step: Step) -> None:
        await self.open_all_fds()
        self._marked = _count_fds()

    async def _do_check_fds(self, step: Step) -> None:
        if self._marked is None:
            raise PeerError("check_fds without mark_fds")
        deadline = time.monotonic() + FDS_LIMIT
        while (more := _count_fds() - self._marked) > 0 and time.monotonic() < deadline:
            await self.pause(0.02)
        # Fewer are no leak: the channel may have ended meanwhile.
        self.report.observe({"fds": max(0, more)})


class _Supporting:
    """Ends the process with a report where a step is not known."""

    def __init__(self, player: Player, raw: Any) -> None:
        self._player = player
        self._raw = raw

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        if isinstance(error, Unsupported):
            raise self._player.unsupported(self._raw, error)


def _ask_grandchild() -> list[str]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _ASK_VARIABLES, *_VARIABLES],
        stdout=subprocess.PIPE,
        check=True,
        timeout=LIMIT,
    )
    answer: list[str] = json.loads(done.stdout)
    return answer


def main(play: Callable[[Plan], None]) -> None:
    """Play the plan that the last argument names, and end with the status that says how it went."""
    try:
        if len(sys.argv) < 2:
            raise PeerError("the path of a plan is missing")
        play(Plan.load(sys.argv[-1]))
    except (PeerError, OSError) as error:
        traceback.print_exc()
        print(f"{sys.argv[0]}: {error}", file=sys.stderr)
        sys.exit(_ERROR_STATUS)
    except Exception:
        traceback.print_exc()
        sys.exit(_ERROR_STATUS)
