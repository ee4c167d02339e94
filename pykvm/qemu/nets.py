"""QEMU's networks, -nic, -net and -netdev, as `pykvm run --nic` says them.

Source: qemu-system-x86_64(1), "Network options".
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ConfigError
from .words import is_on, settings, split

MODEL = "ne2k_isa"
Say = Callable[[str], None]
_NOT_OF_USER = ("guestfwd", "smb", "tftp", "bootfile", "net", "host", "dhcpstart", "dns")
"""Settings of QEMU's user network that the one here has not."""


def _backend(kind: str, found: dict[str, str], text: str) -> str:
    """What leads to that network, as --nic has it. `text` has all settings, of which `found` has the last of a name."""
    if kind in ("none", "hubport"):
        return "none"
    if kind == "tap":
        name = found.get("ifname")
        if not name:
            raise ConfigError("a tap needs ifname=, and must be there: `ip tuntap add mode tap NAME` makes one")
        if found.get("script", "no") != "no" or found.get("downscript", "no") != "no":
            raise ConfigError("no script is run: give script=no,downscript=no, and set the tap up before")
        return f"tap:{name}"
    if kind == "user":
        forwards = [part for part in split(text) if part.startswith("hostfwd=")]
        restricted = ["restrict=on"] if is_on("restrict", found.get("restrict", "off")) else []
        no_ipv6 = [] if is_on("ipv6", found.get("ipv6", "on")) else ["ipv6=off"]
        for name in found:
            if name in _NOT_OF_USER:
                raise ConfigError(f"{name}=: the user network is passt, which has no such thing: see docs/networks.md")
        return ",".join(["user", *forwards, *restricted, *no_ipv6])
    if kind in ("socket", "stream", "dgram"):
        raise ConfigError("a socket of QEMU's speaks another language: give a tap, or `pykvm run --nic unix:PATH`")
    raise ConfigError(f"there is no network {kind!r}: give none, user or tap")


class Nets:
    """The cards and what they lead to, as options name them one by one."""

    def __init__(self) -> None:
        self.cards: list[str] = []
        """As --nic has them."""
        self._netdevs: dict[str, str] = {}
        self._hub: list[str] = []  # -net nic: cards, before a -net TYPE says what they lead to
        self._hub_backend: str | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Nets) and self.all == other.all

    __hash__ = None  # type: ignore[assignment]  # it changes

    @property
    def all(self) -> list[str]:
        """Every card, as --nic has it."""
        return [*self.cards, *(f"{self._hub_backend or 'none'}{mac}" for mac in self._hub)]

    def nic(self, text: str, say: Say) -> None:
        """-nic"""
        found = settings(text, "type")
        kind = found.get("type", "")
        if kind != "none":
            self.cards.append(_backend(kind, found, text) + _card(found, "model", "mac", say))

    def net(self, text: str, say: Say) -> None:
        """-net: all of them are at one hub."""
        found = settings(text, "type")
        kind = found.get("type", "")
        if kind == "nic":
            if "netdev" in found:
                self.device({**found, "mac": found.get("macaddr", "")})
                return
            self._hub.append(_card(found, "model", "macaddr", say))
        elif kind != "none":
            if self._hub_backend is not None:
                raise ConfigError("a hub leads to one network")
            self._hub_backend = _backend(kind, found, text)

    def netdev(self, text: str) -> None:
        """-netdev"""
        found = settings(text, "type")
        name = found.get("id", "")
        if not name or name in self._netdevs:
            raise ConfigError(f"give an id that nothing else has: {name!r}")
        self._netdevs[name] = _backend(found.get("type", ""), found, text)

    def device(self, found: dict[str, str]) -> None:
        """-device ne2k_isa"""
        name = found.get("netdev", "")
        backend = self._netdevs.pop(name, None) if name else "none"
        if backend is None:
            raise ConfigError(f"-device {MODEL}: there is no -netdev with id={name}, or it has a card")
        self.cards.append(backend + (f",mac={found['mac']}" if found.get("mac") else ""))


def _card(found: dict[str, str], model_name: str, mac_name: str, say: Say) -> str:
    """What --nic has of a card behind its back end."""
    model = found.get(model_name, MODEL)
    if model != MODEL:
        say(f"model={model}: network cards are {MODEL}")
    return f",mac={found[mac_name]}" if mac_name in found else ""
