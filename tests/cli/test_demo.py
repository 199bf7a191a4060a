"""``nodecompat demo``, on real processes."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import LIMIT, Program, script

PARTS = 5


def test_every_part_passes(program: Program) -> None:
    done = program.run("demo")
    assert done.stderr == ""
    assert done.returncode == 0, done.stdout
    assert f"all {PARTS} parts passed" in done.stdout
    assert done.stdout.count("passed in ") == PARTS
    # Both of them speak, in both parts.
    for said in (
        'Node ──▶ Python  {"do": "introduce"}',
        "Node ◀── Python  {",
        'Python ──▶ Node    {"do": "introduce"}',
        "Python ◀── Node    {",
        "Python ◀── Node 4  {",
        # A server and a connection, each way.
        ", which Python opened, reads: Hello from Node",
        ", which Node opened, reads: Hello from Python",
        "that Python accepted reads: Hello from Node",
        "that Node had connected to reads: Hello from Python",
        # In advanced mode.
        "Python ◀── Node    {'date': datetime.datetime(2026, 1, 2, 3, 4, 5, 678000, ",
        'Python ◀── Node    {"same": true}',
    ):
        assert said in done.stdout
    version = subprocess.run(
        [program.node, "--version"], capture_output=True, text=True, timeout=LIMIT, check=True
    ).stdout.strip()
    assert f"Node {version}" in done.stdout
    assert "s in all" in done.stdout


def test_plain_and_whole_without_a_terminal(program: Program) -> None:
    done = program.run("demo")
    assert "\x1b" not in done.stdout
    assert done.stdout.count('"Grüße, 世界 🐍", "nested": [null, true, -0.5, {"empty": []}]}') == 4


def test_colour_and_cut_lines_on_a_terminal(program: Program) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "nodecompat", "demo"],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=program.env(TERM="xterm-256color"),
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:
            # Linux ends a terminal that nobody holds any more with EIO.
            pass
        finally:
            os.close(ours)
        assert process.wait(LIMIT) == 0, shown.decode()
    assert b"\x1b[1m" in shown
    assert b'{"empty": []}]}}' not in shown
    assert "…\x1b".encode() in shown or "…\r\n".encode() in shown


def test_the_output_of_ascii_terminals(program: Program) -> None:
    done = program.run("demo", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "Node --> Python" in done.stdout


def test_from_another_folder(program: Program, tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "nodecompat", "demo"],
        capture_output=True,
        timeout=LIMIT,
        cwd=tmp_path,
        env=program.env(PYTHONPATH=root),
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()


def test_no_node(program: Program, tmp_path: Path) -> None:
    done = program.run("demo", NODECOMPAT_NODE=str(tmp_path / "none"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert str(tmp_path / "none") in done.stderr


def test_a_node_that_fails(program: Program, tmp_path: Path) -> None:
    broken = script(tmp_path / "node", r"printf '\033[31mout of order\033[0m\n' >&2; exit 3")
    done = program.run("demo", NODECOMPAT_NODE=broken)
    assert done.returncode == 1
    assert f"{PARTS} of {PARTS} parts failed: 1, 2, 3, 4, 5" in done.stdout
    assert done.stdout.count("| out of order") >= PARTS
    assert "ended with status 3" in done.stdout
    assert "\x1b" not in done.stdout
    assert "bug" not in done.stdout


def test_a_python_child_that_fails(program: Program, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if sys.orig_argv[-1].endswith('child.py'):\n"
        "    print('not this one', file=sys.stderr, flush=True)\n"
        "    os._exit(4)\n"
    )
    done = program.run("demo", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert f"1 of {PARTS} parts failed: 1" in done.stdout
    assert "the Python child disconnected and ended with status 4" in done.stdout
    assert "| not this one" in done.stdout


def test_a_node_that_hangs(program: Program, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    hanging = script(tmp_path / "node", f"echo $$ >> {pids}; exec sleep 300")
    done = program.run("demo", "--timeout", "0.5", NODECOMPAT_NODE=hanging)
    assert done.returncode == 1
    assert done.stdout.count("not done within 0.5 s") == PARTS
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) >= PARTS
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_interrupted(program: Program, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    hanging = script(tmp_path / "node", f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 300")
    # A shell starts what it puts in the background with SIGINT ignored, these tests perhaps.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    with program.start("demo", "--exec-path", hanging, setup=heard) as process:
        deadline = time.monotonic() + LIMIT
        while not pid.exists():
            assert time.monotonic() < deadline, "nothing was started"
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert stderr.decode().split() == ["nodecompat:", "interrupted"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
