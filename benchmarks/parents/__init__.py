"""Python parents of one measurement; README.md describes the protocol."""
