"""Runs the real program as a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import pytest

LIMIT = 50


class Program:
    """``python -m nodecompat``, with the Node of the tests and an environment that is known."""

    def __init__(self, node: str) -> None:
        self.node = node

    def env(self, **changes: str) -> dict[str, str]:
        unknown = ("FORCE_COLOR", "NODE_OPTIONS", "COLUMNS")
        env = {name: value for name, value in os.environ.items() if name not in unknown}
        return {**env, "NODECOMPAT_NODE": self.node, **changes}

    def command(self, arguments: Sequence[str], setup: str) -> list[str]:
        """The command line; ``setup`` is Python code that goes first, to change a constant."""
        if not setup:
            return [sys.executable, "-m", "nodecompat", *arguments]
        code = f"import sys; from nodecompat.cli import main; {setup}; sys.exit(main(sys.argv[1:]))"
        return [sys.executable, "-c", code, *arguments]

    def run(
        self, *arguments: str, stdin: str | bytes | IO[bytes] = "", setup: str = "", **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end; stdout and stderr must be UTF-8."""
        given = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            self.command(arguments, setup),
            input=given if isinstance(given, bytes) else None,
            stdin=None if isinstance(given, bytes) else given,
            capture_output=True,
            timeout=LIMIT,
            env=self.env(**env),
            check=False,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    @contextlib.contextmanager
    def start(self, *arguments: str, setup: str = "") -> Iterator[subprocess.Popen[bytes]]:
        """Start it with pipes; it is ended at the end, whatever happened."""
        with subprocess.Popen(
            self.command(arguments, setup),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.env(),
        ) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def program(node: str) -> Program:
    return Program(node)


def script(path: Path, text: str) -> str:
    """An executable shell script, which plays a Node that does not work."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)
