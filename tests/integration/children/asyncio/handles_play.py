"""Plays a part of tests/integration/handle_plays.py: handles_play.py PLAY [ARG as JSON]..."""

import asyncio
import json
import sys

from nodecompat.asyncio import connect_parent
from tests.integration.handle_plays import PLAYS, Waiting


async def main() -> None:
    async with connect_parent() as parent:
        await PLAYS[sys.argv[1]](Waiting(parent), *map(json.loads, sys.argv[2:]))


asyncio.run(main())
