"""Sends a Buffer back, and how much memory that took: js-fixtures/advanced-large.cjs."""

import threading
from typing import Any

from nodecompat import process
from tests.integration.advanced_plays import peak_memory

before = peak_memory()
written = threading.Event()


def on_message(message: Any, handle: object) -> None:
    process.send(message, callback=lambda error: written.set())


process.on("message", on_message)
written.wait()
process.send({"memory": peak_memory() - before})
process.wait()
