"""The V8 codec and Node's v8 module, side by side on the same values.

    python -m benchmarks.v8_codec [--node PATH] [--rounds N] [--json FILE]

Both sides are measured in turns, warm, and each figure is the best of its rounds. A goal that is
missed is marked, and no failure.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from nodecompat.node import find_node
from nodecompat.protocol.js_types import Map
from nodecompat.protocol.v8_codec import decode, encode

_PROGRAM: Final = Path(__file__).with_suffix(".cjs")
_ROUND: Final = 0.05


@dataclass(frozen=True)
class Workload:
    """A value on both sides, and the most times Node's own time that writing it may take."""

    name: str
    js: str
    value: Any
    goal: float | None = None


_DATE: Final = datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC)


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


WORKLOADS: Final = (
    Workload(
        "small message",
        "({id: 1, name: 'x', tags: ['a', 'b'], ok: true})",
        {"id": 1, "name": "x", "tags": ["a", "b"], "ok": True},
        goal=3,
    ),
    Workload(
        "200 records",
        "Array.from({length: 200}, (_, i) => ({id: i, name: `user ${i}`,"
        " email: `user${i}@example.com`, active: i % 2 === 0, score: i * 1.5, tags: ['a', 'b']}))",
        [
            {
                "id": i,
                "name": f"user {i}",
                "email": f"user{i}@example.com",
                "active": i % 2 == 0,
                "score": i * 1.5,
                "tags": ["a", "b"],
            }
            for i in range(200)
        ],
        goal=12,
    ),
    Workload(
        "10,000 integers",
        "[...Array(10000).keys()].map((i) => i * 7)",
        [i * 7 for i in range(10_000)],
    ),
    Workload(
        "10,000 floats", "[...Array(10000).keys()].map(Math.sqrt)", [*map(math.sqrt, range(10_000))]
    ),
    Workload(
        "1,000 two-byte strings",
        r"[...Array(1000).keys()].map((i) => `\u20ac ${i}`)",
        [f"€ {i}" for i in range(1000)],
    ),
    Workload(
        "Map of 100 Dates",
        "new Map([...Array(100).keys()].map((i) => [i, new Date(1709208000000)]))",
        Map({i: _DATE + datetime.timedelta(0) for i in range(100)}),
    ),
    Workload("100 deep", "Array(100).fill().reduce((inner) => [inner], 1)", _nested(100)),
    Workload("string of 1 MiB", "'x'.repeat(2 ** 20)", "x" * 2**20),
    Workload("Buffer of 1 MiB", "Buffer.alloc(2 ** 20)", bytes(2**20)),
)


def best(call: Callable[[], Any], seconds: float) -> float:
    """The least time that one call took, in seconds; runs as v8_codec.cjs does."""
    end = time.perf_counter() + seconds
    calls, least = 1, math.inf
    while True:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        now = time.perf_counter()
        if now - start < 1e-3:
            calls *= 2
        else:
            least = min(least, (now - start) / calls)
        if now > end and least < math.inf:
            return least


def measure(node: str, rounds: int) -> list[dict[str, Any]]:
    """A row for each workload: times in seconds of one call."""
    rows: list[dict[str, Any]] = []
    with subprocess.Popen(
        [node, str(_PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for workload in WORKLOADS:
            value = workload.value
            frame = encode(value)
            whole = frame if isinstance(frame, bytes) else b"".join(frame)
            row: dict[str, Any] = {"name": workload.name, "goal": workload.goal}
            for _ in range(rounds):
                asked = {"expression": workload.js, "seconds": _ROUND}
                process.stdin.write(json.dumps(asked) + "\n")
                process.stdin.flush()
                theirs = json.loads(process.stdout.readline())
                figures = {
                    "encode": best(partial(encode, value), _ROUND),
                    "decode": best(partial(decode, whole), _ROUND),
                    "node encode": theirs["encode"],
                    "node decode": theirs["decode"],
                }
                for name, figure in figures.items():
                    row[name] = min(row.get(name, math.inf), figure)
                row["bytes"] = len(whole)
                row["node bytes"] = theirs["size"]
            rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table of the rows."""
    print(f"{'':24}{'encode, µs':>24}{'times':>9}{'goal':>6}{'decode, µs':>24}{'times':>8}")
    print(f"{'':24}{'Python':>12}{'Node':>12}{'':>15}{'Python':>12}{'Node':>12}")
    for row in rows:
        encoded, decoded = row["encode"] / row["node encode"], row["decode"] / row["node decode"]
        goal = row["goal"]
        missed = "!" if goal is not None and encoded > goal else " "
        print(
            f"{row['name']:24}{row['encode'] * 1e6:12.2f}{row['node encode'] * 1e6:12.2f}"
            f"{encoded:8.1f}{missed}{'' if goal is None else f'{goal:g}':>6}"
            f"{row['decode'] * 1e6:12.2f}{row['node decode'] * 1e6:12.2f}{decoded:8.1f}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.v8_codec")
    parser.add_argument("--node", help="the Node to compare with; else as `fork` finds it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    given = parser.parse_args()
    node = given.node or find_node().path
    version = subprocess.check_output([node, "--version"], text=True).strip()
    print(f"Python {platform.python_version()}, Node {version}, {platform.machine()}")
    rows = measure(node, given.rounds)
    show(rows)
    if given.json:
        given.json.write_text(json.dumps({"node": version, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
