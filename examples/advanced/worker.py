from array import array
from datetime import timedelta

from nodecompat.sync import connect_parent

with connect_parent() as parent:
    for message in parent:
        samples = message["samples"]  # a memoryview of doubles
        parent.send(
            {
                "mean": sum(samples) / len(samples),
                "doubled": array("d", [2 * sample for sample in samples]),
                "due": message["taken"] + timedelta(days=1),  # a datetime
            }
        )
