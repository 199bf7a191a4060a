"""The shortest useful peer: a child in JSON mode, with nothing but Python's standard library.

It sends, waits, disconnects and exits, and reports the messages and the end of the channel.
"""

import json
import os
import re
import socket
import sys
from typing import Any

with open(sys.argv[-1]) as file:
    plan = json.load(file)
report = os.open(plan["report"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
seen: list[str] = []


def observe(name: str, observation: object) -> None:
    seen.append(name)
    os.write(report, json.dumps(observation).encode() + b"\n")


def unsupported(step: object) -> None:
    os.write(report, json.dumps({"unsupported": step}).encode() + b"\n")
    os._exit(3)


if plan["role"] != "child" or plan["mode"] != "json":
    unsupported(f"{plan['role']} in {plan['mode']} mode")
channel = socket.socket(fileno=int(os.environ.pop("NODE_CHANNEL_FD")))
channel.set_inheritable(False)
lines = channel.makefile("rb")


def observe_next() -> None:
    line = b"" if "disconnect" in seen else lines.readline()
    if not line.endswith(b"\n"):
        disconnect()
        return
    message = json.loads(line)
    # The channel's own: nothing that a program would see.
    if not (isinstance(message, dict) and re.match("NODE_.", str(message.get("cmd")))):
        observe("message", {"message": message})


def disconnect() -> None:
    if "disconnect" not in seen:
        channel.shutdown(socket.SHUT_RDWR)
        observe("disconnect", "disconnect")


def play(step: Any) -> None:
    match step:
        case {"send": value, **options} if not options:
            channel.sendall(json.dumps(value, separators=(",", ":")).encode() + b"\n")
        case {"wait": {"messages": count}}:
            while seen.count("message") < count and "disconnect" not in seen:
                observe_next()
        case {"wait": "disconnect"}:
            while "disconnect" not in seen:
                observe_next()
        case "disconnect":
            disconnect()
        case {"exit": status}:
            os._exit(status)
        case _:
            unsupported(step)


for each in plan["steps"]:
    play(each)
play({"wait": "disconnect"})
