"""Sends a Buffer back, and how much memory that took: js-fixtures/advanced-large.cjs."""

from nodecompat.sync import connect_parent
from tests.integration.advanced_plays import peak_memory

with connect_parent() as parent:
    before = peak_memory()
    parent.send(parent.recv())
    parent.send({"memory": peak_memory() - before})
    for _ in parent:
        raise AssertionError("another message")
