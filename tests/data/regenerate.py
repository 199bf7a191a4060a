"""Makes v8-vectors.json anew: what real Nodes put on a channel for the values in v8_cases.py.

    python -m tests.data.regenerate NODE...

Each NODE is an executable; the vectors are of those and no others. The frames are those of Node's
own channel, without their lengths, in the order of the cases.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.v8_cases import CASES, Case

FILE: Final = Path(__file__).with_name("v8-vectors.json")
_PROGRAM: Final = Path(__file__).parents[2] / "js-fixtures" / "make-v8-vectors.cjs"


def main(nodes: list[str]) -> None:
    """Run every Node and write the file."""
    if not nodes:
        sys.exit(__doc__)
    versions: dict[str, str] = {}
    frames: dict[str, dict[str, list[str]]] = {case.id: {} for case in CASES}
    for node in nodes:
        version = subprocess.check_output([node, "--version"], text=True).strip()
        major = version[1:].partition(".")[0]
        versions[major] = version
        cases = [case for case in CASES if case.sent_since <= int(major)]
        for case, frame in zip(cases, capture(node, cases), strict=True):
            frames[case.id].setdefault(frame.hex(), []).append(major)
    content = {
        "about": "Made by regenerate.py: what each case is in an array, as which Nodes send it.",
        "nodes": versions,
        "vectors": {
            case.id: {frame: " ".join(majors) for frame, majors in frames[case.id].items()}
            for case in CASES
            if not any(len(frame) > 2 * _MAX_FRAME for frame in frames[case.id])
        },
    }
    FILE.write_text(json.dumps(content, indent=1) + "\n")


# A large buffer is tested against Node itself.
_MAX_FRAME: Final = 8192


def capture(node: str, cases: list[Case]) -> list[bytes]:
    """What a Node sends for each case; raises RuntimeError when it cannot send them all."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(30)
        environment = {
            **os.environ,
            "NODE_CHANNEL_FD": str(theirs.fileno()),
            "NODE_CHANNEL_SERIALIZATION_MODE": "advanced",
        }
        with subprocess.Popen(
            [node, "--no-warnings", str(_PROGRAM)],
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            theirs.close()
            assert process.stdin is not None
            assert process.stdout is not None
            with process.stdin as stdin:
                stdin.write(json.dumps([[case.id, case.js] for case in cases]).encode())
            captured = list(_frames(ours))
            sent: Any = json.loads(process.stdout.read())
    missing = {case.id for case in cases}.difference(sent)
    if missing:
        raise RuntimeError(f"{node} cannot send {', '.join(sorted(missing))}")
    return captured


def _frames(channel: socket.socket) -> Iterator[bytes]:
    with channel.makefile("rb") as stream:
        while header := stream.read(4):
            yield stream.read(int.from_bytes(header, "big"))


if __name__ == "__main__":
    main(sys.argv[1:])
