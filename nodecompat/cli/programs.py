"""What the commands share: the programs that they start, and how those find what they need."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import click

from nodecompat.environment import CHANNEL_FD, SERIALIZATION_MODE, UNIQUE_ID
from nodecompat.errors import NodeNotFound
from nodecompat.node import FoundNode, find_node

__all__ = [
    "ADVANCED_JS",
    "CHILD_JS",
    "CHILD_PY",
    "HANDLES_JS",
    "PARENT_JS",
    "child_env",
    "chosen_node",
    "kill_group",
    "node_version",
    "python_version",
    "readable",
]

_PROGRAMS = Path(__file__).parent / "demo_programs"
PARENT_JS = _PROGRAMS / "parent.cjs"
CHILD_JS = _PROGRAMS / "child.cjs"
CHILD_PY = _PROGRAMS / "child.py"
HANDLES_JS = _PROGRAMS / "handles.cjs"
ADVANCED_JS = _PROGRAMS / "advanced.cjs"

_PACKAGE_ROOT = Path(__file__).parents[2]


def python_version() -> str:
    """Implementation and version of this Python, such as ``CPython 3.12.1``."""
    return f"{platform.python_implementation()} {platform.python_version()}"


def chosen_node(exec_path: str | None) -> FoundNode:
    """The Node of ``--exec-path``, else the one that ``fork`` finds; raises NodeNotFound."""
    if exec_path is None:
        return find_node()
    path = shutil.which(exec_path)
    if path is None:
        raise NodeNotFound(f"--exec-path {exec_path!r} is not an executable program")
    return FoundNode(path, "--exec-path")


def node_version(path: str, *, timeout: float = 20) -> str:
    """What ``path --version`` prints, such as ``v22.11.0``.

    ``timeout`` is in seconds. Raises RuntimeError, with what the program wrote, when it cannot be
    started, fails, prints nothing or takes longer.
    """
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except OSError as error:
        raise RuntimeError(f"{path} cannot be started: {error.strerror or error}") from error
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{path} --version did not end within {timeout:g} s") from error
    printed = readable(done.stdout).strip()
    if done.returncode != 0 or not printed:
        wrote = readable(done.stderr).strip() or printed or "nothing"
        raise RuntimeError(
            f"{path} --version ended with status {done.returncode} and wrote: {wrote[:500]}"
        )
    return printed.splitlines()[0]


def readable(output: bytes) -> str:
    """What a program wrote, as text that does nothing to a terminal's colours."""
    return click.unstyle(output.decode(errors="replace"))


def child_env() -> dict[str, str]:
    """The environment for a Node that starts a Python child which imports nodecompat.

    A checkout that is not installed is only importable from its own folder, so it is named in
    PYTHONPATH. An installed nodecompat needs nothing: its folder before the standard library
    could hide modules of that. A channel of this process is not the Node's.
    """
    env = dict(os.environ)
    for name in (CHANNEL_FD, SERIALIZATION_MODE, UNIQUE_ID):
        env.pop(name, None)
    installed = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
    if _PACKAGE_ROOT not in installed:
        before = env.get("PYTHONPATH")
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_PACKAGE_ROOT), before)))
    return env


def kill_group(leader: int) -> None:
    """End a process that was started with ``start_new_session`` and its children, at once.

    ``leader`` is its pid, and it must not have been waited for: the number could be another's.
    """
    with contextlib.suppress(ProcessLookupError):
        if sys.platform == "win32":
            os.kill(leader, signal.SIGTERM)
        else:
            os.killpg(leader, signal.SIGKILL)
