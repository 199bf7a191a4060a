"""`python -m conformance list` and `run`, and the smallest peer against a real Node."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from conformance.__main__ import main

_SMALLEST = Path(__file__).parents[2] / "conformance" / "docs" / "smallest_peer.py"

# A parent that starts no child, and sees what the case has it say.
_FAKE = """
import json, sys
plan = json.load(open(sys.argv[-1]))
with open(plan["report"], "a") as report:
    for step in plan["steps"]:
        report.write(json.dumps({"said": step["say"]}) + "\\n")
"""

_CASES = """\
id: area/good
requirement: It says it.
source: s
level: must
modes: [json]
parent: {do: [{say: a}], sees: [{said: a}]}
child: {do: [], sees: []}
---
id: area/bad
requirement: It says something else.
source: s
level: must
modes: [json]
parent: {do: [{say: a}], sees: [{said: b}]}
child: {do: [], sees: []}
"""

_SMOKE = """\
id: area/echo
requirement: A message arrives.
source: s
level: must
modes: [json]
limit: 30
parent:
  do:
    - send: {a: [1, null]}
    - wait: {messages: 1}
    - disconnect
    - wait: exit
  sees:
    - message: there
    - unordered: [{exit: 0}, disconnect]
child:
  do:
    - wait: {messages: 1}
    - send: there
  sees:
    - message: {a: [1, null]}
    - disconnect
"""


def _call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


@pytest.fixture
def options(tmp_path: Path) -> list[object]:
    cases = tmp_path / "cases"
    cases.mkdir()
    (cases / "area.yaml").write_text(_CASES)
    (tmp_path / "fake.py").write_text(_FAKE)
    described = tmp_path / "fake.yaml"
    described.write_text(
        "- {name: fake, command: ['{python}', '{here}/fake.py'], roles: [parent, child], "
        "modes: [json]}\n"
    )
    return [
        "--cases", cases, "--implementations", described, "--impl", "fake",
        "--counterpart", "self", "--results", tmp_path / "results.json",
    ]  # fmt: skip


def test_list(options: list[object]) -> None:
    done = _call("list", *options[:2], "area/g*")
    assert done.exit_code == 0
    assert done.output == "area/good (must, json)\n    It says it.\n"


def test_as_expected(options: list[object], tmp_path: Path) -> None:
    done = _call("run", "area/good", *options)
    assert done.exit_code == 0, done.output
    assert "1 passed" in done.output
    content = json.loads((tmp_path / "results.json").read_text())
    (run,) = content["runs"]
    assert content["suite"] == 1
    assert content["implementations"] == {"fake": {"version": None}}
    assert (run["case"], run["outcome"], run["subject"]) == ("area/good", "pass", "both")
    assert run["expected"] == {"parent": [{"said": "a"}], "child": []}
    assert run["actual"]["parent"] == [{"said": "a"}]


def test_not_as_expected(options: list[object], tmp_path: Path) -> None:
    done = _call("run", *options)
    assert done.exit_code == 1
    assert 'expected {"said": "b"}, got {"said": "a"}' in done.output
    assert "1/2" in done.output
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["runs"][1]["mismatch"]["index"] == 0


def test_a_known_difference_is_as_expected_until_it_passes(
    options: list[object], tmp_path: Path
) -> None:
    known = tmp_path / "known.yaml"
    known.write_text("- {impl: fake, cases: [area/bad], reason: r}\n")
    assert _call("run", *options, "--deviations", known).exit_code == 0
    known.write_text("- {impl: fake, cases: ['*'], reason: r}\n")
    done = _call("run", *options, "--deviations", known)
    assert done.exit_code == 1
    assert "UNEXPECTED-PASS" in done.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nothing"], "no case is called 'nothing'"),
        (["--impl", "fak"], "did you mean 'fake'"),
        (["--counterpart", "no"], "no implementation is called 'no'"),
        (["--mode", "advanced"], "there is nothing to run"),
        (["--all"], "exclude each other"),
    ],
)
def test_wrong_input(options: list[object], arguments: list[str], text: str) -> None:
    done = _call("run", *options, *arguments)
    assert done.exit_code == 2
    assert text in done.output


def test_a_wrong_case(options: list[object], tmp_path: Path) -> None:
    path = tmp_path / "cases" / "area.yaml"
    path.write_text(_CASES.replace("say: a", "sya: a", 1))
    done = _call("run", *options)
    assert done.exit_code == 2
    assert f"{path}:6: unknown step 'sya': did you mean 'say'?" in done.output.replace("\n", "")


def test_the_smallest_peer_with_node(tmp_path: Path) -> None:
    (tmp_path / "area.yaml").write_text(_SMOKE)
    # Not .yaml, which is what cases are called.
    described = tmp_path / "smallest.yml"
    described.write_text(
        f"- {{name: smallest, command: ['{{python}}', '{_SMALLEST}'], roles: [child], "
        "modes: [json]}\n"
    )
    results = tmp_path / "results.json"
    done = _call(
        "run", "--cases", tmp_path, "--implementations", described, "--impl", "smallest",
        "--results", results,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (run,) = json.loads(results.read_text())["runs"]
    assert run["outcome"] == "pass"
