"""The peer for ``nodecompat.sync``: ``nodecompat_sync.py PLAN``, as the parent or as the child.

One thread does all. It observes where it waits, and waiting means receiving.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

# Started by its path, from any folder; what it tests is what it lies beside.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from conformance.peers._common import (
    LIMIT,
    PeerError,
    Plan,
    Player,
    Sending,
    Unsupported,
    code_of,
    main,
    to_the_end,
)
from nodecompat import ChannelClosed, NodeIPCError
from nodecompat.sync import Channel, Child, Server, connect_parent, fork, spawn

T = TypeVar("T")

LOOK: Final = 0.05
"""Seconds between looks at a child that has neither sent anything nor left the channel."""


class SyncPlayer(Player):
    """Plays a plan with blocking calls: its coroutines never wait for an event loop."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._child: Child | None = None
        if plan.role == "child":
            self._channel: Channel = connect_parent()
        else:
            how, arguments, options = plan.how_to_start()
            self._child = (fork if how == "fork" else spawn)(*arguments, **options)
            self._channel = self._child
        self._servers: dict[str, Server] = {}

    @property
    def connected(self) -> bool:
        return self._channel.connected

    @property
    def has_channel(self) -> bool:
        return self._channel.fileno() != -1

    async def send(self, sending: Sending) -> None:
        await self.send_and_tell(sending)

    async def deliver(self, sending: Sending) -> None:
        if sending.server is not None and sending.sock is not None:
            server = self._servers[sending.server]
            server.hand_over(self._channel, sending.message, sending.sock)
        else:
            self._channel.send(
                sending.message,
                sending.sock,
                keep_open=sending.keep_open,
                handle_type=sending.handle_type,
            )

    async def disconnect(self) -> None:
        self._channel.disconnect()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + LIMIT
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0 or self.over:
                raise PeerError(f"waited in vain for {what}")
            self._observe(left)

    def _observe(self, limit: float) -> None:
        """Wait for the next thing that happens, for a while at least."""
        waiting_for_child = self._child is not None and not self.report.exited
        if not self.report.disconnected:
            # The channel may outlive the child, in the hands of a grandchild.
            if not self._receive(LOOK if waiting_for_child else limit) and waiting_for_child:
                self._look_for_exit(0)
        elif waiting_for_child:
            self._look_for_exit(limit)

    def _receive(self, timeout: float) -> bool:
        """Report the next message, error or the end; False when nothing came in time."""
        try:
            message, handle = self._channel.recv_with_handle(timeout)
        except ChannelClosed:
            self.report.disconnect()
        except TimeoutError:
            return False
        except (NodeIPCError, OSError) as error:
            self.report.observe({"error": code_of(error)})
        else:
            self.report.message(message, None if handle is None else self.handles.receive(handle))
        return True

    def _look_for_exit(self, timeout: float) -> None:
        child = self._child
        assert child is not None
        try:
            status = child.wait(timeout)
        except TimeoutError:
            return
        # It sent these before it ended.
        while not self.report.disconnected and self._receive(0):
            pass
        self.report.exit(child.signal_code if status is None else status)

    async def in_thread(self, call: Callable[[], T]) -> T:
        return call()

    async def pause(self, seconds: float) -> None:
        if self.report.disconnected:
            time.sleep(seconds)
        else:
            self._receive(seconds)

    async def open_all_fds(self) -> None:
        # Those that it waits with come with the first wait.
        while not self.report.disconnected and self._receive(0):
            pass

    def kill(self, name: str) -> None:
        if self._child is None:
            raise Unsupported("only a parent kills")
        self._child.kill(name)

    async def open_counted(self, name: str, sock: socket.socket) -> None:
        self._servers[name] = Server(sock)

    async def accept_counted(self, name: str) -> socket.socket:
        return self._servers[name].accept()[0]

    async def connections(self, name: str) -> int:
        return self._servers[name].connections(LIMIT)

    async def close_counted(self, name: str) -> None:
        self._servers[name].close(LIMIT)


def play(plan: Plan) -> None:
    """Play a plan to its end."""
    player = SyncPlayer(plan)
    if to_the_end(player.play()):
        to_the_end(player.observe_to_the_end())
        player.close()


if __name__ == "__main__":
    main(play)
