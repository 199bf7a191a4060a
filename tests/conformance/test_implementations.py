"""Descriptions of implementations."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from conformance.documents import DocumentError
from conformance.implementations import load_implementations, version_of
from conformance.install import InstallError


def _file(folder: Path, text: str) -> Path:
    path = folder / "more.yaml"
    path.write_text(text)
    return path


def test_those_of_the_suite() -> None:
    known = load_implementations()
    assert {"node12", "node26", "bun", "deno", "nodecompat-process"} <= set(known)
    assert known["nodecompat-process"].roles == ("child",)
    assert known["nodecompat-sync"].problem is None
    assert known["node22"].node == 22


def test_placeholders(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        "- name: mine\n"
        "  command: ['{python}', '{here}/peer.py']\n"
        "  env: {A: '{here}'}\n"
        "  version: ['{python}', '-c', 'import os; print(os.environ[\"A\"])']\n"
        "  roles: [child]\n  modes: [json]\n",
    )
    mine = load_implementations([path])["mine"]
    assert mine.command == (sys.executable, f"{tmp_path}/peer.py")
    assert version_of(mine) == str(tmp_path)


def test_what_is_not_there_is_no_mistake(tmp_path: Path) -> None:
    path = _file(tmp_path, "- {name: a, command: [no-such], roles: [child], modes: [json]}\n")
    assert load_implementations([path])["a"].problem == "there is no program no-such"


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("{name: bun, command: [a], roles: [child], modes: [json]}", ":1: 'bun' is taken"),
        ("{name: raw, command: [a], roles: [child], modes: [json]}", ":1: 'raw' is taken"),
        ("{name: a, command: ['{prog}'], roles: [child], modes: [json]}", "stands for nothing"),
        ("{name: a, command: ['{program}'], roles: [child], modes: [json]}", "without install:"),
        ("{name: a, install: x, command: [a], roles: [child], modes: [json]}", "'x' cannot be"),
        ("{name: a, command: [a], roles: [childs], modes: [json]}", '"childs" is not known'),
        ("{name: a, command: [], roles: [child], modes: [json]}", "expected a list of strings"),
    ],
)
def test_mistakes(tmp_path: Path, entry: str, text: str) -> None:
    with pytest.raises(DocumentError) as caught:
        load_implementations([_file(tmp_path, f"- {entry}\n")])
    assert text in str(caught.value)


def test_a_version_that_fails(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        "- {name: a, command: ['{python}'], version: ['{python}', '-c', 'exit(\"no\")'], "
        "roles: [child], modes: [json]}\n",
    )
    with pytest.raises(InstallError, match="a: its version command ended with 1: no"):
        version_of(load_implementations([path])["a"])
