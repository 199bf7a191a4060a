"""Runs the programs of the examples and the docs as a reader does: ``python main.py``."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).parents[1]

_LIMIT: Final = 50.0


class Reader:
    """Somebody with this Python, this nodecompat and a Node of the tests on the PATH."""

    def __init__(self, node: str, folder: Path) -> None:
        """``folder`` is an empty one, for what goes on the PATH."""
        for name, path in [("node", node), ("python", sys.executable), ("python3", sys.executable)]:
            # Not a link: a Python finds its virtual environment by the path that it is started by.
            script = folder / name
            script.write_text(f'#!/bin/sh\nexec {shlex.quote(path)} "$@"\n')
            script.chmod(0o755)
        changed = ("COLUMNS", "FORCE_COLOR", "NODE_OPTIONS", "PYTHONDEVMODE")
        self._env = {
            **{name: value for name, value in os.environ.items() if name not in changed},
            "NODECOMPAT_NODE": node,
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "PYTHONPATH": str(CHECKOUT),
            "PYTHONWARNINGS": "default",
        }

    def run(self, command: Sequence[str], cwd: Path) -> str:
        """What a program prints. It has to end with status 0 and write nothing to stderr."""
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            # So that the children of a program that hangs can be ended with it.
            start_new_session=True,
        )
        with process:
            try:
                stdout, stderr = process.communicate(timeout=_LIMIT)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        assert (process.returncode, stderr) == (0, ""), f"{shlex.join(command)} printed {stdout!r}"
        return stdout
