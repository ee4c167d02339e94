"""A TAP interface: the guest's wire ends in the host's network stack (Linux Documentation/networking/tuntap.rst)."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import struct

from ..errors import ConfigError
from . import MAX_FRAME, POLL_BUDGET, NetBackend

TUN_DEVICE = "/dev/net/tun"
# <linux/if_tun.h>: TUNSETIFF is _IOW('T', 202, int), whatever its argument really is.
TUNSETIFF = 1 << 30 | struct.calcsize("i") << 16 | ord("T") << 8 | 202
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFREQ = struct.Struct("16sH22x")
"""struct ifreq of <linux/if.h>: a name, and of its union the flags."""


class TapNet(NetBackend):
    """The interface `name` (1 to 15 characters). It is made if it does not exist, which takes CAP_NET_ADMIN, or with
    `make` False refused.

    Without that privilege it has to be made beforehand, once, and given to the user; the error says how. Giving it
    an address or putting it into a bridge, and setting it up, is left to the user in either case. Frames sent while
    the interface is down are dropped.
    """

    def __init__(self, name: str, *, make: bool = True) -> None:
        if not re.fullmatch(r"[^\s/%:]{1,15}", name) or len(name.encode()) > 15 or name in (".", ".."):
            raise ConfigError(f"{name!r} is not a network interface's name: give 1 to 15 characters, such as tap0")
        if not make:
            _require(name)
        self.name = self.station = name
        self._fd = -1
        self._gone = False  # the interface was deleted: its descriptor, which is still open, stays readable for ever
        try:
            fd = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
                raise ConfigError(f"the host has no {TUN_DEVICE}: run `sudo modprobe tun`") from error
            raise ConfigError(
                f"cannot open {TUN_DEVICE}: {error.strerror}; run `sudo chmod 666 {TUN_DEVICE}`"
            ) from error
        try:
            fcntl.ioctl(fd, TUNSETIFF, IFREQ.pack(name.encode(), IFF_TAP | IFF_NO_PI))
        except OSError as error:
            os.close(fd)
            raise ConfigError(_explain(name, error)) from error
        self._fd = fd

    def send(self, frame: bytes) -> None:
        if self._fd >= 0:
            try:
                os.write(self._fd, frame)
            except OSError:
                return  # the interface is down or gone, its queue is full, or this is no frame: dropped

    def fileno(self) -> int | None:
        return None if self._gone or self._fd < 0 else self._fd

    def poll(self) -> None:
        for _ in range(POLL_BUDGET):
            if self._gone or self._fd < 0:
                return
            try:
                frame = os.read(self._fd, MAX_FRAME + 1)
            except BlockingIOError:
                return
            except OSError:
                self._gone = True
                return
            if len(frame) <= MAX_FRAME and self.deliver is not None:
                self.deliver(frame)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _require(name: str) -> None:
    """ConfigError if the host has no interface of that name."""
    try:
        socket.if_nametoindex(name)
    except (OSError, ValueError):
        raise ConfigError(
            f"the host has no interface {name}: make it with\n"
            f"  sudo ip tuntap add dev {name} mode tap user $USER && sudo ip link set {name} up"
        ) from None


def _explain(name: str, error: OSError) -> str:
    match error.errno:
        case errno.EPERM:
            return (
                f"you may not use the TAP interface {name}; make it yours with\n"
                f"  sudo ip tuntap add dev {name} mode tap user $USER && sudo ip link set {name} up\n"
                "(if it exists already: `sudo ip tuntap del` it first)"
            )
        case errno.EBUSY:
            return f"the TAP interface {name} is in use by another program: end that one or take another name"
        case errno.EINVAL:
            return f"{name} exists and is not a TAP interface: take another name"
    return f"the host refuses the TAP interface {name}: {error.strerror}"
