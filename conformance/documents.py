"""YAML files whose mistakes are reported with their line: cases, implementations, deviations."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jsonschema
import yaml

__all__ = ["Document", "DocumentError", "Json", "Place", "close_to", "load", "schema_problems"]

# What YAML and JSON give: None, bool, int, float, str, list and dict. Its recursive type would
# have every look into a value cast.
Json: TypeAlias = Any

# The keys and indexes that lead to a place in a document.
Place: TypeAlias = tuple[str | int, ...]


# Of the names of the definitions in case.schema.json, which are otherwise those of the first keys.
_PREFIX = re.compile(r"^(raw-)?(see-|pattern-)?")


class DocumentError(Exception):
    """A file is wrong: `problems` has a text for each mistake, with its file and line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class Document(NamedTuple):
    """One YAML document, and the line of every place in it."""

    path: Path
    data: Json
    lines: dict[Place, int]

    def says(self, place: Place, text: str) -> str:
        """`text` with the file and line of `place`, or of what is nearest around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return f"{self.path}:{self.lines[place]}: {text}"


class _Loader(yaml.SafeLoader):
    """Plain scalars as JSON has them: `no`, `12:30` and `2024-01-01` are strings."""


# Not those of YAML 1.1, which the class shares with every other loader.
setattr(_Loader, "yaml_implicit_resolvers", {})  # noqa: B010


for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("null", r"null|~|", "n~"),
    ("int", r"-?(?:0|[1-9][0-9]*)", "-0123456789"),
    ("float", r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?", "-0123456789"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(f"^(?:{_pattern})$"),
        ["", *_first] if _tag == "null" else list(_first),
    )


def load(path: Path) -> list[Document]:
    """The documents of the YAML file `path`. Raises DocumentError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError([f"{path}: cannot be read: {error}"]) from error
    loader = _Loader(text)
    documents: list[Document] = []
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None
            lines: dict[Place, int] = {(): node.start_mark.line + 1}
            documents.append(Document(path, _build(loader, node, (), lines, ()), lines))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise DocumentError([f"{path}{line}: {said}"]) from error
    except yaml.YAMLError as error:
        raise DocumentError([f"{path}: {error}"]) from error
    finally:
        loader.dispose()
    return documents


def _build(
    loader: _Loader,
    node: yaml.Node,
    place: Place,
    lines: dict[Place, int],
    around: tuple[yaml.Node, ...],
) -> Json:
    if any(node is each for each in around):
        raise _wrong("an alias may not be inside what it stands for", node)
    around = (*around, node)
    match node:
        case yaml.MappingNode():
            result: dict[str, Json] = {}
            for key_node, value_node in node.value:
                key = key_node.value
                if not isinstance(key_node, yaml.ScalarNode) or not isinstance(key, str):
                    raise _wrong("a key must be a string", key_node)
                if key in result:
                    raise _wrong(f"the key {key!r} is there twice", key_node)
                lines[*place, key] = key_node.start_mark.line + 1
                result[key] = _build(loader, value_node, (*place, key), lines, around)
            return result
        case yaml.SequenceNode():
            items: list[Json] = []
            for index, item in enumerate(node.value):
                lines[*place, index] = item.start_mark.line + 1
                items.append(_build(loader, item, (*place, index), lines, around))
            return items
        case _:
            kind = node.tag.removeprefix("tag:yaml.org,2002:")
            text: str = node.value
            match kind:
                case "str":
                    return text
                case "null":
                    return None
                case "bool":
                    return text == "true"
                case "int" | "float":
                    # JavaScript's -0, which Python's integers do not have.
                    return -0.0 if text == "-0" else json.loads(text)
            raise _wrong(f"the tag {node.tag} is not used here", node)


def _wrong(text: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=node.start_mark)


def schema_problems(document: Document, schema: dict[str, Json]) -> list[str]:
    """What is wrong with `document` by a JSON schema, a text each, in the order of the lines."""
    validator = jsonschema.Draft202012Validator(schema)
    found: list[tuple[Place, str]] = []
    for error in validator.iter_errors(document.data):
        found += _told(error, schema)
    by_line = sorted(set(found), key=lambda each: (str(document.says(each[0], "")), each[1]))
    return [document.says(place, text) for place, text in by_line]


def _told(
    error: jsonschema.ValidationError, schema: dict[str, Json]
) -> Iterator[tuple[Place, str]]:
    place: Place = tuple(error.absolute_path)
    instance: Json = error.instance
    wanted: Json = error.validator_value
    rule = error.schema
    assert isinstance(rule, dict)
    described = rule.get("description")
    match error.validator:
        case "additionalProperties":
            known = list(rule.get("properties", ()))
            for key in instance:
                if key not in known:
                    yield (*place, key), f"unknown key {key!r}{close_to(key, known)}"
        case "required":
            missing = [key for key in wanted if key not in instance]
            for key in missing:
                yield place, f"the key {key!r} is missing"
        case "anyOf":
            yield from _told_of_any(error, place, schema)
        case _ if described is not None:
            yield place, f"expected {described}, not {_shown(instance)}"
        case "enum":
            known = [str(each) for each in wanted]
            yield place, f"{_shown(instance)} is not known: there are {', '.join(known)}"
        case "type":
            names = wanted if isinstance(wanted, list) else [wanted]
            yield place, f"expected {' or '.join(names)}, not {_shown(instance)}"
        case _:
            yield place, error.message if len(error.message) < 300 else error.message[:300] + "…"


def _told_of_any(
    error: jsonschema.ValidationError, place: Place, schema: dict[str, Json]
) -> Iterator[tuple[Place, str]]:
    """Of a choice by the first key (a step, an observation), what is wrong with the chosen one."""
    rule = error.schema
    assert isinstance(rule, dict)
    instance: Json = error.instance
    choices: Json = error.validator_value
    what = rule.get("title")
    if what is None:
        yield place, f"expected {rule.get('description', 'another value')}, not {_shown(instance)}"
        return
    branches: dict[str, int] = {}
    names: list[str] = []
    for index, branch in enumerate(choices):
        if "enum" in branch:
            names += branch["enum"]
        else:
            definition = branch["$ref"].rpartition("/")[2]
            branches[_PREFIX.sub("", definition)] = index
    known = [*names, *(name for name in branches if name not in names)]
    if isinstance(instance, str):
        if instance in branches:
            yield place, f"the {what} {instance!r} needs a value: {instance}: …"
        else:
            yield place, f"unknown {what} {instance!r}{close_to(instance, known)}"
    elif isinstance(instance, dict) and instance:
        first = next(iter(instance))
        if first in branches:
            for inner in error.context or ():
                if inner.relative_schema_path[0] == branches[first]:
                    yield from _told(inner, schema)
        elif first in names:
            yield (*place, first), f"the {what} {first!r} takes no value: write just {first}"
        else:
            hint = close_to(first, known)
            if not hint and (later := [key for key in instance if key in branches]):
                hint = f": is it {later[0]!r}? Then that is to be the first key"
            yield (*place, first), f"unknown {what} {first!r}{hint}"
    else:
        yield place, f"expected a {what}, a name or a map, not {_shown(instance)}"


def close_to(name: str, known: Iterable[str]) -> str:
    """`: did you mean …?` when one of `known` is like `name`, else what there is."""
    known = list(known)
    like = difflib.get_close_matches(name, known, n=1)
    if like:
        return f": did you mean {like[0]!r}?"
    return f": there are {', '.join(known)}" if known else ""


def _shown(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + "…"
