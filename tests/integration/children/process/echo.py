"""Sends every message back."""

from nodecompat import process

process.on("message", lambda message, handle: process.send(message))
process.wait()
