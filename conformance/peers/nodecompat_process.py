"""The peer for ``nodecompat.process``: ``nodecompat_process.py PLAN``, as the child.

Listeners report, on the thread that calls them; the steps are the main thread.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

# Started by its path, from any folder; what it tests is what it lies beside.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from conformance.peers._common import (
    LIMIT,
    Callback,
    PeerError,
    Plan,
    Player,
    Sending,
    code_of,
    main,
    to_the_end,
)
from nodecompat import NodeIPCError, process

T = TypeVar("T")


class ProcessPlayer(Player):
    """Plays a plan with listeners: its coroutines never wait for an event loop.

    Listeners and steps take turns. Where what a step waits for is there, the steps go on first, and
    listeners come again when these wait for something: so the report has one order.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        if plan.role != "child":
            raise PeerError("nodecompat.process is for children only")
        self._changed = threading.Condition()
        self._waiting_for: Callable[[], bool] | None = None
        """What the steps wait for; None while they go on."""
        self._failure: BaseException | None = None
        self.report.on_change = self._tell
        # Errors that nobody listens for come here, and those of our own listeners.
        threading.excepthook = self._on_exception
        # That for messages first: without one the end is told before the messages are.
        process.on("message", self._on_message)
        process.on("disconnect", self._on_disconnect)
        process.on("error", self._on_error)

    # On the thread of the listeners.

    def _take_turn(self) -> None:
        """Wait until the steps wait for what is not there yet."""
        with self._changed:
            if not self._changed.wait_for(
                lambda: self._waiting_for is not None and not self._waiting_for(), LIMIT
            ):
                raise PeerError("the steps never waited for anything")

    def _on_message(self, message: Any, handle: socket.socket | None) -> None:
        self._take_turn()
        self.report.message(message, None if handle is None else self.handles.receive(handle))

    def _on_disconnect(self) -> None:
        self._take_turn()
        self.report.disconnect()

    def _on_error(self, error: BaseException) -> None:
        self._take_turn()
        self.report.observe({"error": code_of(error)})

    def _on_sent(self, callback: Callback, error: Exception | None) -> None:
        self._take_turn()
        callback(error)

    def _on_exception(self, hooked: threading.ExceptHookArgs) -> None:
        if isinstance(hooked.exc_value, NodeIPCError):
            self._on_error(hooked.exc_value)
        else:
            self._failure = hooked.exc_value
            self._tell()

    # On the thread of the steps.

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    @contextmanager
    def _waiting(self, condition: Callable[[], bool]) -> Iterator[None]:
        with self._changed:
            self._waiting_for = condition
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._waiting_for = None

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    @property
    def connected(self) -> bool:
        return process.connected

    @property
    def has_channel(self) -> bool:
        return process.channel is not None

    async def send(self, sending: Sending) -> None:
        callback = sending.callback
        process.send(
            sending.message,
            sending.sock,
            keep_open=sending.keep_open,
            handle_type=sending.handle_type,
            callback=None if callback is None else lambda error: self._on_sent(callback, error),
        )

    async def disconnect(self) -> None:
        process.disconnect()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        with self._waiting(condition), self._changed:
            came = self._changed.wait_for(lambda: condition() or self._failure, LIMIT)
        self._check()
        if not came:
            raise PeerError(f"waited in vain for {what}")

    async def observe_to_the_end(self) -> None:
        await super().observe_to_the_end()
        # For the callbacks, too.
        with self._waiting(lambda: False):
            while True:
                try:
                    process.wait(LIMIT)
                    break
                except NodeIPCError:
                    # Reported when it came.
                    continue
        self._check()

    async def in_thread(self, call: Callable[[], T]) -> T:
        # The channel has a thread of its own.
        with self._waiting(lambda: False):
            return call()

    async def pause(self, seconds: float) -> None:
        with self._waiting(lambda: False):
            time.sleep(seconds)

    async def open_all_fds(self) -> None:
        """All are open since the first listener."""


def play(plan: Plan) -> None:
    """Play a plan to its end."""
    player = ProcessPlayer(plan)
    if to_the_end(player.play()):
        to_the_end(player.observe_to_the_end())
        player.close()


if __name__ == "__main__":
    main(play)
