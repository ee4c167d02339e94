"""The features of a CPU that a snapshot needs its host to have: bits that CPUID showed the guest, and that were real.

Source: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; Documentation/virt/kvm/x86/cpuid.rst for 0x40000001. A
bit that somebody showed the guest though KVM did not offer it is not asked for elsewhere either.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..x86.cpuid import CpuidEntry
from .errors import SnapshotError

LEAVES = ((0x1, 0, "ecx edx"), (0x7, 0, "ebx ecx edx"), (0x7, 1, "eax"), (0xD, 0, "eax edx"), (0xD, 1, "eax"),
          (0x40000001, 0, "eax"), (0x80000001, 0, "ecx edx"), (0x80000007, 0, "edx"),
          (0x80000008, 0, "ebx"))  # fmt: skip
"""The leaves whose bits are features: (function, index, registers)."""
OSXSAVE = 1 << 27
"""Of leaf 1, ECX: no feature, but what the operating system has done with one."""

Features = dict[str, int]
"""Bits by leaf and register, such as "0x1.0 ecx"."""


def features(entries: Iterable[CpuidEntry]) -> Features:
    """All feature bits in these leaves."""
    leaves = {(entry.function, entry.index): entry for entry in entries}
    found = {}
    for function, index, registers in LEAVES:
        leaf = leaves.get((function, index))
        for register in registers.split() if leaf is not None else ():
            found[f"{function:#x}.{index} {register}"] = getattr(leaf, register)
    if "0x1.0 ecx" in found:
        found["0x1.0 ecx"] &= ~OSXSAVE
    return found


def as_plain(bits: Features) -> dict[str, str]:
    """For a file: the bits in hexadecimal."""
    return {name: f"{value:#x}" for name, value in bits.items()}


def from_plain(state: dict[str, Any]) -> Features:
    """Take back what `as_plain` returned; ValueError for anything else."""
    names = {f"{function:#x}.{index} {register}" for function, index, all_of in LEAVES for register in all_of.split()}
    if not state.keys() <= names or not all(type(value) is str for value in state.values()):
        raise ValueError("the CPU's features are not named by leaf and register")
    return {name: int(value, 16) for name, value in state.items()}


def both(some: Features, others: Features) -> Features:
    """The bits that are in both."""
    return {name: bits & others.get(name, 0) for name, bits in some.items()}


def check(needed: Features, offered: Features) -> None:
    """SnapshotError that names the first bits that are needed and not offered."""
    for name, bits in needed.items():
        if missing := bits & ~offered.get(name, 0):
            raise SnapshotError(
                f"this host's CPU lacks what the guest was shown in CPUID leaf {name}: bits {missing:#x}"
            )
