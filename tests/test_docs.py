"""The README and the pages of docs/: what they show is run, what they list is compared.

Comments in a page say what follows. The block or the table comes in the next line:

``<!-- examples/child/worker.py -->``
    A copy of that file. ``test_examples.py`` runs it.
``<!-- file: worker.py -->``
    A program, written to a folder of the page's own.
``<!-- run: node parent.mjs -->``
    A ``text`` block: what that command prints, exactly, with the files above it.
``<!-- names -->``
    Python that the tables of the page use.
``<!-- table: options -->``
    A table that a test here compares with the code or with a real Node.
"""

from __future__ import annotations

import functools
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

import nodecompat
from nodecompat import asyncio as asyncio_way
from nodecompat import errors, process
from nodecompat import sync as sync_way
from nodecompat.launch import ChildProcess
from nodecompat.protocol import js_types
from tests.programs import CHECKOUT, Reader
from tests.v8_cases import same

_README = CHECKOUT / "README.md"
_GUIDE = CHECKOUT / "docs" / "guide.md"
_JSON = CHECKOUT / "docs" / "json.md"
_ADVANCED = CHECKOUT / "docs" / "advanced.md"
_PAGES = [_README, *sorted((CHECKOUT / "docs").glob("*.md"))]


def _name(page: Path) -> str:
    return page.relative_to(CHECKOUT).as_posix()


# ---------------------------------------------------------------------------------- the blocks


class _Block(NamedTuple):
    """A fenced block, and the comment in the line before it or ''."""

    line: int
    comment: str
    language: str
    text: str

    @property
    def file(self) -> str:
        """The name of the program that this block is, or ''."""
        return self.comment.removeprefix("file: ") if self.comment.startswith("file: ") else ""

    @property
    def command(self) -> list[str]:
        """The command whose output this block is, or none."""
        is_run = self.comment.startswith("run: ")
        return shlex.split(self.comment.removeprefix("run: ")) if is_run else []


_BLOCK: Final = re.compile(
    r"^(?:<!-- ([^\n]*) -->\n)?```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
_TABLE: Final = re.compile(r"^<!-- table: (\w+) -->\n((?:\|[^\n]*\n)+)", re.MULTILINE)


def _blocks(markdown: str) -> list[_Block]:
    return [
        _Block(markdown.count("\n", 0, match.start()) + 1, match[1] or "", match[2], match[3])
        for match in _BLOCK.finditer(markdown)
    ]


def _files_before(run: _Block, blocks: list[_Block]) -> dict[str, _Block]:
    """The programs as they are when a command runs: of two with one name, the later one."""
    return {block.file: block for block in blocks if block.file and block.line < run.line}


def _reached(run: _Block, blocks: list[_Block]) -> set[_Block]:
    """The programs that a command names, that those name, and so on."""
    files = _files_before(run, blocks)
    reached: set[_Block] = set()
    texts = [" ".join(run.command)]
    while texts:
        text = texts.pop()
        for name, block in files.items():
            if name in text and block not in reached:
                reached.add(block)
                texts.append(block.text)
    return reached


def _problems(markdown: str) -> Iterator[str]:
    """Why a block of a page is neither run nor a copy of what is run."""
    blocks = _blocks(markdown)
    if markdown.count("```") != 2 * len(blocks):
        yield "a fence that is not at the start of its line, or not closed"
    run: set[_Block] = set()
    for block in blocks:
        if block.command:
            run |= _reached(block, blocks)
    use_names = "sent" in dict(_TABLE.findall(markdown))
    names = [block for block in blocks if block.comment == "names" and use_names]
    for block in blocks:
        where = f"line {block.line}"
        if block.language not in ("python", "js", "text", "sh", ""):
            yield f"{where}: the language {block.language!r} is not known here"
        elif block.language not in ("python", "js"):
            if block.comment and not block.command:
                yield f"{where}: the comment {block.comment!r} is not known here"
        elif block.file and block not in run:
            yield f"{where}: no command runs {block.file}"
        elif not block.file and not block.comment.startswith("examples/") and block not in names:
            yield f"{where}: no comment says how to run this"


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_no_block_escapes(page: Path) -> None:
    assert list(_problems(page.read_text())) == []


@pytest.mark.parametrize(
    ("markdown", "problem"),
    [
        ("```python\npass\n```\n", "line 1: no comment says how to run this"),
        ("<!-- file: a.py -->\n\n```python\n```\n", "line 3: no comment says how to run this"),
        ("<!-- file: a.py -->\n```python\n```\n", "line 1: no command runs a.py"),
        (
            "<!-- run: python a.py -->\n```text\n```\n<!-- file: a.py -->\n```python\n```\n",
            "line 4: no command runs a.py",
        ),
        ("<!-- shown -->\n```text\n```\n", "line 1: the comment 'shown' is not known here"),
        ("```py\n```\n", "line 1: the language 'py' is not known here"),
        ("- ```python\n  pass\n  ```\n", "a fence that is not at the start of its line"),
    ],
)
def test_block_that_escapes_is_found(markdown: str, problem: str) -> None:
    (found,) = _problems(markdown)
    assert found.startswith(problem)


_COMMANDS = [
    pytest.param(page, block.line, id=f"{_name(page)}: {' '.join(block.command)}")
    for page in _PAGES
    for block in _blocks(page.read_text())
    if block.command
]


@pytest.mark.parametrize(("page", "line"), _COMMANDS)
def test_command_prints_what_the_page_shows(
    page: Path, line: int, node: str, tmp_path: Path
) -> None:
    blocks = _blocks(page.read_text())
    (run,) = [block for block in blocks if block.line == line]
    folder, path = tmp_path / "page", tmp_path / "path"
    folder.mkdir()
    path.mkdir()
    for name, block in _files_before(run, blocks).items():
        (folder / name).write_text(block.text)
    assert Reader(node, path).run(run.command, folder) == run.text


_COPIES = [
    pytest.param(block, id=f"{_name(page)}: {block.comment}")
    for page in _PAGES
    for block in _blocks(page.read_text())
    if block.comment.startswith("examples/")
]


@pytest.mark.parametrize("block", _COPIES)
def test_block_is_a_copy_of_its_file(block: _Block) -> None:
    assert block.text == (CHECKOUT / block.comment).read_text()


# ----------------------------------------------------------------------------------- the links

_LINKING = [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("[!.]*/*.md")]


def _anchors(markdown: str) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", _BLOCK.sub("", markdown), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted(_LINKING), ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    text = _BLOCK.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.is_file(), target
        assert not anchor or anchor in _anchors(file.read_text()), target


# ---------------------------------------------------------------------------------- the tables


def _table(page: Path, name: str) -> list[list[str]]:
    """The rows of a table, less its head."""
    (text,) = [match[2] for match in _TABLE.finditer(page.read_text()) if match[1] == name]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert len({len(row) for row in rows}) == 1, "the rows differ in their number of cells"
    return rows[2:]


def _code(cell: str) -> list[str]:
    """What stands in a cell as code."""
    return re.findall(r"`([^`]+)`", cell)


def _one_code(cell: str) -> str:
    (code,) = _code(cell)
    assert cell == f"`{code}`"
    return code


def test_every_table_is_compared() -> None:
    found = {
        page: sorted(match[1] for match in _TABLE.finditer(page.read_text())) for page in _PAGES
    }
    assert {page: tables for page, tables in found.items() if tables} == {
        _GUIDE: ["channel", "child", "errors", "options", "process"],
        _JSON: ["received", "refused", "sent"],
        _ADVANCED: ["formats", "received", "refused", "sent", "types", "unsendable"],
    }


def _as_listed(owner: object, name: str) -> str:
    """A member as the tables list it: a property by its name, a function with its parameters."""
    member = inspect.getattr_static(owner, name, None)
    if not inspect.isfunction(member):
        return name
    signature = inspect.signature(member)
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    return f"{name}{inspect.Signature(parameters)}"


def _public(names: object) -> set[str]:
    assert isinstance(names, (list, dict))
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("way", [sync_way, asyncio_way])
def test_table_of_options_has_the_parameters_of_fork(way: Any) -> None:
    names: dict[str, Any] = {"": inspect.Parameter.empty}
    listed = [
        (_one_code(name), names[""] if not default else eval(_one_code(default)))
        for name, default, _ in _table(_GUIDE, "options")
    ]
    parameters = inspect.signature(way.fork).parameters.values()
    assert listed == [(parameter.name, parameter.default) for parameter in parameters]


@pytest.mark.parametrize("way", [sync_way, asyncio_way])
def test_spawn_lacks_the_options_that_the_guide_names(way: Any) -> None:
    fork = inspect.signature(way.fork).parameters
    spawn = inspect.signature(way.spawn).parameters
    assert fork.keys() - spawn.keys() == {"module", "exec_path", "exec_argv", "silent"}
    assert spawn.keys() - fork.keys() == {"command"}
    assert spawn["stdio"].default == ("inherit", "inherit", "inherit", "ipc")


@pytest.mark.parametrize("way", [sync_way, asyncio_way])
def test_table_of_the_channel_has_its_members(way: Any) -> None:
    listed = {_one_code(row[0]) for row in _table(_GUIDE, "channel")}
    assert listed == {_as_listed(way.Channel, name) for name in _public(dir(way.Channel))}


def test_table_of_a_child_has_its_members() -> None:
    listed = {code for row in _table(_GUIDE, "child") for code in _code(row[0])}
    with sync_way.spawn(sys.executable, ["-I", "-S", "-c", ""]) as child:
        names = _public(vars(child)) | _public(dir(ChildProcess)) | {"wait"}
    assert listed == {_as_listed(sync_way.Child, name) for name in names}


def test_table_of_process_has_its_members() -> None:
    listed = {_one_code(row[0]) for row in _table(_GUIDE, "process")}
    names = set(process.__all__) - {"Control"}
    assert listed == {_as_listed(process, name) for name in names}


def test_table_of_errors_is_the_tree() -> None:
    listed = [
        (_one_code(name), _code(also), next(iter(_code(code)), None))
        for name, also, code, _, _ in _table(_GUIDE, "errors")
    ]
    tree: list[tuple[str, list[str], str | None]] = []
    for name, _, _ in listed:
        error = getattr(nodecompat, name)
        bases = [base.__name__ for base in error.__bases__ if base is not errors.NodeIPCError]
        tree.append((name, bases, error.code))
    assert listed == tree
    assert sorted(errors.__all__) == sorted(name for name, _, _ in listed)


# ------------------------------------------------------------------------ the tables of values


@functools.cache
def _names(page: Path) -> dict[str, Any]:
    (block,) = [block for block in _blocks(page.read_text()) if block.comment == "names"]
    names: dict[str, Any] = {}
    exec(block.text, names)
    return names


@functools.cache
def _major(node: str) -> int:
    printed = subprocess.check_output([node, "--version"], text=True)
    return int(printed[1:].partition(".")[0])


def _known_to(node: str, rows: list[list[str]]) -> list[tuple[str, str]]:
    """The first two cells of the rows, less those that the third keeps for a later Node."""
    known: list[tuple[str, str]] = []
    for first, second, note in rows:
        since = re.search(r"Node (\d+) and later", note)
        if since is None or int(since[1]) <= _major(node):
            known.append((_one_code(first), _one_code(second)))
    assert len(known) > len(rows) / 2
    return known


_MODES: Final = pytest.mark.parametrize(
    ("page", "mode"), [(_JSON, "json"), (_ADVANCED, "advanced")], ids=["json", "advanced"]
)

_Start = Callable[..., sync_way.Child]


@pytest.fixture
def start(node: str, tmp_path: Path) -> _Start:
    """Starts a Node child with a JavaScript program, its arguments and a serialization."""

    def start(program: str, *args: str, mode: str) -> sync_way.Child:
        path = tmp_path / "program.js"
        path.write_text(program)
        return sync_way.fork(path, args, exec_path=node, serialization=mode)

    return start


# Answers each value with what it is, unless it is what the next argument says. isDeepStrictEqual
# does not compare all of Errors and ArrayBuffers, and before Node 24 no two invalid Dates are equal
# to it. inspect knows classes and holes, but shows stacks, and what is around a DataView.
_JUDGE = """
const { inspect, isDeepStrictEqual } = require('util');
const expected = process.argv.slice(2);
const parts = (v) => {
  if (v instanceof Error) return [v.constructor, v.name, v.message, 'cause' in v, parts(v.cause)];
  if (v instanceof Date) return [Date, v.getTime()];
  if (v instanceof DataView) return [DataView, v];
  return [v, inspect(v), v instanceof ArrayBuffer && v.maxByteLength];
};
process.on('message', ([value]) => {
  const same = isDeepStrictEqual(parts(value), parts(eval(`(${expected.shift()})`)));
  process.send(same ? 'as it says' : inspect(value));
});
"""


@_MODES
def test_values_reach_node_as_the_table_says(
    page: Path, mode: str, node: str, start: _Start
) -> None:
    rows = _known_to(node, _table(page, "sent"))
    with start(_JUDGE, *(js for _, js in rows), mode=mode) as child:
        verdicts: list[tuple[str, object]] = []
        for python, _ in rows:
            # In an array: as a message not every value can go.
            child.send([eval(python, _names(page))])
            verdicts.append((python, child.recv(timeout=20)))
    assert verdicts == [(python, "as it says") for python, _ in rows]


def _without_stack(value: object) -> object:
    if isinstance(value, js_types.JSError):
        assert value.stack is not None
        # The stack has the paths of this machine.
        value.stack = None
    return value


@_MODES
def test_values_come_from_node_as_the_table_says(
    page: Path, mode: str, node: str, start: _Start
) -> None:
    rows = _known_to(node, _table(page, "received"))
    send_all = "for (const value of process.argv.slice(2)) process.send([eval(`(${value})`)]);"
    with start(send_all, *(js for js, _ in rows), mode=mode) as child:
        for js, python in rows:
            (value,) = child.recv(timeout=20)
            expected = eval(python, _names(page))
            assert same(_without_stack(value), expected, sharing=False), f"{js} is {value!r}"


@_MODES
def test_values_are_refused_as_the_table_says(page: Path, mode: str, start: _Start) -> None:
    rows = [(_one_code(python), _one_code(error)) for python, error in _table(page, "refused")]
    with start("process.on('message', (message) => process.send(message));", mode=mode) as child:
        for python, expected in rows:
            with pytest.raises(errors.MessageError) as caught:
                child.send(eval(python, _names(page)))
            assert str(caught.value) == expected
            assert expected.startswith(f"{caught.value.path}: ")
        child.send("the channel goes on")
        assert child.recv(timeout=20) == "the channel goes on"


# What send throws for each argument.
_REFUSED_BY_NODE = """
const thrown = (message) => {
  try {
    process.send(message);
  } catch (error) {
    return error.message;
  }
};
for (const js of process.argv.slice(2)) {
  process.send(thrown({ deep: [eval(`(${js})`)] }) || 'nothing');
}
"""


def test_node_refuses_to_send_what_the_table_says(start: _Start) -> None:
    rows = [(_one_code(js), _one_code(error)) for js, error in _table(_ADVANCED, "unsendable")]
    with start(_REFUSED_BY_NODE, *(js for js, _ in rows), mode="advanced") as child:
        assert [(js, child.recv(timeout=20)) for js, _ in rows] == rows


def test_typed_arrays_have_the_formats_of_the_table(node: str, start: _Start) -> None:
    numpy = pytest.importorskip("numpy")
    table = _table(_ADVANCED, "formats")
    dtypes = {_one_code(row[0]): _one_code(row[2]) for row in table}
    rows = _known_to(node, [[js, letter, note] for js, letter, _, note in table])
    answer = "process.on('message', (m) => process.send([m.constructor.name, m]));"
    with start(answer, mode="advanced") as child:
        for js, letter in rows:
            child.send(numpy.array([1, 2], dtype=dtypes[js]))
            name, view = child.recv(timeout=20)
            assert (name, view.format, view.tolist(), view.readonly) == (js, letter, [1, 2], True)
            assert numpy.asarray(view).dtype == dtypes[js]


def test_table_of_types_has_them_all() -> None:
    listed = [code for row in _table(_ADVANCED, "types") for code in _code(row[0])]
    assert sorted(listed) == sorted(set(js_types.__all__) - {"MAX_SAFE_INTEGER"})
    assert all(getattr(nodecompat, name) is getattr(js_types, name) for name in listed)
