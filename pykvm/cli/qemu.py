"""QEMU's options, which begin with one dash, and what does the same here: POSIX reads `-hda` as -h, -d and -a."""

from __future__ import annotations

from collections.abc import Container

_DISK, _NIC = "give '--disk FILE'", "give '--nic KIND'"
_NOT_NEEDED = "leave it out: it is always so"

ANSWERS = {
    "accel": _NOT_NEEDED, "enable-kvm": _NOT_NEEDED, "nographic": "leave it out: COM1 is on this terminal",
    "no-acpi": "leave it out",
    "bios": "give '--firmware FILE'", "boot": "leave it out: the floppy, the first disk or the CD is started",
    "cdrom": "give '--cdrom FILE', or the image alone to start from it",
    "D": "'pykvm trace' shows what the guest does",
    "M": "leave it out: there is one kind of machine", "S": "give '--gdb', which waits for a debugger",
    "cpu": "leave it out: the guest has the host's CPU", "debugcon": "leave it out: port 0xE9 is always there",
    "device": "give '--disk' or '--nic'; the exit port 0xF4 is always there",
    "drive": _DISK, "hda": _DISK, "hdb": _DISK, "hdc": _DISK, "hdd": _DISK,
    "fda": "give '--floppy FILE'", "kernel": "give the image alone, as the operand KERNEL",
    "machine": "leave it out: there is one kind of machine", "monitor": "leave it out: Ctrl-A X leaves",
    "net": _NIC, "netdev": _NIC, "no-shutdown": "leave it out", "serial": "leave it out: COM1 is on this terminal",
    "s": "give '--gdb'",
    "smp": "give '--cpus N'", "snapshot": "give '--disk FILE,discard'",
    "vga": "give '--display terminal' for the text screen",
}  # fmt: skip


def answer(word: str, known: Container[str]) -> str | None:
    """What to give in place of `word`, such as "-hda", where it is an option of QEMU's, or a long one of the `known`
    with a dash too few; None if it is neither."""
    name = word[1:].partition("=")[0]
    if f"--{name}" in known:
        return f"give '--{name}'"
    return ANSWERS.get(name)
