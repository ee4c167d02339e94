"""Up to four NE2000 cards (see `devices.ne2000`), each with a cable to a network back end."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from ..arguments import require_list
from ..errors import ConfigError
from ..typed import TYPE_CHECKING, Any, NamedTuple
from .option import Bench, Closeable, DeviceOption

if TYPE_CHECKING:
    from ..engine.eventloop import EventLoop
    from ..net import NetBackend

NE2000_CARDS = ((0x300, 9), (0x320, 10), (0x340, 11), (0x280, 5))
"""Where the first to fourth NIC is: (port, IRQ)."""


class Nic(NamedTuple):
    """A NIC: what its cable leads to, and its station address (None: one that depends on its end of the cable)."""

    backend: NetBackend
    mac: bytes | None = None


class Nics(DeviceOption):
    """NICs: each a network back end, or a `Nic`."""

    name = "nics"
    default = ()
    flags = ("-n", "--nic")
    multiple = True
    metavar = "KIND[,mac=M][,pcap=FILE]"
    help = (
        "NE2000 card on none, loopback, unix:PATH, tap:NAME or user[,hostfwd=tcp:ADDRESS:PORT-:GUESTPORT]"
        "[,restrict=on][,ipv6=off], the host's network by passt; pcap= captures its traffic. Up to 4."
    )

    def parse(self, text: str) -> Nic:
        return parse_nic(text)

    def owned(self, value: Any) -> Iterable[Closeable]:
        require_list(self.name, value)
        return [nic.backend if isinstance(nic, Nic) else nic for nic in value]

    def build(self, value: Any, bench: Bench) -> list[bytes]:
        nics = [nic if isinstance(nic, Nic) else Nic(nic) for nic in value]
        if len(nics) > len(NE2000_CARDS):
            raise ConfigError(f"{len(nics)} NICs are not possible: a PC has 0 to {len(NE2000_CARDS)}")
        return [_add(number, nic, bench) for number, nic in enumerate(nics)]

    def from_snapshot(self, plain: Any) -> list[Nic]:
        from ..net.loopback import NoNet

        if not isinstance(plain, list) or len(plain) > len(NE2000_CARDS):
            raise ValueError("the NICs are no list, or too many")
        if not all(type(mac) is bytes and len(mac) == 6 for mac in plain):
            raise ValueError("a NIC has no address of six bytes")
        return [Nic(NoNet(), mac) for mac in plain]


def _add(number: int, nic: Nic, bench: Bench) -> bytes:
    """Its station address."""
    from ..devices.ne2000 import Ne2000
    from ..net.cable import Cable
    from ..net.mac import stable_mac

    base, irq = NE2000_CARDS[number]
    backend, name = nic.backend, f"NIC{number}"
    mac = nic.mac or stable_mac(f"{backend.station}/{name}")
    bench.cables.append(Cable(backend))
    bench.board.add(Ne2000(name, base, irq=bench.board.irq(irq), backend=bench.cables[-1], mac=mac))
    fd = backend.fileno()
    if fd is not None:
        bench.loop.on_readable(fd, partial(_poll, bench.loop, backend, fd))
    return mac


def _poll(loop: EventLoop, backend: NetBackend, fd: int) -> None:
    backend.poll()
    if backend.fileno() is None:  # it is dead, and its descriptor would be "readable" for ever
        loop.on_readable(fd, None)


KINDS = "none, loopback, unix:PATH, tap:NAME or user"
SETTINGS = ("mac=", "pcap=", "hostfwd=", "restrict=", "ipv6=")
_SWITCHES = {"on": True, "off": False}


def parse_nic(spec: str) -> Nic:
    """A NIC from `KIND[:WHERE][,SETTING=VALUE]...`: see KINDS and SETTINGS, of which user alone has the last three.

    A comma ends a value only in front of a setting, so that names of files may have commas.
    """
    from ..net.mac import parse_mac

    kind_and_where, *settings = _parts(spec)
    kind, _, where = kind_and_where.partition(":")
    mac = pcap = None
    of_user: dict[str, Any] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name == "mac":
            mac = parse_mac(value)
        elif name == "pcap" and value:
            pcap = value
        elif name == "hostfwd" and kind == "user":
            from ..net.user import parse_forward

            of_user.setdefault("forwards", []).append(parse_forward(value))
        elif name in ("restrict", "ipv6") and kind == "user" and value in _SWITCHES:
            of_user[name] = _SWITCHES[value]
        else:
            raise ConfigError(
                f"--nic {spec}: {setting!r} is neither mac=ADDRESS nor pcap=FILE, nor for user one of hostfwd=..., "
                "restrict=on|off and ipv6=on|off"
            )
    if (kind in ("unix", "tap")) != bool(where):
        raise ConfigError(f"--nic {spec}: give {KINDS}")
    backend = _backend(spec, kind, where, of_user)
    if pcap is not None:
        from ..net.pcap import Capture

        try:
            backend = Capture(backend, pcap)
        except ConfigError:
            backend.close()
            raise
    return Nic(backend, mac)


def _backend(spec: str, kind: str, where: str, of_user: dict[str, Any]) -> NetBackend:
    match kind:
        case "none":
            from ..net.loopback import NoNet

            return NoNet()
        case "loopback":
            from ..net.loopback import Loopback

            return Loopback()
        case "unix":
            from ..net.unix import UnixNet

            return UnixNet(where)
        case "tap":
            from ..net.tap import TapNet

            return TapNet(where, make=False)  # as root a typo would make one that leads nowhere
        case "user":
            from ..net.user import UserNet

            return UserNet(**of_user)
    raise ConfigError(f"--nic {spec}: there is no kind {kind!r}: give {KINDS}")


def _parts(spec: str) -> list[str]:
    """What commas separate in a --nic, without those that are in the names of files."""
    parts: list[str] = []
    for word in spec.split(","):
        named = parts and parts[-1].startswith(("unix:", "pcap=")) and not word.startswith(SETTINGS)
        if named:
            parts[-1] += f",{word}"
        else:
            parts.append(word)
    return parts


OPTION = Nics()
