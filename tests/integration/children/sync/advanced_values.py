"""Says of each value whether it is right, and sends it back: js-fixtures/advanced-values.cjs."""

from nodecompat.sync import connect_parent
from tests.integration.advanced_plays import answer

with connect_parent() as parent:
    for message in parent:
        parent.send(answer(message))
