"""What the Python parents and children share.

Imported by every measured process, so it must cost next to nothing to import.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from typing import Any, Final

import nodecompat

__all__ = [
    "CHILD_WORKS",
    "PARENT_WORKS",
    "PlayError",
    "Result",
    "Stopwatch",
    "check_echo",
    "check_exit",
    "check_id",
    "check_ready",
    "check_report",
    "large_text",
    "play_of",
    "ready",
    "runtime",
    "show",
    "small_message",
    "unknown_work",
]

CHILD_WORKS: Final = {
    "start": "",
    "round-trip": "echo",
    "round-trip-free": "echo",
    "child-to-parent": "produce",
    "child-to-parent-many": "produce_many",
    "parent-to-child": "consume",
    "parent-to-child-many": "consume",
    "large-echo": "echo",
    "handles-to-parent": "give_handles",
    "handles-to-child": "take_handles",
}
"""How a child plays each work."""

PARENT_WORKS: Final = {
    "start": "",
    "round-trip": "round_trip",
    "round-trip-free": "round_trip",
    "child-to-parent": "take",
    "child-to-parent-many": "take",
    "parent-to-child": "give",
    "parent-to-child-many": "give_many",
    "large-echo": "large_echo",
    "handles-to-parent": "take_handles",
    "handles-to-child": "give_handles",
}
"""How a parent plays each work."""


class PlayError(Exception):
    """The other side did not do what the protocol of the benchmarks asks."""


def small_message(id: int) -> dict[str, Any]:
    """The small message of every work, the same as in child.cjs and parent.cjs."""
    return {"id": id, "type": "progress", "name": "worker", "done": 0.5, "final": False}


@functools.cache
def large_text(size: int) -> str:
    """A string of ``size`` characters, the same as in parent.cjs; made once."""
    return "0123456789abcdef" * (size // 16)


def runtime(front_end: str) -> str:
    """What runs here, for the report."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    return f"nodecompat.{front_end} {nodecompat.__version__}, {sys.implementation.name} {version}"


class Stopwatch:
    """Seconds, and processor seconds (user and system, all threads), since it was made."""

    def __init__(self) -> None:
        self._cpu = time.process_time()
        self._began = time.perf_counter()

    def read(self) -> tuple[float, float]:
        """Seconds and processor seconds so far."""
        took = time.perf_counter() - self._began
        return took, time.process_time() - self._cpu

    def report(self) -> dict[str, Any]:
        """A child's last message of a run."""
        took, cpu = self.read()
        return {"report": {"seconds": took, "cpu": cpu}}


class Result:
    """What a parent prints: the sums over what was measured."""

    def __init__(self, front_end: str) -> None:
        self._parent = runtime(front_end)
        self._child = ""
        self._seconds = self._parent_cpu = self._child_cpu = 0.0

    def child_is(self, ready: dict[str, Any]) -> None:
        """Take note of the child's runtime."""
        self._child = ready["runtime"]

    def add(self, stopwatch: tuple[float, float], child_cpu: float) -> None:
        """Add one measured run, or start."""
        self._seconds += stopwatch[0]
        self._parent_cpu += stopwatch[1]
        self._child_cpu += child_cpu

    def print(self) -> None:
        """One line of JSON on stdout."""
        result = {
            "parent": self._parent,
            "child": self._child,
            "seconds": self._seconds,
            "parentCpu": self._parent_cpu,
            "childCpu": self._child_cpu,
        }
        print(json.dumps(result), flush=True)


def play_of(works: dict[str, str], program: str, name: str) -> str:
    """The name of the function that plays a work; PlayError for an unknown work."""
    if name not in works:
        raise PlayError(f"{program} has no work named {name!r}")
    return works[name]


def check_exit(exit_code: int | None) -> None:
    """PlayError unless the child ended well."""
    if exit_code != 0:
        raise PlayError(f"the child ended with code {exit_code}")


def ready(name: str, front_end: str) -> dict[str, Any]:
    """A child's answer to the work that it knows."""
    return {"ready": name, "runtime": runtime(front_end), "cpu": time.process_time()}


def unknown_work(child: str, name: object) -> dict[str, Any]:
    """A child's answer to a work that it does not know."""
    return {"error": f"{child} has no work named {name!r}"}


def show(message: object) -> str:
    """A message, short enough for an error."""
    text = repr(message)
    return text if len(text) <= 200 else f"{text[:200]}..."


def check_ready(message: Any) -> dict[str, Any]:
    """The child's first message; PlayError when it is none."""
    if isinstance(message, dict):
        if "error" in message:
            raise PlayError(message["error"])
        if "ready" in message:
            return message
    raise PlayError(f'expected "ready" from the child, got {show(message)}')


def check_report(message: Any) -> dict[str, Any]:
    """What the child says at the end of a run; PlayError for anything else."""
    if isinstance(message, dict) and "report" in message:
        report: dict[str, Any] = message["report"]
        return report
    raise PlayError(f"expected the report of the run, got {show(message)}")


def check_id(message: Any, id: int) -> None:
    """PlayError unless it is the small message with that id."""
    if message["id"] != id:
        raise PlayError(f"expected message {id}, got {show(message)}")


def check_echo(message: object, text: str) -> None:
    """PlayError unless the large string came back as it was."""
    if message != text:
        raise PlayError(f"the echo differs: {show(message)}")
