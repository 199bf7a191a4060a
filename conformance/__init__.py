"""The conformance suite for Node's IPC channel: `python -m conformance` in a checkout."""
