"""``nodecompat doctor``, with a Node that works and with some that do not."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

from tests.cli.conftest import LIMIT, Program, script


def test_what_works_here(program: Program) -> None:
    done = program.run("doctor")
    version = subprocess.run(
        [program.node, "--version"], capture_output=True, text=True, timeout=LIMIT, check=True
    ).stdout.strip()
    assert done.stderr == ""
    assert done.returncode == 0
    for text in (version, program.node, "NODECOMPAT_NODE", platform.python_version(), "orjson"):
        assert text in done.stdout
    for check in ("Node as a child", "Node as a parent"):
        assert f"ok {check}" in done.stdout
    assert "nodecompat works here" in done.stdout


def test_advanced_mode(program: Program) -> None:
    assert "ok advanced mode" in program.run("doctor").stdout


def test_no_node(program: Program, tmp_path: Path) -> None:
    done = program.run("doctor", NODECOMPAT_NODE=str(tmp_path / "none"))
    assert done.returncode == 1
    assert "!! Node " in done.stdout
    assert str(tmp_path / "none") in done.stdout
    assert "does not work" in done.stdout


def test_exec_path_goes_first(program: Program, tmp_path: Path) -> None:
    missing = str(tmp_path / "none")
    assert program.run("doctor", "--exec-path", missing).returncode == 1
    done = program.run("doctor", "--exec-path", program.node, NODECOMPAT_NODE=missing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_node_that_does_not_start(program: Program, tmp_path: Path) -> None:
    broken = script(tmp_path / "node", "echo no libstdc++ here >&2; exit 3")
    done = program.run("doctor", NODECOMPAT_NODE=broken)
    assert done.returncode == 1
    assert "status 3" in done.stdout
    assert "no libstdc++ here" in done.stdout
    assert "to mend it:" in done.stdout


def test_a_node_that_does_not_answer(program: Program, tmp_path: Path) -> None:
    text = 'test "$1" = --version && echo v22.0.0 && exit; echo out of order >&2; exit 3'
    done = program.run("doctor", NODECOMPAT_NODE=script(tmp_path / "node", text))
    assert done.returncode == 1
    assert "ok Node " in done.stdout
    assert "!! Node as a child" in done.stdout
    assert "!! Node as a parent" in done.stdout
    assert "-- advanced mode" in done.stdout
    assert "out of order" in done.stdout


def test_a_node_that_is_too_old(program: Program, tmp_path: Path) -> None:
    text = f'test "$1" = --version && echo v10.24.1 && exit; exec {program.node} "$@"'
    done = program.run("doctor", NODECOMPAT_NODE=script(tmp_path / "node", text))
    assert done.returncode == 1
    assert "older than 12" in done.stdout


def test_the_output_of_ascii_terminals(program: Program) -> None:
    done = program.run("doctor", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()


def test_node_options_are_told(program: Program) -> None:
    assert "NODE_OPTIONS" not in program.run("doctor").stdout
    done = program.run("doctor", NODE_OPTIONS="--no-deprecation")
    assert done.returncode == 0
    assert "--no-deprecation" in done.stdout
