"""One exit of a vCPU from the guest, as data and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

KINDS = (
    "pio", "mmio", "msr", "hlt", "hypercall", "debug", "system_event", "shutdown", "internal_error", "fail_entry",
)  # fmt: skip
"""The kinds of exits that have a name here; any other has KVM's name for it, in small letters."""

SHOWN_DATA = 8
"""Bytes of a block that are shown."""


class Site(NamedTuple):
    """Where the guest was: the linear `address` of the instruction, its code and text, and the symbol it is in.

    `source` is its source line, such as "serial.c:57"; "" if nobody asked, or the image does not say.
    """

    address: int
    symbol: str
    code: bytes
    text: str
    source: str = ""

    @property
    def place(self) -> str:
        """The symbol, or else the address, with the source line."""
        place = self.symbol or f"{self.address:#x}"
        return f"{place} {self.source}" if self.source else place


@dataclass(slots=True)
class Event:
    """An exit. Times are in nanoseconds; `time` is when the guest was left, since the trace began.

    `address` is a port, a guest physical address or an MSR's number, by `kind`; None for other kinds. `value` is what
    was written, or what the guest read; of a block of `count` items of `size` bytes `data` has all of it instead.
    """

    number: int
    time: int
    cpu: int
    kind: str
    site: Site
    address: int | None = None
    size: int = 0
    count: int = 1
    is_write: bool = False
    value: int | None = None
    data: bytes = b""
    device: str = ""
    """The name of the device that answers; "" if none does."""
    register: str = ""
    """The device's register, or what is usually at the address."""
    meaning: str = ""
    run: int = 0
    """Wall-clock time of the KVM_RUN that this exit ended: the guest's own time and the kernel's."""
    run_cpu: int = 0
    """Of that, the time for which the vCPU's thread had a CPU."""
    served: int = 0
    """Wall-clock time from the exit to the next KVM_RUN: lock, device and Python, but not the tracer's own."""

    @property
    def name(self) -> str:
        """What was accessed: device and register, or what is known of the address, or the kind of exit."""
        if self.device:
            return f"{self.device} {self.register}" if self.register else self.device
        if self.kind == "pio":
            return f"port {self.address:#x}" + (f" {self.register}" if self.register else "")
        if self.kind == "mmio":
            return f"{self.address:#x}" + (f" {self.register}" if self.register else "")
        return self.register or self.kind

    @property
    def what(self) -> str:
        """The access in words, such as "COM1 THR <- 'h'"."""
        if self.address is None:
            return self.name + (f": {self.meaning}" if self.meaning else "")
        arrow = "<-" if self.is_write else "->"
        nobody = "" if self.device or self.kind == "msr" else ", unclaimed"
        if self.count > 1 or self.data:
            shown = self.data[:SHOWN_DATA].hex(" ") + (" ..." if len(self.data) > SHOWN_DATA else "")
            return f"{self.name} {arrow} {self.count} x {self.size} bytes: {shown}{nobody}"
        if self.value is None:
            return f"{self.name} {arrow} {self.meaning or '?'}{nobody}"
        if not self.meaning:
            return f"{self.name} {arrow} {self.value:#x}{nobody}"
        number = "" if self.meaning[0] in "'\"" else f" ({self.value:#x})"
        return f"{self.name} {arrow} {self.meaning}{number}{nobody}"

    def as_dict(self) -> dict[str, Any]:
        """The exit as plain values, for JSON: times in µs."""
        return {
            "number": self.number,
            "time": self.time / 1000,
            "cpu": self.cpu,
            "kind": self.kind,
            "what": self.what,
            "device": self.device or None,
            "register": self.register or None,
            "meaning": self.meaning or None,
            "address": self.address,
            "size": self.size,
            "count": self.count,
            "write": self.is_write,
            "value": self.value,
            "data": self.data.hex() if self.data else None,
            "rip": self.site.address,
            "symbol": self.site.symbol or None,
            "source": self.site.source or None,
            "code": self.site.code.hex(),
            "instruction": self.site.text or None,
            "run": self.run / 1000,
            "run_cpu": self.run_cpu / 1000,
            "served": self.served / 1000,
        }
