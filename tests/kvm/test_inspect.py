"""Looking into stopped machines: what a guest has set up is what is shown, and nothing it sets up does harm."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import HALT, LIMIT, SPIN, flat, hexcode, leaves_no_traceback, pykvm

from pykvm import Machine
from pykvm.inspect import chip_states, cpu_state, descriptor_tables, device_states, page_tables
from pykvm.x86.registers import Table
from pykvm.x86.tables import Gate, SegmentDescriptor, SystemSegment

Guest = Callable[[str], Path]
ENVELOPE = {"command", "version", "status"}


def test_a_kernel_with_user_mode_and_interrupts(guest: Guest) -> None:
    with Machine(guest("user")) as machine:
        machine.run(LIMIT)
        cpu = cpu_state(machine)
        tables = descriptor_tables(machine)
        pages = page_tables(machine)
    assert cpu.mode == "64-bit mode"
    assert cpu.symbol.startswith("poweroff")
    assert tables.gdt is not None
    kinds = {number: type(descriptor) for number, descriptor in tables.gdt.entries}
    assert kinds[8] is SegmentDescriptor
    assert SystemSegment in kinds.values()
    assert tables.idt is not None
    gates = {entry.number: entry.descriptor for entry in tables.idt.entries}
    assert len(gates) == 256
    assert isinstance(gates[14], Gate)
    assert (gates[14].kind, gates[14].bits, gates[14].selector, gates[14].problem) == ("interrupt", 64, 8, None)
    assert tables.task.tss is not None
    assert (tables.task.tss.bits, tables.task.problem) == (64, None)
    assert tables.vectors == {}
    assert any(each.user and each.executable and not each.writable for each in pages.mappings)
    assert pages.complete
    assert pages.problems == []


def test_real_mode_has_vectors() -> None:
    with flat(HALT, 16) as machine:
        machine.memory.write(0x10 * 4, bytes.fromhex("3412 00f0"))
        machine.run(LIMIT)
        tables = descriptor_tables(machine)
        assert page_tables(machine).paging == "no paging"
        assert cpu_state(machine).mode == "real mode"
    assert tables.idt is None
    assert tables.gdt is None
    assert str(tables.vectors[0x10]) == "f000:1234"


def test_devices_and_chips_are_as_the_guest_left_them() -> None:
    code = hexcode("""
        66 ba fb 03 b0 03 ee    ; COM1 LCR = 3
        b0 11 e6 20             ; PIC1 ICW1
        b0 40 e6 21             ; ICW2: vectors from 0x40
        b0 04 e6 21 b0 01 e6 21 ; ICW3, ICW4
        b0 5a e6 21             ; mask
        b0 36 e6 43             ; PIT counter 0, mode 3
        b0 34 e6 40 b0 12 e6 40 ; reload 0x1234
    """)
    with flat(code + HALT) as machine:
        machine.run(LIMIT)
        devices = {device.name: device for device in device_states(machine)}
        chips = {chip.name: chip for chip in chip_states(machine)}
    assert devices["COM1"].registers["lcr"] == 3
    assert devices["COM1"].ranges == [(0x3F8, 0x3FF)]
    assert (chips["PIC1"].registers["irq_base"], chips["PIC1"].registers["imr"]) == (0x40, 0x5A)
    assert chips["PIT"].registers["counter 0"] == f"mode 3, reload {0x1234}"
    assert chips["local APIC 0"].registers["svr"] == 0x1FF
    assert chips["local APIC 0"].ranges[0][0] == 0xFEE00000
    assert "masked" in str(chips["IOAPIC"].registers["input 4"])


def test_inspecting_changes_nothing() -> None:
    with flat(hexcode("e6 80") + SPIN) as machine:
        machine.start(LIMIT)
        machine.pause()
        before = machine.vcpus[0].get_registers(), machine.memory.read(0, machine.memory.size), machine.serial.output
        cpu_state(machine)
        descriptor_tables(machine)
        page_tables(machine)
        device_states(machine)
        chip_states(machine)
        after = machine.vcpus[0].get_registers(), machine.memory.read(0, machine.memory.size), machine.serial.output
        assert before == after
        assert not machine.memory.written
        machine.resume()


# Harm


def set_tables(machine: Machine, gdt: Table, idt: Table, cr3: int | None = None) -> None:
    system = machine.vcpus[0].get_system_registers()
    system = replace(system, gdt=gdt, idt=idt)
    if cr3 is not None:
        system = replace(system, cr3=cr3)
    machine.vcpus[0].set_system_registers(system)


def test_tables_outside_ram_are_named() -> None:
    with flat(HALT) as machine:
        set_tables(machine, Table(0xD0000000, 0xFFFF), Table(0x3FF000, 0xFFF))
        tables = descriptor_tables(machine)
        assert tables.gdt is not None
        assert tables.gdt.problem == "0xd0000000..0xd000ffff cannot be read"
        assert tables.idt is not None
        assert tables.idt.problem is None
        set_tables(machine, Table(0, 0), Table(0x3FF000, 0x1FFF))
        tables = descriptor_tables(machine)
        assert tables.idt is not None
        assert tables.idt.problem is None  # 256 vectors end with RAM
        assert tables.task.problem is not None


def test_page_tables_outside_ram_are_named() -> None:
    with flat(HALT) as machine:
        set_tables(machine, Table(0x1000, 0xFF), Table(0, 0), cr3=0x7FFFF000)
        pages = page_tables(machine)
        assert pages.mappings == []
        assert "0x7ffff000" in pages.problems[0]
        tables = descriptor_tables(machine)
        assert tables.gdt is not None
        assert tables.gdt.readable == 0


@pytest.mark.parametrize("seed", range(6))
def test_memory_full_of_anything(seed: int) -> None:
    """Descriptor and page tables of random bytes: all parts come back, bounded, and none raises."""
    source = random.Random(seed)
    with flat(HALT) as machine:
        content = bytearray(source.randbytes(1 << 16))
        if seed % 2:  # entries that are present and point into this memory: loops
            for at in range(0, len(content), 8):
                content[at : at + 8] = (source.randrange(16) << 12 | 7).to_bytes(8, "little")
        machine.memory.write(0, content)
        set_tables(
            machine,
            Table(source.randrange(1 << 16), source.randrange(1 << 16)),
            Table(source.randrange(1 << 16), source.randrange(1 << 16)),
            cr3=source.randrange(16) << 12,
        )
        cpu_state(machine)
        tables, pages = descriptor_tables(machine), page_tables(machine)
        assert tables.gdt is not None
        assert len(tables.gdt.entries) <= 8192
        assert len(pages.mappings) <= 4096
        assert len(pages.problems) <= 64


# The command


def test_the_command_shows_all_parts(guest: Guest) -> None:
    done = pykvm("inspect", guest("user"))
    assert done.returncode == 0
    text = done.stdout.decode()
    for words in ("CPU 0: runnable, 64-bit mode", "GDT at", "64-bit code, execute/read", "IDT at", "TSS", "rwx kernel",
                  "COM1 at 0x3f8-0x3ff", "PIC1", "local APIC 0"):  # fmt: skip
        assert words in text
    assert "\x1b" not in text
    assert done.stderr.startswith(b"pykvm: exited")


def test_the_command_for_programs(guest: Guest) -> None:
    done = pykvm("inspect", guest("user"), "--json")
    facts = json.loads(done.stdout)
    assert facts.keys() - ENVELOPE == {"cpu", "tables", "pages", "devices", "chips"}
    assert facts["cpu"][0]["mode"] == "64-bit mode"
    gate = facts["tables"][0]["idt"]["entries"][3]
    assert gate["number"] == 3
    assert gate["descriptor"]["dpl"] == 3
    assert "interrupt gate" in gate["descriptor"]["text"]
    assert facts["pages"][0]["mappings"][0]["linear"] == 0x1000


def test_only_some_parts(guest: Guest) -> None:
    done = pykvm("inspect", guest("hello64"), "--part", "cpu", "--json")
    assert json.loads(done.stdout).keys() - ENVELOPE == {"cpu"}


def test_at_a_moment(guest: Guest) -> None:
    done = pykvm("inspect", guest("hello64"), "--part", "cpu", "--at", "Hello")
    assert b"<serial_write" in done.stdout
    assert b"'Hello' came" in done.stderr
    done = pykvm("inspect", guest("hello64"), "--part", "cpu", "--at", "never")
    assert b"'never' did not come; exited" in done.stderr


def test_a_snapshot(guest: Guest, tmp_path: Path) -> None:
    path = tmp_path / "saved"
    assert pykvm("snapshot", guest("hello64"), path, "--at", "Hello").returncode == 0
    done = pykvm("inspect", path, "--json")
    assert json.loads(done.stdout)["cpu"][0]["mode"] == "64-bit mode"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--cpu", "1"], b"the machine has CPUs 0 to 0"),
        (["--part", "soul"], b"soul"),
        (["--at", "exits:none"], b"exits:N"),
    ],
)
def test_mistakes_are_told_in_words(guest: Guest, options: list[str], words: bytes) -> None:
    done = pykvm("inspect", guest("hello64"), *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert leaves_no_traceback([done.stderr])


def test_a_directory_that_is_no_snapshot(tmp_path: Path) -> None:
    done = pykvm("inspect", tmp_path)
    assert done.returncode == 2
    assert leaves_no_traceback([done.stderr])
