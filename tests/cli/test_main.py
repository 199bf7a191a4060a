"""The command line as a whole: ``main``, ``python -m nodecompat`` and the missing extra."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.conftest import LIMIT, Program


def run_code(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT, check=False
    )


def test_help_names_every_command(program: Program) -> None:
    done = program.run("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for command in ("demo", "fork", "doctor"):
        assert f"\n  {command} " in done.stdout


def test_no_command_is_a_wrong_command_line(program: Program) -> None:
    done = program.run()
    assert done.returncode == 2
    assert "Usage: nodecompat" in done.stderr


def test_an_unknown_command_is_named(program: Program) -> None:
    done = program.run("frok")
    assert done.returncode == 2
    assert "frok" in done.stderr


def test_version(program: Program) -> None:
    done = program.run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("nodecompat")


def test_main_is_the_same_program(program: Program) -> None:
    code = "import sys; from nodecompat.cli import main; sys.exit(main(['fork', '--help']))"
    done = run_code(code)
    assert done.returncode == 0
    assert done.stdout == program.run("fork", "--help").stdout


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra(missing: str) -> None:
    done = run_code(
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from nodecompat.cli import main; sys.exit(main(['doctor']))"
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"nodecompat: the command line needs {missing}: pip install 'nodecompat[cli]'\n"
    )


def test_another_missing_module_is_not_taken_for_the_extra() -> None:
    done = run_code(
        "import sys; sys.modules['nodecompat.cli.fork'] = None\n"
        "from nodecompat.cli import main; sys.exit(main(['doctor']))"
    )
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr
    assert "pip install" not in done.stderr


def test_the_module_itself_needs_no_extra() -> None:
    done = run_code(
        "import sys, nodecompat.cli; sys.exit('click' in sys.modules or 'rich' in sys.modules)"
    )
    assert (done.returncode, done.stderr) == (0, "")
