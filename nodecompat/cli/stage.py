"""What the parts of ``nodecompat demo`` play on: the screen, and the time that each may take."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

from rich.console import Console
from rich.text import Text

from nodecompat import sync as sync_ipc
from nodecompat.errors import ChannelClosed, HandleNotReceived

__all__ = ["Failed", "Screen", "Stage", "expect", "forked"]


class Failed(Exception):
    """A part did not go as it must; the text says why."""


class Screen:
    """Prints the conversation: in colour and cut to the width on a terminal, plain elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._unicode = console.encoding.lower().startswith("utf")
        self._to_child, self._to_parent = ("──▶", "◀──") if self._unicode else ("-->", "<--")

    def title(self, text: str) -> None:
        self._print(Text(text, style="bold"), before="\n")

    def sent(self, parent: str, child: str, message: Any) -> None:
        """The parent said something to its child."""
        self._said(parent, self._to_child, child, message)

    def received(self, parent: str, child: str, message: Any) -> None:
        """The child said something to its parent."""
        self._said(parent, self._to_parent, child, message)

    def note(self, text: str) -> None:
        self._print(Text(f"  {text}", style="dim"))

    def good(self, text: str) -> None:
        self._print(Text(f"  {'✓ ' if self._unicode else ''}{text}", style="green"))

    def bad(self, text: str) -> None:
        self._whole(Text(f"  {'✗ ' if self._unicode else ''}{text}", style="bold red"))

    def output(self, text: str) -> None:
        """What a program wrote, nothing of it left out."""
        for line in text.splitlines():
            self._whole(Text(f"  | {line if self._unicode else ascii(line)[1:-1]}"))

    def _said(self, parent: str, arrow: str, child: str, message: Any) -> None:
        self._print(
            Text.assemble(
                ("  " + parent, "cyan"),
                (f" {arrow} ", "bold"),
                (f"{child:<8}", "yellow"),
                self._shown(message),
            )
        )

    def _shown(self, message: Any) -> str:
        try:
            return json.dumps(message, ensure_ascii=not self._unicode)
        except (TypeError, ValueError):
            # What only advanced mode carries.
            return repr(message) if self._unicode else ascii(message)

    def _print(self, text: Text, before: str = "") -> None:
        if not self._console.is_terminal:
            self._whole(text, before)
            return
        overflow: Literal["ellipsis", "crop"] = "ellipsis" if self._unicode else "crop"
        self._console.print(before, text, sep="", no_wrap=True, overflow=overflow)

    def _whole(self, text: Text, before: str = "") -> None:
        self._console.print(before, text, sep="", soft_wrap=True)


class Stage:
    """What a part plays on: the screen, the Node, the time that it has."""

    def __init__(self, screen: Screen, node: str, limit: float, stderr: IO[bytes]) -> None:
        self.screen = screen
        self.node = node
        self.limit = limit
        self.stderr = stderr
        self.expired = False

    @property
    def stdio(self) -> list[str | IO[bytes]]:
        """The stdio of a child: what it writes is kept for the case that the part fails."""
        return ["ignore", self.stderr, self.stderr, "ipc"]

    @contextlib.contextmanager
    def limited(self, kill: Callable[[], object]) -> Iterator[None]:
        """Call ``kill``, on another thread, when the body takes longer than the part may."""

        def expire() -> None:
            self.expired = True
            kill()

        timer = threading.Timer(self.limit, expire)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()


def expect(what: str, got: object, wanted: object) -> None:
    if got != wanted:
        raise Failed(f"{what}: expected {wanted!r}, got {got!r}")


@contextlib.contextmanager
def forked(stage: Stage, program: Path, *, serialization: str = "json") -> Iterator[sync_ipc.Child]:
    """A Node child of Python, which must end well after the body."""
    with sync_ipc.fork(
        program, exec_path=stage.node, stdio=stage.stdio, serialization=serialization
    ) as child:
        with stage.limited(lambda: child.kill("SIGKILL")):
            stage.screen.note(f"Python forked Node, pid {child.pid}")
            try:
                yield child
            except (ChannelClosed, HandleNotReceived) as error:
                code = child.wait()
                how = f"status {code}" if child.signal_code is None else child.signal_code
                raise Failed(f"the child ended early, with {how}: {error}") from error
            child.disconnect()
            expect("the child's exit status", child.wait(), 0)
        stage.screen.note("Python disconnected, Node ended with status 0")
