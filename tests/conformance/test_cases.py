"""Case files: what they give, and that each mistake is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.cases import load_cases, load_file, select
from conformance.documents import DocumentError

_GOOD = """\
id: area/{slug}
requirement: It works.
source: somewhere
level: must
parent:
  do:
    - open: {{name: c, kind: tcp-connection}}
    - send: no
      handle: c
    - wait: exit
  sees:
    - unordered: [{{exit: 0}}, disconnect]
child:
  do:
    - close: in1
  sees:
    - message: "no"
      handle: tcp-connection
    - disconnect
"""


def _file(folder: Path, text: str, name: str = "area.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def _good(slug: str = "one") -> str:
    return _GOOD.format(slug=slug)


def test_a_case(tmp_path: Path) -> None:
    path = _file(tmp_path, _good() + "---\n" + _good("two").replace("must", "info"))
    one, two = load_file(path)
    assert (one.id, one.area, one.modes, one.limit) == (
        "area/one",
        "area",
        ("json", "advanced"),
        10,
    )
    # YAML 1.1 would read it as false.
    assert one.parent.steps[1] == {"send": "no", "handle": "c"}
    assert one.child.sees[0] == {"message": "no", "handle": "tcp-connection"}
    assert (two.level, two.where) == ("info", f"{path}:21")


@pytest.mark.parametrize(
    ("old", "new", "line", "text"),
    [
        ("    - wait: exit", "    - wiat: exit", 10, "unknown step 'wiat': did you mean 'wait'?"),
        ("    - wait: exit", "    - disconect", 10, "unknown step 'disconect'"),
        ("    - wait: exit", "    - send", 10, "the step 'send' needs a value"),
        ("    - wait: exit", "    - disconnect: 1", 10, "takes no value"),
        ("    - wait: exit", "    - wait: {message: 1}", 10, "{messages: N}"),
        ("    - wait: exit", "    - wait: {sent: a}", 10, "no send before this"),
        ("    - wait: exit", "    - check_fds", 10, "needs mark_fds"),
        ("    - wait: exit", "    - bytes: {text: a}", 10, "unknown step 'bytes'"),
        ("    - wait: exit", "    - {times: 2, send: 1}", 10, "is it 'send'?"),
        ("    - disconnect\n", "    - {handle: udp4, message: 1}\n", 19, "'message' is to be the"),
        ("    - wait: exit", "    - send: {$: n}", 10, "sent several times"),
        ("    - wait: exit", "    - send: {$: dat}", 10, "did you mean 'date'?"),
        ("    - wait: exit", "    - close: d", 10, "'d' is not opened"),
        ("    - wait: exit", "    - close: in1", 10, "in1 never comes"),
        ("    - close: in1", "    - wait: exit", 15, "a child cannot wait for an exit"),
        ("    - close: in1", "    - kill: SIGTERM", 15, "nobody to kill"),
        ("      handle: c\n", "      handel: c\n", 9, "unknown key 'handel'"),
        ("kind: tcp-connection", "kind: tcp", 7, "\"tcp\" is not known"),
        ("name: c,", "name: in1,", 7, "name of a handle that comes"),
        ("    - disconnect\n", "    - disconnected\n", 19, "unknown observation"),
        ("    - disconnect\n", "    - exit: 0\n", 19, "a child observes no exit"),
        ("[{exit: 0}, disconnect]", "[{exits: 0}, disconnect]", 12, "unknown observation 'exits'"),
        ("    - unordered:", "    - unorderd:", 12, "did you mean 'unordered'?"),
        ("level: must", "level: most", 4, "\"most\" is not known"),
        ("level: must", "levl: must", 4, "unknown key 'levl'"),
        ("source: somewhere\n", "", 1, "the key 'source' is missing"),
        ("level: must", "level: must\nlevel: must", 5, "there twice"),
        ("level: must", "level: must\nnode: '16'", 5, "a range of major versions"),
        ("id: area/one", "id: other/one", 1, "belongs into other.yaml"),
        ("id: area/one", "id: One", 1, "AREA/slug"),
        ("  do:\n    - close: in1", "  raw: true\n  do:\n    - send: 1", 16, "unknown step 'send'"),
        ("level: must", "level: [must", 5, "expected ',' or ']'"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path: Path, old: str, new: str, line: int, text: str) -> None:
    assert old in _good()
    path = _file(tmp_path, _good().replace(old, new, 1))
    with pytest.raises(DocumentError) as caught:
        load_file(path)
    assert any(
        problem.startswith(f"{path}:{line}: ") and text in problem
        for problem in caught.value.problems
    ), caught.value.problems


def test_used_before_it_is_opened(tmp_path: Path) -> None:
    opened = "    - open: {name: c, kind: tcp-connection}\n"
    text = _good().replace(opened, "").replace("    - wait: exit\n", opened)
    with pytest.raises(DocumentError, match=r":8: 'c' is used before it is opened"):
        load_file(_file(tmp_path, text))


def test_ids_are_there_once(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r":21: the id 'area/one' is taken: by line 1"):
        load_file(_file(tmp_path, _good() + "---\n" + _good()))


def test_both_raw(tmp_path: Path) -> None:
    text = (
        "id: area/a\nrequirement: r\nsource: s\nlevel: must\n"
        "parent: {raw: true, do: [], sees: []}\nchild: {raw: true, do: [], sees: []}\n"
    )
    with pytest.raises(DocumentError, match="both sides are raw"):
        load_file(_file(tmp_path, text))


def test_mistakes_of_all_files_at_once(tmp_path: Path) -> None:
    _file(tmp_path, _good().replace("must", "most"))
    _file(tmp_path, _good(), "other.yaml")
    with pytest.raises(DocumentError) as caught:
        load_cases(tmp_path)
    assert len(caught.value.problems) == 2


def test_a_folder_without_cases(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="there is no case here"):
        load_cases(tmp_path)


def test_selectors(tmp_path: Path) -> None:
    cases = load_file(_file(tmp_path, _good() + "---\n" + _good("two")))
    assert [case.id for case in select(cases, ["area/t*"])] == ["area/two"]
    assert select(cases, ["area"]) == select(cases, []) == cases
    with pytest.raises(ValueError, match="did you mean 'area/two'"):
        select(cases, ["area/tow"])


def test_node_ranges(tmp_path: Path) -> None:
    text = _good().replace("level:", "node: '>=14 <20'\nlevel:")
    (case,) = load_file(_file(tmp_path, text))
    assert [major for major in (12, 14, 18, 20) if case.allows_node(major)] == [14, 18]
