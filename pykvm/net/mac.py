"""Station addresses (IEEE 802-2014, section 8): their text form, and defaults that need no registry."""

from __future__ import annotations

import hashlib
import re

from ..errors import ConfigError

_TEXT = re.compile(r"[0-9a-fA-F]{1,2}(?:([:-])[0-9a-fA-F]{1,2}(?:\1[0-9a-fA-F]{1,2}){4})")


def parse_mac(text: str) -> bytes:
    """The six bytes of `52:54:00:12:34:56` or `52-54-00-12-34-56`.

    ConfigError for anything else, and for what no single station can have: a group address or all zeros.
    """
    if _TEXT.fullmatch(text) is None:
        raise ConfigError(f"{text!r} is not a MAC address: give six hex bytes, such as 52:54:00:12:34:56")
    mac = bytes(int(part, 16) for part in re.split("[:-]", text))
    if mac[0] & 1 or not any(mac):
        raise ConfigError(f"{text} cannot be a station's MAC address: the first byte must be even, and not all zero")
    return mac


def format_mac(mac: bytes) -> str:
    """`52:54:00:12:34:56`."""
    return mac.hex(":")


def stable_mac(seed: str) -> bytes:
    """A locally administered address that is always the same for the same `seed`.

    Two stations on one wire must differ, so the seed has to name more than the NIC: the machine, or its end of the
    wire, too.
    """
    return b"\x52\x54\x00" + hashlib.sha256(seed.encode("utf-8", "surrogateescape")).digest()[:3]
