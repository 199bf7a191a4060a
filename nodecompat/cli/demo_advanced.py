"""The part of ``nodecompat demo`` in which values travel that JSON cannot carry."""

from __future__ import annotations

import datetime
from typing import Any, Final

from nodecompat import BigInt, Map, undefined
from nodecompat import sync as sync_ipc
from nodecompat.cli.programs import ADVANCED_JS
from nodecompat.cli.stage import Stage, expect, forked

__all__ = ["send_rich_values"]

_MOMENT: Final = datetime.datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=datetime.UTC)


def send_rich_values(stage: Stage) -> None:
    """Python and Node send each other dates, maps, sets, bytes, big integers and cycles."""
    with forked(stage, ADVANCED_JS, serialization="advanced") as child:
        _to_node(stage, child)
        _to_python(stage, child)


def _to_node(stage: Stage, child: sync_ipc.Child) -> None:
    circular: dict[str, Any] = {"name": "self"}
    circular["self"] = circular
    value = {
        "when": _MOMENT,
        "ages": Map({1.5: "a number as the key"}),
        "seen": {"x"},
        "data": b"\x00\xff",
        "large": BigInt(2**64),
        "nothing": undefined,
        "circular": circular,
    }
    reply = _ask(stage, child, {"do": "describe", "value": value})
    types = {
        "when": "Date",
        "ages": "Map",
        "seen": "Set",
        "data": "Buffer",
        "large": "BigInt",
        "nothing": "undefined",
        "circular": "Object",
    }
    moment = int(_MOMENT.timestamp() * 1000)
    expect("what Node got", reply, {"types": types, "moment": moment, "circular": True})


def _to_python(stage: Stage, child: sync_ipc.Child) -> None:
    value = _ask(stage, child, {"do": "make"})
    expect("the date", value["date"], _MOMENT)
    expect("the map", value["map"], {"one": 1, 2**64: "a bigint as the key"})
    expect("the set", value["set"], {"a", "b"})
    expect("the bytes", value["bytes"], b"\x00\x01\xfe\xff")
    circular = value["circular"]
    expect("the cycle", circular["self"] is circular, True)
    expect("the shared object", circular["again"] is circular["shared"], True)
    reply = _ask(stage, child, {"do": "compare", "value": value})
    expect("what came back to Node", reply, {"same": True})


def _ask(stage: Stage, child: sync_ipc.Child, message: Any) -> Any:
    child.send(message)
    stage.screen.sent("Python", "Node", message)
    reply = child.recv()
    stage.screen.received("Python", "Node", reply)
    return reply
