"""Says of each value whether it is right, and sends it back: js-fixtures/advanced-values.cjs."""

from nodecompat import process
from tests.integration.advanced_plays import answer

process.on("message", lambda message, handle: process.send(answer(message)))
process.wait()
