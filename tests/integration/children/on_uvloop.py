"""Runs an asyncio program on uvloop: on_uvloop.py PROGRAM [ARG...]."""

import runpy
import sys
from asyncio import events

import uvloop

# What asyncio.run makes its loop with; installing a policy is deprecated.
events.new_event_loop = uvloop.new_event_loop
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
