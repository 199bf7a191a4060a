"""The Python child of ``nodecompat demo``: answers what its Node parent asks."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from typing import Any

from nodecompat import NotForked
from nodecompat.sync import connect_parent


def answer(message: dict[str, Any]) -> Any:
    match message["do"]:
        case "introduce":
            return {"python": platform.python_version(), "pid": os.getpid()}
        case "echo":
            return message["value"]
        case "statistics":
            numbers = message["numbers"]
            return {"mean": statistics.fmean(numbers), "median": statistics.median(numbers)}
        case unknown:
            raise ValueError(f"the parent asked for {unknown!r}, which this child does not know")


def main() -> None:
    try:
        parent = connect_parent()
    except NotForked as error:
        sys.exit(f"child.py is started by `nodecompat demo`: {error}")
    with parent:
        for message in parent:
            parent.send(answer(message))


if __name__ == "__main__":
    main()
