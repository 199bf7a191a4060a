"""Known differences: which runs they explain."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.cases import load_file
from conformance.deviations import FILE, Deviation, find, load_deviations
from conformance.documents import DocumentError

_CASE = """\
id: area/one
requirement: r
source: s
level: must
parent: {do: [], sees: []}
child: {do: [], sees: []}
"""


def _load(folder: Path, text: str) -> list[Deviation]:
    (folder / "area.yaml").write_text(_CASE)
    path = folder / "deviations.yaml"
    path.write_text(text)
    return load_deviations(path, ["bun", "node20"], load_file(folder / "area.yaml"))


@pytest.mark.parametrize(
    ("entry", "explains"),
    [
        ("impl: bun", {"pc", "cp"}),
        ("impl: bun, role: child", {"cp"}),
        ("impl: bun, role: parent", {"pc"}),
        ("impl: [no*, bun], role: child", {"pc", "cp"}),
        ("impl: bun, counterpart: bun", set[str]()),
        ("impl: bun, modes: [advanced]", set[str]()),
    ],
)
def test_explains(tmp_path: Path, entry: str, explains: set[str]) -> None:
    found = _load(tmp_path, f"- {{{entry}, cases: [area/*], reason: r}}\n")
    runs = {"pc": ("bun", "node20"), "cp": ("node20", "bun")}
    assert {key for key, pair in runs.items() if find(found, "area/one", "json", *pair)} == explains
    assert find(found, "other/one", "json", "bun", "node20") is None


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("impl: bum, cases: [area/one], reason: r", ":1: no implementation is called 'bum'"),
        ("impl: bun, cases: [area/two], reason: r", ":1: no case is called 'area/two'"),
        ("impl: bun, cases: [area/one]", "the key 'reason' is missing"),
        ("impl: bun, cases: [area/one], reason: r, upstream: x", "the address of an issue"),
    ],
)
def test_mistakes(tmp_path: Path, entry: str, text: str) -> None:
    with pytest.raises(DocumentError) as caught:
        _load(tmp_path, f"- {{{entry}}}\n")
    assert text in str(caught.value)


def test_the_file_of_the_suite_is_there() -> None:
    assert FILE.is_file()
