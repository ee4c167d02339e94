"""What a printer prints, in a file of the host."""

from __future__ import annotations

import os

from ..errors import ConfigError


class PrinterFile:
    """Bytes are added at the end of the file, which is made if it is not there; ConfigError if it cannot be."""

    def __init__(self, path: str) -> None:
        try:
            # O_NONBLOCK: a FIFO must not have the machine wait for its reader.
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY, 0o666)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from error

    def print(self, byte: int) -> bool:
        """Add a byte; False if there is no room for it now, and the printer is busy."""
        try:
            return os.write(self._fd, bytes((byte,))) == 1
        except OSError:
            return False

    def close(self) -> None:
        """Give the file back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
