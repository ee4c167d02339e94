"""The registers that gdb is shown: numbers and sizes as gdb's own i386 features have them, and the XML."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any, cast

import pytest

from pykvm.debug.control import Control
from pykvm.debug.gdb.registers import CpuRegisters, RegisterError, layout
from pykvm.debug.gdb.target import description
from pykvm.x86.registers import CR0_PE, EFER_LMA, Registers, Segment, SystemRegisters

ARCHITECTURES = ("i386:x86-64", "i386", "i8086")


class Parts:
    """A stopped CPU's state, without a machine around it."""

    def __init__(self, general: Registers, system: SystemRegisters) -> None:
        self.general, self.system = general, system
        self.area = bytes(576)
        self.msrs = {0xC0000102: 0x1234}

    def registers(self, _cpu: int) -> Registers:
        return self.general

    def set_registers(self, _cpu: int, registers: Registers) -> None:
        self.general = registers

    def system_registers(self, _cpu: int) -> SystemRegisters:
        return self.system

    def set_system_registers(self, _cpu: int, system: SystemRegisters) -> None:
        self.system = system

    def xsave(self, _cpu: int) -> bytes:
        return self.area

    def set_xsave(self, _cpu: int, area: bytes) -> None:
        self.area = area

    def msr(self, _cpu: int, index: int) -> int | None:
        return self.msrs.get(index)


def cpu(**system: Any) -> tuple[Parts, CpuRegisters]:
    parts = Parts(Registers(rax=0x1122334455667788, rip=0x10), SystemRegisters(**system))
    return parts, CpuRegisters(cast("Control", parts), 0)


def number(architecture: str, name: str) -> int:
    return [register.name for register in layout(architecture).registers].index(name)


def read(architecture: str, name: str, state: CpuRegisters) -> int:
    data = layout(architecture).registers[number(architecture, name)].read(state)
    assert data is not None
    return int.from_bytes(data, "little")


def write(architecture: str, name: str, state: CpuRegisters, value: int) -> None:
    register = layout(architecture).registers[number(architecture, name)]
    register.write(state, value.to_bytes(register.bits // 8, "little"))


def test_numbers_are_those_of_gdb() -> None:
    # gdb's enum amd64_regnum and enum i386_regnum.
    for name, at in {
        "rax": 0, "rbx": 1, "rcx": 2, "rdx": 3, "rsi": 4, "rdi": 5, "rbp": 6, "rsp": 7, "r8": 8, "r15": 15, "rip": 16,
        "eflags": 17, "cs": 18, "ss": 19, "ds": 20, "es": 21, "fs": 22, "gs": 23, "st0": 24, "fctrl": 32, "fop": 39,
        "xmm0": 40, "xmm15": 55, "mxcsr": 56,
    }.items():  # fmt: skip
        assert number("i386:x86-64", name) == at
    for name, at in {
        "eax": 0, "ecx": 1, "edx": 2, "ebx": 3, "esp": 4, "ebp": 5, "esi": 6, "edi": 7, "eip": 8, "eflags": 9, "cs": 10,
        "gs": 15, "st0": 16, "fctrl": 24, "xmm0": 32, "xmm7": 39, "mxcsr": 40,
    }.items():  # fmt: skip
        assert number("i386", name) == number("i8086", name) == at


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_description_lists_the_registers_in_their_order(architecture: str) -> None:
    root = ElementTree.fromstring(description(architecture).decode())
    assert root.findtext("architecture") == architecture
    listed = [(node.get("name"), int(node.get("bitsize", "0"))) for node in root.iter("reg")]
    assert listed == [(register.name, register.bits) for register in layout(architecture).registers]
    assert len({name for name, _ in listed}) == len(listed)
    defined = {node.get("id") for kind in ("flags", "union", "vector") for node in root.iter(kind)}
    builtin = {"int", "code_ptr", "data_ptr", "i387_ext", *(f"{u}int{n}" for u in ("", "u") for n in (32, 64))}
    assert {node.get("type") for node in root.iter("reg")} <= defined | builtin


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_read_at_once_comes_first(architecture: str) -> None:
    flags = [register.in_block for register in layout(architecture).registers]
    assert flags == sorted(flags, reverse=True)


def test_an_unknown_architecture() -> None:
    with pytest.raises(ValueError, match="vax"):
        layout("vax")


def test_general_registers_have_their_width() -> None:
    _, state = cpu()
    assert read("i386:x86-64", "rax", state) == 0x1122334455667788
    assert read("i386", "eax", state) == 0x55667788


@pytest.mark.parametrize(
    ("system", "rip"),
    [
        (SystemRegisters(cs=Segment(base=0x7C00, selector=0x7C0)), 0x7C10),
        (SystemRegisters(cs=Segment(base=0xFFFF0000), cr0=CR0_PE), 0xFFFF0010),
        (SystemRegisters(cs=Segment(base=0x7C00, l=1), efer=EFER_LMA, cr0=CR0_PE), 0x10),
    ],
)
def test_the_program_counter_is_linear(system: SystemRegisters, rip: int) -> None:
    parts = Parts(Registers(rip=0x10), system)
    state = CpuRegisters(cast("Control", parts), 0)
    assert read("i386:x86-64", "rip", state) == rip
    write("i386:x86-64", "rip", state, rip + 4)
    assert parts.general.rip == 0x14


def test_selectors_are_loaded_in_real_mode_only() -> None:
    parts, state = cpu()
    write("i8086", "ds", state, 0x1234)
    assert (parts.system.ds.selector, parts.system.ds.base) == (0x1234, 0x12340)
    parts, state = cpu(cr0=CR0_PE)
    with pytest.raises(RegisterError, match="ds"):
        write("i386", "ds", state, 0x10)
    write("i386", "ds", state, 0)  # as it is


def test_control_registers_and_msrs() -> None:
    parts, state = cpu(cr0=0x11)
    assert read("i386:x86-64", "cr0", state) == 0x11
    write("i386:x86-64", "cr3", state, 0x5000)
    assert parts.system.cr3 == 0x5000
    assert read("i386:x86-64", "k_gs_base", state) == 0x1234
    lstar = layout("i386:x86-64").registers[number("i386:x86-64", "lstar")]
    assert lstar.read(state) is None  # this CPU has none


def test_vector_registers() -> None:
    # SDM volume 1, 10.5.1: XMM3 at 160 + 3 * 16, MXCSR at 24; 13.4.2: XSTATE_BV at 512, bit 1 is SSE.
    parts, state = cpu()
    write("i386:x86-64", "xmm3", state, 0x0F0E0D0C0B0A09080706050403020100)
    write("i386:x86-64", "mxcsr", state, 0x1F80)
    assert parts.area[208:224] == bytes(range(16))
    assert parts.area[24:28] == b"\x80\x1f\0\0"
    assert parts.area[512] == 2


def test_the_tag_word() -> None:
    # Three values pushed: top is 5. st0 (physical 5) is 1.0, st1 (6) is 0, st2 (7) is infinity; the others are empty.
    parts, state = cpu()
    area = bytearray(576)
    area[2:4] = (5 << 11).to_bytes(2, "little")
    area[4] = 0b1110_0000
    area[32:42] = bytes.fromhex("0000000000000080ff3f")
    area[64:74] = bytes.fromhex("0000000000000080ff7f")
    parts.area = bytes(area)
    assert read("i386", "st0", state) == 0x3FFF8000000000000000
    assert read("i386", "ftag", state) == 0b10_01_00_11_11_11_11_11
    write("i386", "ftag", state, 0xFFFF)
    assert parts.area[4] == 0


def test_a_value_of_the_wrong_size() -> None:
    _, state = cpu()
    with pytest.raises(RegisterError, match="8 bytes, not 4"):
        layout("i386:x86-64").registers[0].write(state, bytes(4))
