"""Descriptors with an owner."""

from __future__ import annotations

import contextlib
import os
import socket
import warnings
from typing import final

__all__ = ["Handle"]


@final
class Handle:
    """A descriptor that came from the peer and has exactly one owner, who takes or closes it."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """The descriptor, or -1 once it was taken or closed."""
        return self._fd

    def detach(self) -> int:
        """Take the descriptor: the caller owns it from here on. ValueError when it is gone."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            raise ValueError("the handle was already taken or closed")
        return fd

    def to_socket(self) -> socket.socket:
        """The handle as a ``socket.socket``, which owns it; the kernel tells family and type."""
        fd = self.detach()
        try:
            return socket.socket(fileno=fd)
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Close the descriptor, if it is still here."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)

    def close_untaken(self) -> None:
        """Close the descriptor of a handle that nobody took, with a ResourceWarning."""
        if self._fd >= 0:
            try:
                warnings.warn(
                    f"a handle that the peer sent was not taken: closing descriptor {self._fd}",
                    ResourceWarning,
                    stacklevel=3,
                    source=self,
                )
            finally:
                self.close()

    def __del__(self) -> None:
        self.close_untaken()

    def __repr__(self) -> str:
        return f"<Handle fd={self._fd}>" if self._fd >= 0 else "<Handle closed>"
