"""What `info` tells, in QEMU's layouts. Those that look at CPUs do it with all of them out of the guest.

Source: QEMU's documentation, "QEMU Monitor", and what QEMU 7.2 prints.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator

from .. import __version__
from ..errors import PykvmError
from ..kvm import chips
from ..typed import TYPE_CHECKING, NamedTuple
from ..x86.paging import PAE, PAGE_MASK, PTE_NX, PTE_P, PTE_PS, PTE_RW, PTE_US, Structure, page_frame, structure_of
from .registers import registers

if TYPE_CHECKING:
    from ..x86.registers import SystemRegisters
    from .system import System

TABLES_MOST = PAGES_LISTED = 1 << 14
PAGES_MOST = 1 << 19
"""Tables that are read, pages that `info tlb` lists, and pages that `info mem` looks at."""
_PTE_BITS = (("G", 8), ("P", 7), ("D", 6), ("A", 5), ("C", 4), ("T", 3), ("U", 2), ("W", 1))
VERSION = (7, 2, 0)
"""The version of QEMU whose monitors these are like, as scripts ask for it."""
NO_UUID = "00000000-0000-0000-0000-000000000000"
_DELIVERY = ("fixed", "lowest", "SMI", "...", "NMI", "INIT", "...", "extINT")


def version(system: System, cpu: int) -> str:
    """show the version"""
    return f"{'.'.join(map(str, VERSION))} (pykvm {__version__})\n"


def status(system: System, cpu: int) -> str:
    """show whether the guest runs"""
    state = system.state
    words = state if state in ("running", "paused") else f"paused ({state})"
    return f"VM status: {words}\n"


def all_registers(system: System, cpu: int) -> str:
    """show the CPU's registers; -a of all CPUs"""
    return f"\nCPU#{cpu}\n{registers(system.machine, cpu)}"


def cpus(system: System, cpu: int) -> str:
    """list the CPUs"""
    numbers = range(len(system.machine.vcpus))
    return "".join(f"{'*' if number == cpu else ' '} CPU #{number}: thread_id={os.getpid()}\n" for number in numbers)


class Page(NamedTuple):
    """A page as the tables have it, with the rights that all levels give together."""

    linear: int
    physical: int
    size: int
    entry: int
    writable: bool
    user: bool


def pages(read: Callable[[int, int], bytes], system: SystemRegisters) -> Iterator[Page]:
    """Every page that is mapped, by rising address; at most `TABLES_MOST` tables are read."""
    structure = structure_of(system)
    if structure is not None:
        yield from _table(read, structure, [TABLES_MOST], system.cr3 & structure.root_mask, 0, 0, True, True)


def _table(
    read: Callable[[int, int], bytes],
    kind: Structure,
    left: list[int],
    table: int,
    depth: int,
    linear: int,
    writable: bool,
    user: bool,
) -> Iterator[Page]:
    level = kind.levels[depth]
    left[0] -= 1
    if left[0] < 0:
        return
    try:
        raw = read(table, kind.entry_size << level.width)
    except PykvmError:
        return
    for index, (entry,) in enumerate(struct.iter_unpack("<Q" if kind.entry_size == 8 else "<I", raw)):
        if not entry & PTE_P:
            continue
        rights = (writable, user)
        if kind is not PAE or depth:  # a PAE PDPTE has none
            rights = (writable and bool(entry & PTE_RW), user and bool(entry & PTE_US))
        here = linear | index << level.shift
        if depth < len(kind.levels) - 1 and not (level.leaf and entry & PTE_PS):
            yield from _table(read, kind, left, entry & PAGE_MASK, depth + 1, here, *rights)
            continue
        top = kind.levels[0].shift + kind.levels[0].width
        if top > 32 and here >> (top - 1) & 1 and kind is not PAE:
            here |= (1 << 64) - (1 << top)
        yield Page(here, page_frame(kind, level, entry), 1 << level.shift, entry, *rights)


def tlb(system: System, cpu: int) -> str:
    """show what the page tables map, page by page"""
    found = system.machine.vcpus[cpu].get_system_registers()
    if structure_of(found) is None:
        return "PG disabled\n"
    lines: list[str] = []
    for page in pages(system.machine.memory.read, found):
        if len(lines) == PAGES_LISTED:
            lines.append(f"... more than {PAGES_LISTED} pages")
            break
        # Bit 7 tells of a large page, in its entry alone: in a PTE it is PAT.
        flags = "".join(
            letter if page.entry >> bit & 1 and (bit != 7 or page.size > 4096) else "-" for letter, bit in _PTE_BITS
        )
        lines.append(f"{page.linear:016x}: {page.physical:016x} {'X' if page.entry & PTE_NX else '-'}{flags}")
    return "".join(f"{line}\n" for line in lines)


def mem(system: System, cpu: int) -> str:
    """show what the page tables map, in ranges"""
    found = system.machine.vcpus[cpu].get_system_registers()
    if structure_of(found) is None:
        return "PG disabled\n"
    ranges: list[list[int]] = []
    rights: list[str] = []
    for number, page in enumerate(pages(system.machine.memory.read, found)):
        mode = f"{'u' if page.user else '-'}r{'w' if page.writable else '-'}"
        if number == PAGES_MOST:
            break
        if ranges and ranges[-1][1] == page.linear and rights[-1] == mode:
            ranges[-1][1] += page.size
        else:
            ranges.append([page.linear, page.linear + page.size])
            rights.append(mode)
    return "".join(
        f"{start:016x}-{end:016x} {end - start:016x} {mode}\n"
        for (start, end), mode in zip(ranges, rights, strict=True)
    )


def block(system: System, cpu: int) -> str:
    """list the drives"""
    shown = []
    for number, (name, drive) in enumerate(system.places.all):
        if drive.file is None:
            lines = [f"{name}: [not inserted]"]
        else:
            lines = [f"{name} (#block{number}): {drive.file} ({drive.driver}{', read-only' if drive.readonly else ''})"]
        if drive.media == "cdrom" or drive.interface == "floppy":
            lines.append("    Removable device: not locked, tray closed")
        if drive.file:
            lines.append("    Cache mode:       writeback")
        if drive.snapshot:
            lines.append(f"    Backing file:     {drive.file} (chain depth: 1)")
        shown.append("".join(f"{line}\n" for line in lines))
    return "\n".join(shown)


def network(system: System, cpu: int) -> str:
    """list the network cards"""
    lines = []
    macs: list[bytes] = system.machine.pc.options["nics"]
    for number, (mac, spec) in enumerate(zip(macs, system.settings.nets.all, strict=False)):
        lines.append(f"ne2k_isa.{number}: index=0,type=nic,model=ne2k_isa,macaddr={mac.hex(':')}")
        kind = spec.split(",")[0]
        if kind != "none":
            lines.append(f" \\ {kind}: index=0,type={kind.partition(':')[0]}")
    return "".join(f"{line}\n" for line in lines)


def pic(system: System, cpu: int) -> str:
    """show the interrupt controllers"""
    vm = system.engine.board.vm
    found = chips.ioapic(vm)
    lines = [f"ioapic0: ver=0x11 id={found.id:#04x} sel={found.ioregsel:#04x}"]
    for pin, entry in enumerate(found.redirections):
        words = [
            f"  pin {pin:<2} 0x{entry:016x} dest={entry >> 56:x} vec={entry & 0xFF:<3}",
            "active-lo" if entry >> 13 & 1 else "active-hi",
            "level" if entry >> 15 & 1 else "edge ",
            "masked" if entry >> 16 & 1 else "      ",
            f"{_DELIVERY[entry >> 8 & 7]:<6}",
            "logical" if entry >> 11 & 1 else "physical",
        ]
        lines.append(" ".join(words))
    waiting = " ".join(str(pin) for pin in range(24) if found.irr >> pin & 1)
    remote = " ".join(str(pin) for pin, entry in enumerate(found.redirections) if entry >> 14 & 1)
    lines.append(f"  IRR      {waiting or '(none)'}")
    lines.append(f"  Remote IRR {remote or '(none)'}")
    for number, chip in reversed(list(enumerate(chips.pics(vm)))):
        lines.append(
            f"pic{number}: irr={chip.irr:02x} imr={chip.imr:02x} isr={chip.isr:02x} hprio=0 "
            f"irq_base={chip.irq_base:02x} rr_sel=0 elcr={chip.elcr:02x} fnm=0"
        )
    return "".join(f"{line}\n" for line in lines)


def name(system: System, cpu: int) -> str:
    """show the machine's name"""
    return f"{system.settings.name}\n" if system.settings.name else ""


def uuid(system: System, cpu: int) -> str:
    """show the machine's UUID"""
    return f"{system.settings.uuid or NO_UUID}\n"


def kvm(system: System, cpu: int) -> str:
    """show whether KVM is used"""
    return "kvm support: enabled\n"


def snapshots(system: System, cpu: int) -> str:
    """list what savevm has kept"""
    if not system.snapshots:
        return "There is no snapshot available.\n"
    lines = ["List of snapshots present in this process:", "ID        TAG"]
    lines += [f"{number:<10}{tag}" for number, tag in enumerate(system.snapshots, 1)]
    return "".join(f"{line}\n" for line in lines)


def qtree(system: System, cpu: int) -> str:
    """list the devices with their addresses"""
    lines = ["bus: main-system-bus"]
    board = system.engine.board
    spans = [(device, device.ports, "isa") for device in board.ports.devices]
    spans += [(device, device.mmio, "mmio") for device in board.mmio.devices]
    for device, ranges, kind in spans:
        lines.append(f'  dev: {device.display_name}, id ""')
        lines += [f"    {kind} {span.base:016x}/{span.length:016x}" for span in ranges]
    return "".join(f"{line}\n" for line in lines)


INFO: dict[str, Callable[[System, int], str]] = {
    "block": block, "cpus": cpus, "kvm": kvm, "mem": mem, "name": name, "network": network, "pic": pic, "qtree": qtree,
    "registers": all_registers, "snapshots": snapshots, "status": status, "tlb": tlb, "uuid": uuid, "version": version,
}  # fmt: skip
"""By what stands behind `info`; the docstring is the help."""
