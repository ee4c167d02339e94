"""A raw disk image: byte N of the disk is byte N of a host file or block device.

A file whose size is not a multiple of 512 bytes (a small kernel glued to its boot sector) is a disk rounded up to the
next sector: what is missing reads as zeros, and a write to that last sector makes the file whole.

The image is locked with flock(2) as long as it is open: by one writer, or by any number of readers. The lock is
advisory, so it keeps two machines off one image, not other programs; where a file system has no locks there is none.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import weakref
from contextlib import suppress

from ..errors import ConfigError
from . import SECTOR, ImageDisk


def read_up_to(fd: int, offset: int, length: int) -> bytes:
    """`length` bytes from `offset` on, or fewer if the file ends before; short transfers are continued."""
    data = os.pread(fd, length, offset)
    if len(data) == length:
        return data
    parts = []
    while data:
        parts.append(data)
        offset += len(data)
        length -= len(data)
        data = os.pread(fd, length, offset)
    return b"".join(parts)


def write_all(fd: int, offset: int, data: bytes) -> None:
    """Store all of `data` at `offset`; short transfers are continued."""
    done = os.pwrite(fd, data, offset)
    while done < len(data):
        done += os.pwrite(fd, memoryview(data)[done:], offset + done)


class ImageFile:
    """The file or block device at `path`, open and locked as an image is, writable unless `read_only`.

    Raises ConfigError if `path` is missing, empty, neither a regular file nor a block device, not permitted, or in use
    by another machine.
    """

    def __init__(self, path: str | os.PathLike[str], read_only: bool = False) -> None:
        self.path = os.fspath(path)
        self.read_only = read_only
        self._fd = _open(self.path, read_only)
        # An image that is forgotten without `close` must not hold its lock as long as the process lives.
        self._finalizer = weakref.finalize(self, os.close, self._fd)
        try:
            self._length = _capacity(self._fd, self.path)
            _lock(self._fd, self.path, read_only)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Its descriptor, until `close`."""
        return self._fd

    @property
    def length(self) -> int:
        """Bytes."""
        return self._length

    def real_path(self) -> str:
        """Where the file is that was opened, whatever `path` leads to by now; without symbolic links."""
        return os.readlink(f"/proc/self/fd/{self._fd}")

    def changed_at(self) -> int:
        """When it was last changed: nanoseconds since 1970."""
        return os.fstat(self._fd).st_mtime_ns

    def unlock(self) -> None:
        """Let go of the lock now, whoever else has inherited the descriptor; it is the closing of all that does so."""
        if self._fd >= 0:
            with suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close it; may be called twice."""
        self._finalizer()
        self._fd = -1


class RawDisk(ImageFile, ImageDisk):
    """The raw image at `path`, writable unless `read_only`. See `Disk` for the methods, `ImageFile` for the errors."""

    format = "raw"

    def __init__(self, path: str | os.PathLike[str], read_only: bool = False) -> None:
        super().__init__(path, read_only)
        self.size = -(-self._length // SECTOR) * SECTOR

    @property
    def location(self) -> str:
        return os.path.abspath(self.path)

    def real_paths(self) -> list[str]:
        return [self.real_path()]

    def read_at(self, offset: int, length: int) -> bytes:
        self._check(offset, length)
        data = read_up_to(self._fd, offset, length)
        if len(data) < length:
            if offset + len(data) < self._length:
                raise OSError(errno.EIO, "the image has become shorter while in use", self.path)
            data += bytes(length - len(data))
        return data

    def write_at(self, offset: int, data: bytes) -> None:
        if self.read_only:
            raise PermissionError(errno.EACCES, "the disk is read-only", self.path)
        self._check(offset, len(data))
        write_all(self._fd, offset, data)
        self._length = max(self._length, offset + len(data))

    def flush(self) -> None:
        if not self.read_only:
            os.fdatasync(self._fd)

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError(f"{offset:#x}+{length:#x} is not within the {self.size:#x} bytes of {self.path}")


def _open(path: str, read_only: bool) -> int:
    # O_NONBLOCK: to open a FIFO must not wait for its other end.
    flags = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        return os.open(path, flags)
    except FileNotFoundError as error:
        raise ConfigError(f"disk image {path!r} does not exist") from error
    except PermissionError as error:
        if read_only:
            raise ConfigError(f"disk image {path!r} may not be read: {error.strerror}") from error
        raise ConfigError(
            f"disk image {path!r} may not be written: {error.strerror}; "
            "open it read-only or let its writes be discarded"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"disk image {path!r} cannot be opened: {error}") from error


def _capacity(fd: int, path: str) -> int:
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        kind = "a directory" if stat.S_ISDIR(mode) else "a FIFO" if stat.S_ISFIFO(mode) else "a character device"
        raise ConfigError(f"disk image {path!r} is {kind}: give a regular file or a block device")
    length = os.lseek(fd, 0, os.SEEK_END)
    if length == 0:
        raise ConfigError(f"disk image {path!r} is empty: make room in it first, as by: truncate -s 64M {path}")
    return length


def _lock(fd: int, path: str, read_only: bool) -> None:
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"disk image {path!r} is in use by another machine: one machine may write an image, "
            "or several may share it read-only or with their writes discarded"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise ConfigError(f"disk image {path!r} cannot be locked: {error.strerror}") from error
