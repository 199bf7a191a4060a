"""Every example of examples/, run as its README says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.programs import CHECKOUT, Reader

_PRINTED = {
    "node examples/child/parent.mjs": "{ sum: 6 }\n",
    "python examples/parent/main.py": "{'slug': 'hello-from-python'}\n",
    "python examples/script/main.py": ("{'step': 1}\n{'step': 2}\n{'step': 3}\nexit code 0\n"),
    "node examples/listener/parent.mjs": ("{ echo: { hello: 'world' } }\nthe parent has gone\n"),
    "node examples/advanced/parent.mjs": "2 true 1 4 7 1970-01-02T00:00:00.000Z\n",
    "python examples/handover/main.py": (
        "Hello, a client of Python! This is Node.\nclosed here: True\n"
    ),
    "node examples/handover/parent.mjs": "Hello, a client of Node! This is Python.\n",
    "node examples/servers/parent.mjs asyncio_worker.py": "Hello from asyncio\n",
    "node examples/servers/parent.mjs socketserver_worker.py": "Hello from socketserver\n",
    "node examples/servers/parent.mjs http_worker.py": "Hello from http.server\n",
    "node examples/servers/parent.mjs uvicorn_worker.py": "Hello from uvicorn\n",
}

_README = (CHECKOUT / "examples" / "README.md").read_text()


@pytest.mark.parametrize("command", _PRINTED)
def test_example_prints(command: str, node: str, tmp_path: Path) -> None:
    assert Reader(node, tmp_path).run(command.split(), CHECKOUT) == _PRINTED[command]


def test_every_command_of_the_readme_is_run() -> None:
    assert set(re.findall(r"`((?:node|python) [^`]+)`", _README)) == set(_PRINTED)


def test_every_file_is_in_the_readme() -> None:
    folder = CHECKOUT / "examples"
    files = {
        path.relative_to(folder).as_posix()
        for pattern in ("*.py", "*.js", "*.mjs", "*.cjs", "*.ts")
        for path in folder.rglob(pattern)
    }
    first_cells = "".join(re.findall(r"^\|[^|]*", _README, re.MULTILINE))
    assert files == set(re.findall(r"`([^`]+)`", first_cells))
