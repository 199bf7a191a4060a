"""Sends every message back."""

from nodecompat.sync import connect_parent

with connect_parent() as parent:
    for message in parent:
        parent.send(message)
