"""Command-line values that are more than a word: sizes, addresses, disks, NICs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import click

from ..errors import ConfigError
from ..memory import parse_size

if TYPE_CHECKING:
    from ..disk import Disk
    from ..disk.image import Mode
    from ..pc import Nic


class Number(click.ParamType[int]):
    """A number in decimal or, with 0x before it, hexadecimal; K, M and G behind it are units."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_size(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


SIZE = Number("size")
ADDRESS = Number("address")


def open_disk(spec: str) -> Disk | None:
    """A disk from `FILE`, `FILE,ro` or `FILE,discard`; `none` leaves the place empty."""
    from ..disk import image

    if spec == "none":
        return None
    path, comma, mode = spec.rpartition(",")
    if not comma:
        path, mode = spec, "rw"
    elif mode not in ("rw", "ro", "discard"):
        raise ConfigError(f"--disk {spec}: behind the comma there may be rw, ro or discard")
    return image.open_disk(path, cast("Mode", mode))


def open_nic(spec: str) -> Nic:
    """A NIC from `KIND[:WHERE][,mac=ADDRESS][,pcap=FILE]`; the kinds are none, loopback, unix:PATH and tap:NAME."""
    from ..net import NetBackend
    from ..net.mac import parse_mac
    from ..pc import Nic

    kind_and_where, *settings = spec.split(",")
    kind, _, where = kind_and_where.partition(":")
    mac = pcap = None
    for setting in settings:
        name, _, value = setting.partition("=")
        if name == "mac":
            mac = parse_mac(value)
        elif name == "pcap" and value:
            pcap = value
        else:
            raise ConfigError(f"--nic {spec}: {setting!r} is neither mac=ADDRESS nor pcap=FILE")
    if (kind in ("unix", "tap")) != bool(where):
        raise ConfigError(f"--nic {spec}: give none, loopback, unix:PATH or tap:NAME")
    backend: NetBackend
    match kind:
        case "none":
            from ..net.loopback import NoNet

            backend = NoNet()
        case "loopback":
            from ..net.loopback import Loopback

            backend = Loopback()
        case "unix":
            from ..net.unix import UnixNet

            backend = UnixNet(where)
        case "tap":
            from ..net.tap import TapNet

            backend = TapNet(where)
        case _:
            raise ConfigError(f"--nic {spec}: there is no kind {kind!r}: give none, loopback, unix:PATH or tap:NAME")
    if pcap is not None:
        from ..net.pcap import Capture

        backend = Capture(backend, pcap)
    return Nic(backend, mac)
