"""Python children of one measurement; README.md describes the protocol."""
