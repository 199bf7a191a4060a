"""The relay: a program between a parent and a child, which writes down what passes.

    python -I -S relay.py LOG COMMAND [ARGUMENT]...

The parent starts it with a channel as it would start the child; it starts COMMAND with a channel of
its own, and passes on bytes, descriptors, the end of either direction, signals and the exit status.
The log is that of conformance/wire.py, WireLog. `relayed` has a plan start its child in this way.

Both sides see the channel as before, but for this: what one has written may be in the relay, and
its reads may end elsewhere. So it is for looking at a failure, and not for deciding on one.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any, Final

if not __package__:
    # A script of `python -I` does not have the checkout among its paths.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from conformance.wire import (
    ChildWatch,
    Receiver,
    WireLog,
    close_all,
    exit_of,
    inherit_nothing,
    ready,
    send,
    take_channel,
)

__all__ = ["relayed"]

_FAILED: Final = 4

# A side that does not read is not read for either, from so many bytes on.
_MOST_WAITING: Final = 1 << 20

# Not those that cannot be caught, that stop a process, or that are ignored by default.
_PASSED_ON: Final = [
    number
    for number in range(1, 32)
    if number
    not in {
        *(signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
        *(signal.SIGCONT, signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG, signal.SIGPIPE),
    }
]

_PR_SET_PDEATHSIG: Final = 1


def relayed(start: Mapping[str, Any], log: str) -> dict[str, Any]:
    """The `start` of a plan, with a relay between the parent and what it starts.

    `log` is the path of the wire log.
    """
    relay = ["-I", "-S", os.path.abspath(__file__), log]
    if start["how"] == "fork":
        exec_argv = [*relay, start["exec_path"], *start.get("exec_argv", [])]
        return {**start, "exec_path": sys.executable, "exec_argv": exec_argv}
    args = [*relay, start["command"], *start.get("args", [])]
    return {**start, "command": sys.executable, "args": args}


class _Way:
    """One direction: from the socket of one side to that of the other."""

    def __init__(self, name: str, source: socket.socket, target: socket.socket) -> None:
        self.name = name
        self.source = source
        self.target = target
        self._receiver = Receiver(source)
        self._waiting: list[tuple[memoryview, list[int]]] = []
        self._size = 0
        self.read_ended = False
        self.ended = False
        """Nothing more goes this way: the other side knows, or has gone."""

    @property
    def wants_to_read(self) -> bool:
        return not self.read_ended and self._size < _MOST_WAITING

    @property
    def wants_to_write(self) -> bool:
        return bool(self._waiting)

    def read(self, log: WireLog) -> None:
        """Take what has come. Not raising BlockingIOError: it may have been taken before."""
        try:
            pieces = self._receiver.receive()
        except BlockingIOError:
            return
        for data, fds in pieces:
            log.add(self.name, data, len(fds))
            if self.ended:
                close_all(fds)
            else:
                self._waiting.append((memoryview(data), fds))
                self._size += len(data)
        if not pieces:
            log.end(self.name)
            self.read_ended = True

    def write(self) -> None:
        """Pass on what the other side takes, and then the end."""
        while self._waiting:
            data, fds = self._waiting[0]
            try:
                count = send(self.target, data, fds)
            except BlockingIOError:
                return
            except OSError:
                # It reads no more, for which both EPIPE and ECONNRESET stand.
                self.give_up()
                return
            self._size -= count
            close_all(fds)
            if count == len(data):
                del self._waiting[0]
            else:
                self._waiting[0] = (data[count:], [])
        if self.read_ended and not self.ended:
            self.ended = True
            try:
                self.target.shutdown(socket.SHUT_WR)
            except OSError:
                # It has gone itself.
                return

    def give_up(self) -> None:
        """Forget what waits: nobody will read it."""
        for _, fds in self._waiting:
            close_all(fds)
        self._waiting.clear()
        self._size = 0
        self.ended = True


class _Relay:
    def __init__(self, log: WireLog, parent: socket.socket, child: socket.socket) -> None:
        self._log = log
        self._down = _Way("parent", parent, child)
        self._up = _Way("child", child, parent)
        self._ways = (self._down, self._up)
        # Closing one is what its peer sees when the other side has closed for good.
        self._open = {parent, child}

    def run(self, watch: ChildWatch, pid: int) -> int:
        """Pass on until the child has ended; what waitpid says of it."""
        status: int | None = None
        while status is None:
            if self._step(watch.fd):
                status = watch.look(pid)
        # It wrote these before it ended. A grandchild that has the channel is not waited for.
        while self._up.source in self._open and not self._up.read_ended:
            if not ready({self._up.source.fileno(): select.POLLIN}, 0):
                break
            self._up.read(self._log)
        self._up.read_ended = True
        while not self._up.ended:
            self._up.write()
            if not self._up.ended:
                ready({self._up.target.fileno(): select.POLLOUT}, 60)
        return status

    def _step(self, watched: int) -> bool:
        """Wait for something, and do it. Whether `watched` can be read."""
        wanted = {watched: select.POLLIN}
        for sock in self._open:
            events = 0
            for way in self._ways:
                if way.source is sock and way.wants_to_read:
                    events |= select.POLLIN
                if way.target is sock and way.wants_to_write:
                    events |= select.POLLOUT
            if events:
                wanted[sock.fileno()] = events
            elif any(way.source is sock and way.ended and way.read_ended for way in self._ways):
                # To notice that it is closed for good: a hang-up comes without being asked for.
                wanted[sock.fileno()] = 0
        found = ready(wanted, 60)
        for way in self._ways:
            if way.source in self._open and found.get(way.source.fileno()) and way.wants_to_read:
                way.read(self._log)
            way.write()
        for way, back in (self._ways, self._ways[::-1]):
            gone = way.source in self._open and found.get(way.source.fileno(), 0) & select.POLLHUP
            if gone and way.read_ended and way.ended and way.target in self._open:
                # It takes nothing any more either, which the other side is to notice.
                back.give_up()
                back.read_ended = True
                self._close(way.source)
                self._close(way.target)
        return bool(found.get(watched))

    def _close(self, sock: socket.socket) -> None:
        self._open.discard(sock)
        sock.close()


def _start(command: list[str], sock: socket.socket, fd: int) -> int:
    """Start the child, which is not to outlive this process: whoever kills this means the child."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    pid = os.fork()
    if pid:
        return pid
    try:
        if library is not None:
            library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if sock.fileno() == fd:
            os.set_inheritable(fd, True)
        else:
            os.dup2(sock.fileno(), fd)
        for number in set(range(1, 32)) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        os.execvp(command[0], command)
    except OSError as error:
        print(f"relay.py: {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
    finally:
        os._exit(127)


def main(arguments: list[str]) -> None:
    """Be the relay, and end as the child does."""
    log_path, *command = arguments
    mode = {
        key: os.environ[key] for key in ("NODE_CHANNEL_SERIALIZATION_MODE",) if key in os.environ
    }
    parent, fd = take_channel()
    # Out of the way of the child's own.
    moved = parent.dup()
    parent.close()
    log = WireLog(log_path, advanced="advanced" in mode.values())
    inherit_nothing()
    near, far = socket.socketpair()
    watch = ChildWatch()
    os.environ.update(mode, NODE_CHANNEL_FD=str(fd))
    with far:
        pid = _start(command, far, fd)
    for number in _PASSED_ON:
        signal.signal(number, lambda received, _: os.kill(pid, received))
    status = _Relay(log, moved, near).run(watch, pid)
    outcome = exit_of(status)
    if isinstance(outcome, int):
        os._exit(outcome)
    _die(signal.Signals[outcome])


def _die(number: signal.Signals) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        print("usage: relay.py LOG COMMAND [ARGUMENT]...", file=sys.stderr)
        sys.exit(_FAILED)
    try:
        main(sys.argv[1:])
    except (OSError, ValueError) as error:
        print(f"relay.py: {error}", file=sys.stderr)
        os._exit(_FAILED)
