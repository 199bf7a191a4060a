"""The imports of nodecompat point one way: front ends, connection, core, errors."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_PACKAGE = Path(__file__).parents[1] / "nodecompat"

_CORE = {"errors"}
_SHARED = _CORE | {"protocol", "transport"}
_FRONT = _SHARED | {"connection", "counting", "environment", "launch", "locks", "node"}

# What each part of the package may import; the root ("") is nodecompat/__init__.py.
_MAY_IMPORT = {
    "errors": set[str](),
    "protocol": _CORE,
    "transport": _CORE,
    "connection": _FRONT,
    "counting": _FRONT,
    "environment": _FRONT,
    "launch": _FRONT,
    "locks": _FRONT,
    "node": _FRONT,
    "asyncio": _FRONT,
    "sync": _FRONT,
    "process": _FRONT | {"sync"},
    "": _FRONT | {"process", "sync"},
    "cli": _FRONT | {"", "asyncio", "process", "sync"},
    "__main__": {"cli"},
}

# What would tie the protocol to a descriptor, a thread, a clock or a loop.
_NOT_IN_PROTOCOL = {
    "asyncio",
    "os",
    "select",
    "selectors",
    "signal",
    "socket",
    "subprocess",
    "threading",
    "time",
}


def _violations(package: Path) -> list[str]:
    """Every import below `package`, a folder called nodecompat, that the layering forbids."""
    modules = {_module_name(path, package): path for path in sorted(package.rglob("*.py"))}
    found: list[str] = []
    for name, path in modules.items():
        part = _part(name)
        if part not in _MAY_IMPORT:
            found.append(f"{name} belongs to no layer: give {part!r} one in _MAY_IMPORT")
            continue
        for line, imported in _imports(name, path, modules):
            where = f"{path.relative_to(package.parent)}:{line}"
            top = imported.partition(".")[0]
            if top != "nodecompat":
                forbidden = part == "protocol" and top in _NOT_IN_PROTOCOL
            else:
                forbidden = _part(imported) not in _MAY_IMPORT[part] | {part}
            if forbidden:
                found.append(f"{where}: {name} imports {imported}")
    return found


def _module_name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _part(module: str) -> str:
    return [*module.split("."), ""][1]


def _imports(name: str, path: Path, modules: dict[str, Path]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_bytes(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # From nodecompat/sync/__init__.py one dot leads to nodecompat.sync itself.
            parents = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
            above = parents[: len(parents) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{source}.{alias.name}"
                # `from nodecompat import sync` is nodecompat.sync; any other name is the root's.
                yield node.lineno, submodule if _is_module(submodule, modules) else source


def _is_module(name: str, modules: dict[str, Path]) -> bool:
    return any(known == name or known.startswith(f"{name}.") for known in modules)


def test_imports_point_one_way() -> None:
    found = _violations(_PACKAGE)
    assert not found, "\n".join(found)
    # An empty folder would pass as well.
    assert (_PACKAGE / "errors.py").is_file()


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("protocol/a.py", "import socket", "nodecompat.protocol.a imports socket"),
        ("protocol/a.py", "from os.path import join", "nodecompat.protocol.a imports os.path"),
        (
            "protocol/a.py",
            "def f():\n    import asyncio.events",
            "a.py:2: nodecompat.protocol.a imports asyncio.events",
        ),
        (
            "protocol/a.py",
            "from nodecompat.transport import unix",
            "nodecompat.protocol.a imports nodecompat.transport",
        ),
        (
            "protocol/a.py",
            "from ..transport.b import x",
            "nodecompat.protocol.a imports nodecompat.transport.b",
        ),
        (
            "transport/a.py",
            "import nodecompat.protocol",
            "nodecompat.transport.a imports nodecompat.protocol",
        ),
        ("errors.py", "from . import node", "nodecompat.errors imports nodecompat.node"),
        (
            "connection.py",
            "from nodecompat import sync",
            "nodecompat.connection imports nodecompat.sync",
        ),
        ("node.py", "from nodecompat import BigInt", "nodecompat.node imports nodecompat"),
        (
            "asyncio/a.py",
            "from nodecompat.sync.channel import Channel",
            "nodecompat.asyncio.a imports nodecompat.sync.channel",
        ),
        (
            "asyncio/__init__.py",
            "from .. import sync",
            "nodecompat.asyncio imports nodecompat.sync",
        ),
        (
            "sync/a.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nodecompat.asyncio",
            "nodecompat.sync.a imports nodecompat.asyncio",
        ),
        (
            "process.py",
            "from nodecompat.asyncio import fork",
            "nodecompat.process imports nodecompat.asyncio",
        ),
        ("__init__.py", "from nodecompat.cli import main", "nodecompat imports nodecompat.cli"),
        ("new.py", "", "nodecompat.new belongs to no layer"),
    ],
)
def test_wrong_import_is_found(tmp_path: Path, path: str, source: str, expected: str) -> None:
    package = _allowed_tree(tmp_path)
    assert _violations(package) == []
    (package / path).write_text(source)
    (found,) = _violations(package)
    assert expected in found


def _allowed_tree(top: Path) -> Path:
    package = top / "nodecompat"
    tree = {
        "__init__.py": "from nodecompat.protocol.a import x\nfrom nodecompat import process",
        "__main__.py": "from nodecompat.cli import main",
        "errors.py": "import os",
        "node.py": "from nodecompat.errors import x",
        "connection.py": "import time\nfrom nodecompat import node\nfrom .transport.b import x",
        "process.py": "import nodecompat.sync",
        "protocol/__init__.py": "from .a import x",
        "protocol/a.py": "import json\nfrom nodecompat import errors\nfrom . import x",
        "transport/b.py": "import os, socket\nfrom ..errors import x",
        "sync/__init__.py": "import threading\nfrom nodecompat.connection import x",
        "asyncio/__init__.py": "import asyncio\nfrom .. import connection",
        "cli/__init__.py": "from nodecompat import asyncio, undefined",
    }
    for path, source in tree.items():
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_text(source)
    return package


def _loaded(module: str) -> set[str]:
    """The modules that a fresh interpreter has after importing one of ours."""
    code = "import json, sys; __import__(sys.argv[1]); print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code, module],
        cwd=_PACKAGE.parent,
        stdout=subprocess.PIPE,
        check=True,
        timeout=30,
    )
    return set(json.loads(done.stdout))


_NOT_LOADED = {"asyncio", "click", "rich", "nodecompat.asyncio", "nodecompat.cli"}


@pytest.mark.parametrize("module", ["nodecompat", "nodecompat.process", "nodecompat.sync"])
def test_import_loads_no_loop_and_no_command_line(module: str) -> None:
    loaded = _loaded(module)
    assert module in loaded
    assert not loaded & _NOT_LOADED


def test_loading_is_noticed() -> None:
    assert _loaded("asyncio") & _NOT_LOADED == {"asyncio"}
    assert _loaded("rich") & _NOT_LOADED == {"rich"}
