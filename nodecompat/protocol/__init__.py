"""The protocol itself, without any input or output: bytes and handles in, events and bytes out."""
