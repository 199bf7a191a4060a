"""Plays a part of tests/integration/handle_plays.py: handles_play.py PLAY [ARG as JSON]..."""

import json
import sys

from nodecompat.sync import connect_parent
from tests.integration.handle_plays import PLAYS, Blocking, finish

with connect_parent() as parent:
    finish(PLAYS[sys.argv[1]](Blocking(parent), *map(json.loads, sys.argv[2:])))
