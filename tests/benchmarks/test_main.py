"""The command `python -m benchmarks`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main


def test_a_work_that_is_not_there_is_named_with_those_that_are() -> None:
    result = CliRunner().invoke(main, ["--only", "nothing"])
    assert result.exit_code == 2
    assert "'nothing' is not one of" in result.output
    assert "'round-trip'" in result.output


@pytest.mark.parametrize("option", ["--node", "--python"])
def test_an_interpreter_that_cannot_run_is_named(option: str, node: str) -> None:
    result = CliRunner().invoke(main, ["--node", node, option, "/no/such/program"])
    assert result.exit_code == 1
    assert "/no/such/program cannot be used" in result.output


def test_a_run_prints_its_tables_and_writes_its_json(node: str, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    arguments = ["--node", node, "--only", "parent-to-child-many", "--rounds", "1"]
    result = CliRunner().invoke(main, [*arguments, "--scale", "0.001", "--json", str(file)])
    assert result.exit_code == 0, result.output
    assert "parent-to-child-many" in result.output
    report = json.loads(file.read_text(encoding="utf-8"))
    assert [each["peer"] for each in report["results"]] == ["sync", "asyncio"]
    assert report["options"] == {"rounds": 1, "scale": 0.001}


def test_what_cannot_be_measured_ends_with_one(node: str) -> None:
    arguments = ["--node", node, "--only", "round-trip", "--rounds", "1", "--scale", "0.001"]
    result = CliRunner().invoke(main, [*arguments, "--limit", "0.001"])
    assert result.exit_code == 1
    assert "failed round-trip, node parent, node child: took more than 0.001 s" in result.output
