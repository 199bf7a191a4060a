"""The peer for ``nodecompat.asyncio``: ``nodecompat_asyncio.py PLAN``, as the parent or the child.

One task receives and reports, another one waits for the child, and the steps are a third.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

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
)
from nodecompat import ChannelClosed, NodeIPCError
from nodecompat.asyncio import Channel, Child, Server, connect_parent, fork, spawn

T = TypeVar("T")


class AsyncioPlayer(Player):
    """Plays a plan with coroutines."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._child: Child | None = None
        self._channel: Channel
        self._servers: dict[str, Server] = {}
        self._changed = asyncio.Event()
        self.report.on_change = self._changed.set
        self._tasks = asyncio.TaskGroup()

    async def run(self) -> None:
        """Play the plan to its end."""
        if self.plan.role == "child":
            self._channel = await connect_parent()
        else:
            how, arguments, options = self.plan.how_to_start()
            self._child = await (fork if how == "fork" else spawn)(*arguments, **options)
            self._channel = self._child
        observing: list[asyncio.Task[None]] = []
        # What goes wrong in one task ends all.
        async with self._tasks:
            observing.append(self._tasks.create_task(self._receive_all()))
            if self._child is not None:
                observing.append(self._tasks.create_task(self._watch(self._child)))
            if await self.play():
                await self.observe_to_the_end()
            else:
                for task in observing:
                    task.cancel()
        self.close()

    async def _receive_all(self) -> None:
        while not self.report.disconnected:
            await self._receive(None)

    async def _receive(self, timeout: float | None) -> bool:
        """Report the next message, error or the end; False when nothing came in time."""
        try:
            message, handle = await self._channel.recv_with_handle(timeout)
        except ChannelClosed:
            self.report.disconnect()
        except TimeoutError:
            return False
        except (NodeIPCError, OSError) as error:
            self.report.observe({"error": code_of(error)})
        else:
            self.report.message(message, None if handle is None else self.handles.receive(handle))
        # The steps go on first, where this is what they waited for.
        await asyncio.sleep(0)
        return True

    async def _watch(self, child: Child) -> None:
        status = await child.wait()
        # It sent these before it ended.
        while not self.report.disconnected and await self._receive(0):
            pass
        self.report.exit(child.signal_code if status is None else status)

    @property
    def connected(self) -> bool:
        return self._channel.connected

    @property
    def has_channel(self) -> bool:
        return self._channel.fileno() != -1

    async def send(self, sending: Sending) -> None:
        if sending.callback is None:
            await self.deliver(sending)
            return
        # Who asks for a callback does not wait.
        self._tasks.create_task(self._send_later(sending))
        # So that it begins: what is sent next comes after it.
        await asyncio.sleep(0)

    async def _send_later(self, sending: Sending) -> None:
        try:
            await self.send_and_tell(sending)
        except Exception as error:
            self.report.observe({"threw": code_of(error)})

    async def deliver(self, sending: Sending) -> None:
        if sending.server is not None and sending.sock is not None:
            server = self._servers[sending.server]
            await server.hand_over(self._channel, sending.message, sending.sock)
        else:
            await self._channel.send(
                sending.message,
                sending.sock,
                keep_open=sending.keep_open,
                handle_type=sending.handle_type,
            )

    async def disconnect(self) -> None:
        await self._channel.disconnect()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(LIMIT):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise PeerError(f"waited in vain for {what}") from None

    async def in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.to_thread(call)

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def open_all_fds(self) -> None:
        """All are open since the start."""

    def kill(self, name: str) -> None:
        if self._child is None:
            raise Unsupported("only a parent kills")
        self._child.kill(name)

    async def open_counted(self, name: str, sock: socket.socket) -> None:
        self._servers[name] = Server(sock)

    async def accept_counted(self, name: str) -> socket.socket:
        async with asyncio.timeout(LIMIT):
            return (await self._servers[name].accept())[0]

    async def connections(self, name: str) -> int:
        async with asyncio.timeout(LIMIT):
            return await self._servers[name].connections()

    async def close_counted(self, name: str) -> None:
        async with asyncio.timeout(LIMIT):
            await self._servers[name].close()


async def _play(plan: Plan) -> None:
    await AsyncioPlayer(plan).run()


def play(plan: Plan) -> None:
    """Play a plan to its end."""
    asyncio.run(_play(plan))


if __name__ == "__main__":
    main(play)
