"""Plays a part of tests/integration/handle_plays.py: handles_play.py PLAY [ARG as JSON]..."""

import json
import sys

from nodecompat import process
from tests.integration.handle_plays import PLAYS, Listening, finish

finish(PLAYS[sys.argv[1]](Listening(process), *map(json.loads, sys.argv[2:])))
