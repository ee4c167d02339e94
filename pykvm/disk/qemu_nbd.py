"""A disk in an image of another format than raw, which a qemu-nbd beside this process reads and writes.

It is started with the sockets and files that it needs, and opens nothing by a name: see `nodes`. Its socket has no
name from the moment on at which it is connected. It ends by itself, the image complete, when that connection is closed,
be it by `close` or by the death of this process.
"""

from __future__ import annotations

import json
import os
import select
import socket
import tempfile
from collections.abc import Sequence

from ..errors import ConfigError
from ..program import Program
from ..typed import Any
from .nbd import NbdDisk
from .nodes import by_descriptor, node
from .raw import ImageFile

CLOSE_TIME = 60.0
"""Seconds that qemu-nbd may take to write what it still holds, before it is ended."""
_DESCRIPTOR = 4
"""The first image's descriptor in qemu-nbd, behind the listening socket's."""


class QemuDisk(NbdDisk):
    """The image at `path` of `format`, a key of `formats.FORMATS`, writable unless `read_only`.

    `backing` allows that it names another image under it. ConfigError if it cannot be opened: what is wrong with the
    file, with the image (in qemu-nbd's words), or that there is no qemu-nbd.
    """

    def __init__(
        self, path: str | os.PathLike[str], format: str, read_only: bool = False, backing: bool = False
    ) -> None:
        self._files: list[ImageFile] = []
        file = ImageFile(path, read_only)
        try:
            tree = node(file, format, backing, self._files)
            self._program, sock = _start(tree, self._files, read_only)
            try:
                super().__init__(sock, file.path, read_only=read_only)
            except ConfigError as error:
                said = self._program.end(0.5)  # where it has found something wrong it ends by itself
                raise ConfigError(self._wrong(file.path, format, said) or str(error)) from error
            except BaseException:
                self._program.end()
                raise
            self._program.ready()
        except BaseException:
            self._give_back()
            raise
        self.path, self.format, self.backing = file.path, format, backing

    @property
    def pid(self) -> int:
        """The number of qemu-nbd's process."""
        return self._program.pid

    @property
    def location(self) -> str:
        return os.path.abspath(self.path)

    def real_paths(self) -> list[str]:
        return [file.real_path() for file in self._files]

    def changed_at(self) -> int:
        return max(file.changed_at() for file in self._files)

    def close(self) -> None:
        super().close()
        self._program.end(CLOSE_TIME)
        self._give_back()

    def _give_back(self) -> None:
        for file in self._files:
            file.unlock()
            file.close()

    def _wrong(self, path: str, format: str, said: str) -> str:
        """A sentence of what qemu-nbd said, with names in place of descriptors; nothing if that was nothing."""
        for at, file in enumerate(self._files):
            said = said.replace(f"/proc/self/fd/{_DESCRIPTOR + at}", file.path)
        said = said.removeprefix("qemu-nbd: ").partition("qemu-nbd: Disconnect client")[0].strip()
        if "Failed to get" in said and "lock" in said:
            return f"disk image {path!r} is in use by another program, such as QEMU: end that"
        return said and f"disk image {path!r} cannot be opened as {format}: {said}"


def _start(tree: dict[str, Any], files: Sequence[ImageFile], read_only: bool) -> tuple[Program, socket.socket]:
    """qemu-nbd on a tree of nodes, and a connection to it."""
    tree = by_descriptor(tree, range(_DESCRIPTOR, _DESCRIPTOR + len(files)))
    words = ["qemu-nbd", "--discard=unmap", *(["--read-only"] if read_only else []), f"json:{json.dumps(tree)}"]
    try:
        listener, sock = _connected_pair()
    except OSError as error:
        raise ConfigError(f"no socket for qemu-nbd can be made: {error}; see TMPDIR") from error
    with listener:
        try:
            program = Program(words, [listener.fileno(), *(file.fileno() for file in files)], "qemu-utils", listening=1)
        except BaseException:
            sock.close()
            raise
    return program, _first_sign(program, sock)


def _connected_pair() -> tuple[socket.socket, socket.socket]:
    """A listening socket, and one that is connected with it; the name over which that happened is gone."""
    listener, sock = (socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) for _ in range(2))
    try:
        with tempfile.TemporaryDirectory(prefix="pykvm-") as private:
            name = os.path.join(private, "nbd")
            listener.bind(name)
            listener.listen(1)
            sock.connect(name)
    except BaseException:
        listener.close()
        sock.close()
        raise
    return listener, sock


def _first_sign(program: Program, sock: socket.socket) -> socket.socket:
    """Wait until it speaks, or has ended: then nobody would ever answer."""
    if sock.fileno() not in select.select([sock.fileno(), program.fileno()], [], [], 30.0)[0]:
        sock.shutdown(socket.SHUT_RDWR)  # what is asked next fails at once
    return sock
